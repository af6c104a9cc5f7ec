"""Random networks of finite width on finitely many samples, and the flows they tend to: three labelled datasets.

    random_flows    the coupled system from random starts
    orbit_flows     from the mean start, by the orbit reduction, on any number of samples up to the population
    diagram         the same over numbers of samples and lengths of sentences, for long times

Unique random words throughout, so a training set is its n and L, but for the words' names. Time is S0 t, S0 = sigma1^2 m m1 the mean of S at the start.
All three follow their members as one ensemble. sigma1 = 1 / sqrt(m1), and sigma0 falls with the width as m^-exponent:

    exponent 1/2    the theorems' sigma0 = 1 / (2 sqrt(L m)): G(0) ~ sigma0 sigma1 sqrt(m m1) does not shrink
    exponent 1      the same at the smallest width, and smaller by another 1/sqrt(m) at the others
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, PRNGKeyArray

from gradflow.dynamics import Trajectory, gradient_flow
from gradflow.dynamics.ensemble import ensemble_flow
from gradflow.models import coupled, orbits
from gradflow.models.cooccurrence import paper_scales
from gradflow.models.coupled import Coupled, Width
from gradflow.observe.cooccurrence import SIGNALS, WORD_NAMES
from gradflow.observe.phases import all_positive_from
from gradflow.tasks.cooccurrence import CLASS_NAMES, CLASS_SHARES, CoOccurrence, least_vocabulary

EXPONENTS = (0.5, 1.0)
POPULATION = np.inf
TIGHT = 1e-11  # tolerance, below what n = 6 000 000 samples leave of the distance to the population


def random_flows(
    key: PRNGKeyArray,
    *,
    sentences: Sequence[int],
    L: int,
    m1: int,
    widths: Sequence[int],
    seeds: int,
    times: np.ndarray,
) -> xr.Dataset:
    """G, A and loss over (samples, exponent, width, seed, time).

    A network on fewer samples is the one on more, with fewer words; and the exponents share their random numbers.
    """
    d = least_vocabulary(max(sentences), L)
    keys = {m: jax.random.split(jax.random.fold_in(key, m), seeds) for m in widths}

    def networks(exponent, m):
        sigma0 = _sigma0(exponent, m, L, m1, min(widths))
        return jax.vmap(lambda key: coupled.draw(key, m=m, m1=m1, d=d, L=L, sigma0=sigma0))(keys[m])

    drawn = [networks(exponent, m) for exponent in EXPONENTS for m in widths]
    states = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)
    m = np.tile(np.repeat(np.array(widths, float), seeds), len(EXPONENTS))
    coords = {"exponent": list(EXPONENTS), "width": list(widths), "seed": np.arange(seeds)}
    parts = []
    for n in sentences:
        words = slice(least_vocabulary(n, L))
        fewer = jax.tree.map(lambda leaf: leaf[(slice(None), *[words] * (leaf.ndim - 1))], states)
        batch = CoOccurrence(n, L, words.stop).sample(key)
        batches = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (m.size, *leaf.shape)), batch)
        run = _followed(coupled, fewer, batches, m, m1, times, Seen(coupled.loss))
        parts.append(_labelled(run.states, {**coords, "time": times}))
    samples = xr.Variable("samples", np.array(sentences, float), _described(_COORDS["samples"]))
    return xr.concat(parts, samples).assign_attrs(L=L, m1=m1)


def orbit_flows(
    *, samples: Sequence[float], L: int, m1: int, widths: Sequence[int], times: np.ndarray, checked: int
) -> xr.Dataset:
    """G, A and loss over (exponent, width, samples, time), and how exact they are, from one member of `checked` samples.

    coupled_distance    largest difference from the coupled system on its words at the end, relative to each variable
    orbit_spread        how far that has left its orbits
    """
    members = [(exponent, m, n) for exponent in EXPONENTS for m in widths for n in samples]

    def start(exponent, m, d=orbits.WORDS):
        sigma0 = _sigma0(exponent, m, L, m1, min(widths))
        return coupled.infinite_width_start(m=m, m1=m1, d=d, L=L, sigma0=sigma0)

    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(start(exponent, m) for exponent, m, _ in members))
    _, m, n = np.array(members, float).T
    run = _followed(orbits, states, orbits.classes(n, L), m, m1, times, Seen(orbits.loss), method="dopri8", rtol=TIGHT)
    coords = {"exponent": list(EXPONENTS), "width": list(widths), "samples": list(samples), "time": times}
    labelled = _labelled(run.states, coords).assign_attrs(L=L, m1=m1)

    first, d = (EXPONENTS[0], widths[0], checked), least_vocabulary(checked, L)
    of_orbits = jax.tree.map(lambda leaf: jnp.asarray(leaf[members.index(first)]), run.final)
    batch, width = CoOccurrence(checked, L, d).sample(jax.random.key(0)), Width(float(widths[0]), float(m1))
    whole = gradient_flow(
        coupled.loss, start(*first[:2], d), batch, width,
        times=times[[0, -1]] / widths[0], field=coupled.field, method="DOP853", rtol=TIGHT,
    )  # fmt: skip
    whole.require_complete()
    distance = _apart(whole.final, orbits.expand(of_orbits, batch, d))
    spread = _apart(whole.final, orbits.expand(orbits.reduce(whole.final, batch), batch, d))
    return labelled.assign(
        coupled_distance=((), distance, _described("largest relative difference from the coupled system at the end")),
        orbit_spread=((), spread, _described("largest relative spread of the coupled system within its orbits")),
    )


def diagram(*, samples: Sequence[int], lengths: Sequence[int], m: int, m1: int, times: np.ndarray) -> xr.Dataset:
    """Gradients by class, as shares of n, over (samples, L, time), R, and T1, from which on every sample is right."""
    n, L = (grid.ravel() for grid in np.meshgrid(samples, lengths, indexing="ij"))
    starts = [coupled.infinite_width_start(m=m, m1=m1, d=orbits.WORDS, L=int(length)) for length in L]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    run = _followed(orbits, states, orbits.classes(n, L), np.full(n.size, float(m)), m1, times, _margins, rtol=1e-7)
    margin = np.moveaxis(run.states, 0, 1)
    s = CLASS_SHARES / (1 + np.exp(margin))
    R = (s[..., 1] + s[..., 2] + s[..., 3] - s[..., 0]) / (s[..., 0] - s[..., 1])
    T1 = np.array([all_positive_from(times, of_member).time for of_member in margin])
    coords = {"samples": list(samples), "L": list(lengths), "time": times, "sentence_class": list(CLASS_NAMES)}
    grid = (len(samples), len(lengths))
    return xr.Dataset(
        {
            "gradient_share_by_class": (
                ("samples", "L", "time", "sentence_class"),
                s.reshape(*grid, *s.shape[1:]),
                _described("s_k / n, mean over the training set of g_i in class k"),
            ),
            "R": (("samples", "L", "time"), R.reshape(*grid, -1), _described("(s2 + s3 + s4 - s1) / (s1 - s2)")),
            "T1": (("samples", "L"), T1.reshape(grid), _described("S0 t from which on every sample is right")),
        },
        {name: (name, values, _described(_COORDS[name])) for name, values in coords.items()},
        {"m": m, "m1": m1},
    )


def distance(one: xr.Dataset, other: xr.Dataset, quantity: str) -> xr.DataArray:
    """The largest distance over time, in the Euclidean norm over signals; that of A relative to the largest change of `other`."""
    apart = _length(one[quantity] - other[quantity]).max("time")
    return apart / _length(other[quantity]).max("time") if quantity == "change_A" else apart


def _length(values: xr.DataArray) -> xr.DataArray:
    return (values**2).sum([dim for dim in values.dims if "signal" in dim]) ** 0.5


def _sigma0(exponent: float, m: int, L: int, m1: int, narrowest: int) -> float:
    return paper_scales(m, m1, L)[0] * (narrowest / m) ** (exponent - 0.5)


class Seen(eqx.Module):
    """What is kept of every member, for `ensemble_flow(save=...)`."""

    loss: Callable

    def __call__(self, states: Coupled, units: Array, *data) -> dict[str, Array]:
        loss = jax.vmap(self.loss)(states, *data)
        return {"G": states.G[:, SIGNALS], "A": states.A[:, SIGNALS, SIGNALS], "loss": loss}


def _margins(states: Coupled, units: Array, sizes: orbits.Classes, width: Width) -> Array:
    return jax.vmap(orbits.class_margins)(states, sizes, width)


def _followed(model, states, data, m: np.ndarray, m1: int, times: np.ndarray, save: Callable, **solver) -> Trajectory:
    """An ensemble of `model`, a module with a loss and a field, each member in units of 1 / S0 = 1 / m."""
    run = ensemble_flow(
        model.loss, states, data, Width(m, np.full(m.size, float(m1))),
        units=1 / m, times=times, field=model.field, save=save, **solver,
    )  # fmt: skip
    return run.require_complete()


def _apart(one: Coupled, other: Coupled) -> float:
    """The largest difference, relative to the largest entry of each variable."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(jnp.abs(a - b).max() / jnp.abs(a).max()) for a, b in pairs)


_COORDS = {
    "exponent": "sigma0 falls with the width as m^-exponent",
    "width": "attention width m",
    "samples": "training sentences n; inf is the population",
    "L": "words in a sentence",
    "seed": "of the network",
    "time": "S0 t, time in units of the readout's mean initial rate",
    "signal": "word",
    "key_signal": "word",
    "query_signal": "word",
    "sentence_class": "class of sentences",
}
_SEEN = {
    "G": (("signal",), "linear MLP output of a signal, G(mu) = sum_j a_j w_j^T W_V mu"),
    "change_A": (("key_signal", "query_signal"), "change since the start of mu_key^T W_K^T W_Q mu_query"),
    "loss": ((), "training loss"),
}


def _labelled(seen: dict[str, np.ndarray], coords: dict) -> xr.Dataset:
    """What `Seen` kept, (time, member, ...), with its members laid out over `coords`, of which time is the last."""
    seen = seen | {"change_A": seen["A"] - seen["A"][0]}
    shape = [len(values) for values in coords.values()]
    variables = {
        name: ((*coords, *dims), np.moveaxis(seen[name], 0, 1).reshape(*shape, *seen[name].shape[2:]), _described(text))
        for name, (dims, text) in _SEEN.items()
    }
    words = {name: list(WORD_NAMES) for name in ("signal", "key_signal", "query_signal")}
    named = {name: (name, values, _described(_COORDS[name])) for name, values in (coords | words).items()}
    return xr.Dataset(variables, named)


def _described(long_name: str) -> dict[str, str]:
    return {"long_name": long_name, "units": "1"}
