"""What attention does for the loss: each member of an ensemble trained twice, with attention and without, and each matrix's work.

The loss falls by dLoss/dt = -(|dW|^2 + |dW_V|^2 + |dW_K|^2 + |dW_Q|^2), so the integral of each term is the work of its
matrix, and the four add up to the fall of the loss. What would have become of the loss without attention is another question: it
is answered by freezing W_K and W_Q at their start. Members are orbit states of the co-occurrence model from the mean start.
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from gradflow.dynamics import gradient_flow, progress
from gradflow.dynamics.ensemble import ensemble_flow
from gradflow.interventions.rates import OwnRate
from gradflow.models import coupled, orbits
from gradflow.models.cooccurrence import entry_scales
from gradflow.models.coupled import Coupled, Width
from gradflow.models.groups import Groups, groups, readout_rate, scales
from gradflow.models.orbits import Classes
from gradflow.tasks.cooccurrence import CLASS_NAMES, CLASS_SHARES, CoOccurrence

MATRICES = ("W", "W_V", "W_K", "W_Q")
SIGNALS = ("mu1", "mu2", "mu3")


class Worked(eqx.Module):
    """An orbit state and the work that each matrix has done so far."""

    state: Coupled
    work: Float[Array, " 4"]


ATTENTION = ("A", "Gamma_K", "Gamma_Q")
_orbits_with_rate = OwnRate(orbits.loss, orbits.field, ATTENTION)
_coupled_with_rate = OwnRate(coupled.loss, coupled.field, ATTENTION)


def worked_loss(worked: Worked, sizes: Classes, width: Width, rate: Float[Array, ""]) -> Float[Array, ""]:
    """The loss of the orbit state."""
    return orbits.loss(worked.state, sizes, width)


def worked_field(
    worked: Worked, sizes: Classes, width: Width, rate: Float[Array, ""]
) -> tuple[Worked, Float[Array, ""]]:
    """The flow of the orbit state with attention at a rate of its own, 1 or 0, and the power of each matrix."""
    moving, fall = _orbits_with_rate(worked.state, sizes, width, rate)
    return Worked(moving, orbits.powers(worked.state, sizes, width) * jnp.stack([1.0, 1.0, rate, rate])), fall


def with_and_without(
    given: Groups, L: float, *, times: Float[np.ndarray, " T"], n=np.inf, m1=1.0, rtol: float = 1e-5
) -> xr.Dataset:
    """Train members with these numbers (see `models.groups`), arrays of one length, with attention and with attention frozen.

    times   in the readout's clock of each member, the first is 0
    n       training sentences, for all or for each; if all are inf, the population, states are smaller
    m1      the choice of m1, for all or for each, which makes no difference to what is returned

    Returns a dataset over (time, member): loss, loss_frozen, loss_by_class, loss_by_class_frozen, score (changes of A / sqrt(m)
    among the signals) and work by matrix. Raises `InputError` where a flow does not end well.
    """
    given = Groups(*np.broadcast_arrays(*map(np.atleast_1d, given)))
    m1, n = (np.broadcast_to(np.asarray(each, float), given.size.shape) for each in (m1, n))
    shape = {name: jnp.asarray(each) for name, each in scales(given, m1).items()}
    words = orbits.POPULATION_WORDS if np.isinf(n).all() else orbits.WORDS
    start = jax.vmap(lambda each: coupled.infinite_width_start(d=words, L=L, **each))(shape)
    sizes = orbits.classes(n, np.full(len(m1), L))
    worked = Worked(start, jnp.zeros((len(m1), len(MATRICES)))), sizes, Width(shape["m"], shape["m1"])
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), worked)  # with attention, then without
    run = ensemble_flow(
        worked_loss, *twice, np.repeat([1.0, 0.0], len(m1)), units=np.tile(1 / readout_rate(**shape), 2), times=times,
        field=worked_field, rtol=rtol,
    ).require_complete()  # fmt: skip
    margins, frozen_margins = np.split(np.asarray(_class_margins(run.states.state, *twice[1:])), 2, axis=1)
    A, work = run.states.state.A[:, : len(m1), :3, :3], run.states.work[:, : len(m1)]
    loss, frozen_loss = (np.logaddexp(0, -each) for each in (margins, frozen_margins))
    member = ("time", "member")
    measured = xr.Dataset(
        {
            "loss": (member, loss @ CLASS_SHARES, {"long_name": "loss"}),
            "loss_frozen": (member, frozen_loss @ CLASS_SHARES, {"long_name": "loss with W_K and W_Q frozen"}),
            "loss_by_class": ((*member, "sentence_class"), loss, {"long_name": "loss of a class"}),
            "loss_by_class_frozen": ((*member, "sentence_class"), frozen_loss, {"long_name": "the same, frozen"}),
            "score": (
                (*member, "key", "query"),
                np.asarray(A) / np.sqrt(shape["m"])[:, None, None],
                {"long_name": "change of the attention score A / sqrt(m)"},
            ),
            "work": (
                (*member, "matrix"),
                work,
                {"long_name": "int |d matrix|^2 dt, its part in the fall of the loss"},
            ),
        },
        coords={
            "time": ("time", times, {"long_name": "time in units of the readout's initial rate", "units": "1"}),
            "values": ("member", given.values, {"long_name": "sigma0^2 / (sigma0^2 + sigma1^2)", "units": "1"}),
            "richness": ("member", given.richness, {"long_name": "4 / (m^2 m1 (sigma0^2 + sigma1^2)^2)", "units": "1"}),
            "size": ("member", given.size, {"long_name": "m m1", "units": "1"}),
            "n": ("member", n, {"long_name": "training sentences", "units": "1"}),
            "sentence_class": list(CLASS_NAMES),
            "key": list(SIGNALS),
            "query": list(SIGNALS),
            "matrix": list(MATRICES),
        },
        attrs={"L": L, "evaluations": run.cost.evaluations},
    )
    for each in measured.values():
        each.attrs["units"] = "1"
    return measured


# Finite random networks: widths, and numbers for which the random outputs at the start stay below about 1/2.
RANDOM_M, RANDOM_M1 = np.array([64, 16, 256]), np.array([1, 4, 4])
RANDOM_NUMBERS = Groups(np.array([0.99, 0.5, 0.9]), np.array([0.01, 1.0, 0.1]), 1.0 * RANDOM_M * RANDOM_M1)


def random_networks(task: CoOccurrence, *, times: Float[np.ndarray, " T"], seeds: Sequence[int]) -> xr.Dataset:
    """Networks of these kinds with random weights and data, one for each seed.

    Returns a dataset over (kind, seed): advantage and score (the largest change among the signals) at the last time.
    """

    def loss(state, batch, width, rate):
        return coupled.loss(state, batch, width)

    found = {name: np.zeros((RANDOM_M.size, len(seeds))) for name in ("advantage", "score")}
    with progress.bar(RANDOM_M.size * len(seeds), " networks", "random networks") as done:
        for kind, (m, m1) in enumerate(zip(RANDOM_M.tolist(), RANDOM_M1.tolist(), strict=True)):
            shape = scales(Groups(*(each[kind] for each in RANDOM_NUMBERS)), m1) | {"m": m, "m1": m1}
            ends = times[[0, -1]] / readout_rate(**shape)
            for place, seed in enumerate(seeds):
                key_data, key_start = jax.random.split(jax.random.fold_in(jax.random.key(seed), kind))
                state = coupled.draw(key_start, d=task.d, L=task.L, **shape)
                data = task.sample(key_data), Width(float(m), float(m1))
                full, without = (
                    gradient_flow(
                        loss, state, *data, rate, field=_coupled_with_rate, times=ends, show_progress=False
                    ).require_complete()
                    for rate in (1.0, 0.0)
                )
                found["advantage"][kind, place] = without.loss[-1] / full.loss[-1]
                found["score"][kind, place] = np.abs(full.final.A - state.A)[:3, :3].max() / m**0.5
                done.update(1)
    long_names = {"advantage": "loss with W_K and W_Q frozen over loss", "score": "largest change of A / sqrt(m)"}
    return xr.Dataset(
        {
            name: (("kind", "seed"), values, {"long_name": long_names[name], "units": "1"})
            for name, values in found.items()
        },
        coords={
            "m": ("kind", RANDOM_M),
            "m1": ("kind", RANDOM_M1),
            **{name: ("kind", values) for name, values in RANDOM_NUMBERS._asdict().items()},
        },
        attrs={"n": task.n, "L": task.L, "end": float(times[-1])},
    )


class Part(NamedTuple):
    """Members of one kind: their numbers, their training sentences, and the choice of m1."""

    given: Groups
    n: Float[np.ndarray, "..."] = np.inf
    m1: float = 1.0


def population_parts(points: int, L: int) -> dict[str, Part]:
    """On infinitely many sentences: two diagrams over m m1, `points` along each axis, four regimes, and one of them at other widths."""
    size, ratio = _plane(points, np.geomspace(1e-4, 1e4, points))
    _, richness = _plane(points, np.geomspace(1e-6, 1e4, points))
    regimes = {}
    for name, m, m1, initialisation in (("theorems", 1024, 32, "paper"), ("experiment", 128, 256, "kaiming_normal")):
        sigma0, sigma1 = entry_scales(initialisation, m=m, m1=m1, d=64, L=L)
        regimes[name] = groups(m=m, m1=m1, sigma0=sigma0, sigma1=sigma1)
    regimes |= {"large values": Groups(0.99, 1e-3, 16.0), "rich": Groups(0.5, 1e2, 16.0)}
    return {
        "scales": Part(Groups(ratio / (1 + ratio), 1e-6, size)),
        "richness": Part(Groups(0.5, richness, size)),
        **{name: Part(given) for name, given in regimes.items()},
        "rich, m1 = 3": Part(regimes["rich"], m1=3.0),
    }


def samples_parts(points: int, samples: Sequence[float], n: float) -> dict[str, Part]:
    """A diagram over m m1 and numbers of training sentences, and the mean starts of `random_networks`, on n sentences."""
    size, number = _plane(points, samples)
    return {"samples": Part(Groups(0.99, 1e-2, size), n=number), "mean start": Part(RANDOM_NUMBERS, n=n)}


def _plane(points: int, others: Sequence[float]) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Sizes m m1 for each value of a diagram's other axis, and that value."""
    size, other = np.meshgrid(np.geomspace(8, 2**17, points), others)
    return size.ravel(), other.ravel()


def train_parts(parts: dict[str, Part], L: float, *, times: Float[np.ndarray, " T"]) -> xr.Dataset:
    """`with_and_without` of all parts in one ensemble; the coordinate `part` names that of each member."""
    columns = [np.broadcast_arrays(*map(np.atleast_1d, (*each.given, each.n, each.m1))) for each in parts.values()]
    labels = np.repeat(list(parts), [each[0].size for each in columns])
    *given, n, m1 = np.concatenate(columns, axis=1)
    return with_and_without(Groups(*given), L, times=times, n=n, m1=m1).assign_coords(part=("member", labels))


def part(run: xr.Dataset, name: str) -> xr.Dataset:
    """The members of one part."""
    return run.isel(member=run["part"].values == name)


def attention_share(run: xr.Dataset) -> xr.DataArray:
    """The part of W_K and W_Q in the fall of the loss so far."""
    return run["work"].sel(matrix=["W_K", "W_Q"]).sum("matrix") / run["work"].sum("matrix")


def advantage(run: xr.Dataset) -> xr.DataArray:
    """The loss with attention frozen over the loss with it: 1 where attention does nothing for it."""
    return run["loss_frozen"] / run["loss"]


def largest_score(run: xr.Dataset) -> xr.DataArray:
    """The largest change of a score among the signals."""
    return abs(run["score"]).max(["key", "query"])


@jax.jit
def _class_margins(states: Coupled, sizes: Classes, width: Width) -> Float[Array, "T N 4"]:
    """y F of a sentence of each class, along the flow."""
    of_members = jax.vmap(orbits.class_margins)
    return jax.lax.map(lambda at: of_members(at, sizes, width), states)
