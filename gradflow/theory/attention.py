"""Where attention matters: the three numbers that decide it, and how far scores move before the loss is small.

From the mean start (`coupled.infinite_width_start`), measure time in the readout's clock tau = rho t, rho = m m1 (sigma0^2 + sigma1^2),
scores as B = A / sqrt(m), and Gram matrices by their initial size. Then sigma0, sigma1, m and m1 enter in three numbers only, phi,
epsilon and m m1 (`models.groups`), and scores follow dB/dtau = (phi / (m m1)) (D K_Q + K_K D) with D = -dLoss/dB and K = 1 at the
start: they start to move at 2 phi / (m m1) < 2 / (m m1) times their force D, whatever sigma0 and sigma1 are, and K grows along with them.
While scores are small, the outputs follow the four-point flow in the clock tau' that the growing rate drives,
dtau = dtau' / sqrt(1 + epsilon |G|^2), and with J = int D(G(tau')) dtau, singular value by singular value,

    B = (2 phi / sqrt(epsilon m m1)) sinh(sqrt(epsilon / (m m1)) J)        2 (phi / (m m1)) J where J is small

which late, for small epsilon, grows like (phi / (m m1)) (7/L)(2 - 1/L) ln^2 tau for the largest score, mu2 as seen from mu1. Derived in
derivations/attention_speed.py for this package.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Bool, Float
from scipy.integrate import cumulative_simpson
from scipy.interpolate import CubicSpline

from gradflow.models.groups import Groups
from gradflow.observe.attention import advantage, largest_score, part
from gradflow.tasks.cooccurrence import CLASS_SHARES, LABELS
from gradflow.theory import four_point
from gradflow.theory.claims import Claim, at_least, at_most, near

# Where scores have moved by this much, their softmax is off uniform by a factor of 1.6: there attention is said to matter.
BORDER = 0.5


def drive(G: Float[Array, " 3"], L: float) -> Float[Array, "3 3"]:
    """D[key, query] = -dLoss/dB at uniform attention and without random words: of every sentence that has both, y g (G(key) - F/L) / L."""
    points, labels = jnp.array(four_point.POINTS, float), jnp.array(LABELS, float)
    F = points @ G
    pull = jnp.array(CLASS_SHARES) * labels * jax.nn.sigmoid(-labels * F)
    return jnp.einsum("c,ck,cq,ck->kq", pull, points, points, G - F[:, None] / L) / L


@functools.cache
def _path(L: float) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"], Float[np.ndarray, "T 3 3"]]:
    """The four-point flow's clock tau', and |G|^2 and D along it."""
    clock = np.concatenate([[0.0], np.geomspace(1e-3, 1e80, 6000)])
    G = np.asarray(four_point.flow(clock, rtol=1e-9).states)
    return clock, (G**2).sum(axis=1), np.asarray(jax.vmap(drive, in_axes=(0, None))(jnp.asarray(G), L))


def pushed(tau: float, L: float, richness: float) -> Float[np.ndarray, "3 3"]:
    """J[key, query] = int_0^tau D dtau on the four-point flow, in its clock tau'."""
    clock, squared_G, D = _path(L)
    time_of_clock = 1 / np.sqrt(1 + richness * squared_G)
    elapsed = cumulative_simpson(time_of_clock, x=clock, initial=0)
    J = cumulative_simpson(D * time_of_clock[:, None, None], x=clock, axis=0, initial=np.zeros((1, 3, 3)))
    return CubicSpline(elapsed, J)(tau)


def scores(given: Groups, L: float, tau: float) -> Float[np.ndarray, "N 3 3"]:
    """The predicted change of the scores B[key, query] until tau, for numbers that are arrays of one length."""
    phi, epsilon, size = (np.asarray(each)[:, None, None] for each in given)
    distinct, back = np.unique(epsilon, return_inverse=True)
    J = np.stack([pushed(tau, L, each) for each in distinct])
    U, singular, V = np.linalg.svd(J[back.ravel()])
    x = np.sqrt(epsilon / size) * singular[:, None, :]
    growth = np.divide(np.sinh(x), x, out=np.ones_like(x), where=x > 0)  # 1 at richness 0, where K does not grow
    return (U * (2 * phi / size * singular[:, None, :] * growth)) @ V


def border(values: float, richness: float, L: float, tau: float) -> float:
    """The size m m1 at which the largest score has moved by `BORDER` at time tau: attention matters below. NaN outside 1e-3 to 1e9."""
    sizes = np.geomspace(1e-3, 1e9, 400)
    given = Groups(*np.broadcast_arrays(values, richness, sizes))
    largest = np.abs(scores(given, L, tau)).max(axis=(1, 2))
    return float(np.exp(np.interp(-np.log(BORDER), -np.log(largest), np.log(sizes), left=np.nan, right=np.nan)))


def predicted_score(members: xr.Dataset) -> Float[np.ndarray, " N"]:
    """The largest predicted score at the last time, of members of `observe.attention.with_and_without`."""
    given = Groups(*(members[name].values for name in Groups._fields))
    return np.abs(scores(given, members.attrs["L"], float(members["time"][-1]))).max(axis=(1, 2))


def border_off_by(diagram: xr.Dataset, other: str) -> Float[np.ndarray, " rows"]:
    """The size m m1 at which the largest score is `BORDER`, measured over predicted, for each value of the diagram's other axis."""
    ratios = []
    for _, row in diagram.isel(time=-1).groupby(other):
        row = row.sortby("size")
        score = np.log(largest_score(row).values / BORDER)
        if score[0] > 0 > score[-1]:
            measured = np.exp(np.interp(0.0, -score, np.log(row["size"].values)))
            numbers = float(row["values"][0]), float(row["richness"][0])
            ratios.append(measured / border(*numbers, diagram.attrs["L"], float(row["time"])))
    return np.array(ratios)


def claims(population: xr.Dataset, samples: xr.Dataset, networks: xr.Dataset) -> list[Claim]:
    """What holds of the prediction, and of attention's part in the theorems' regime; see `simulations/attention_share.py`."""
    return [
        *_predictions(population),
        *_borders(population),
        *_pattern(population),
        *_exact(population),
        *_gains(population, samples),
        *_random(samples, networks),
    ]


_SOURCE = "attention speed"


def _small(population: xr.Dataset) -> Bool[np.ndarray, " N"]:
    """The members whose scores are predicted to stay small."""
    return predicted_score(population) <= 0.03


def _predictions(population: xr.Dataset) -> list[Claim]:
    end = population.isel(time=-1)
    off, lazy = largest_score(end).values / predicted_score(population), end["richness"].values <= 1
    cases = (
        ("scores below 0.03, epsilon <= 1: off the prediction by a factor", lazy, 1.05, "5 %: the next order in the score"),
        ("... epsilon > 1", ~lazy, 1.1, "10 %: scores turn while W_K and W_Q grow along where they have been"),
    )  # fmt: skip
    small = _small(population)
    return [at_most(name, _SOURCE, "1", _factor(off[small & which]), most, why) for name, which, most, why in cases]


def _borders(population: xr.Dataset) -> list[Claim]:
    cases = (
        ("m m1 where scores reach 1/2, over sigma0^2 / sigma1^2: off by a factor", "scales", "values"),
        ("... over epsilon", "richness", "richness"),
    )
    why = "a factor of 2: a prediction for small scores, at one of order one"
    return [
        at_most(name, _SOURCE, "1", _factor(border_off_by(part(population, diagram), other)), 2.0, why)
        for name, diagram, other in cases
    ]


def _pattern(population: xr.Dataset) -> list[Claim]:
    end, L = population.isel(time=-1), population.attrs["L"]
    late = end["score"].isel(member=_small(population) & (end["richness"].values <= 1))
    found = late.sel(key="mu2", query="mu1") / -late.sel(key="mu3", query="mu1")
    ratio, why = 7 * (2 * L - 1) / (6 * (L + 2)), "10 %: corrections fall like 1/log t"
    return [near("mu1's score for mu2 over that against mu3", _SOURCE, ratio, float(found.mean()), 0.1 * ratio, why)]


def _exact(population: xr.Dataset) -> list[Claim]:
    same = part(population, "rich")["loss"].values / part(population, "rich, m1 = 3")["loss"].values
    fall = population["loss"][0] - population["loss"]
    work = float(np.abs(population["work"].sum("matrix") - fall).max() / population["loss"][0].max())
    return [
        at_most(
            "equal numbers, other widths: relative difference of losses", _SOURCE, "0",
            float(np.abs(same - 1).max()), 1e-4, "ten tolerances",
        ),
        at_most(
            "the work of the four matrices is the fall of the loss", "dLoss/dt = -sum |dW|^2", "0",
            work, 1e-4, "ten tolerances",
        ),
    ]  # fmt: skip


def _gains(population: xr.Dataset, samples: xr.Dataset) -> list[Claim]:
    regimes = {
        "theorems": "the theorems' regime",
        "experiment": "the paper's experiment",
        "large values": "m m1 = 16, large sigma0",
    }
    why = "loss with attention frozen over loss, 1e6 times the readout's initial time"
    made = [
        at_least(
            f"attention lowers the loss by a per cent or more: {words}", "Theorem 3.2", ">= 1.01",
            float(advantage(part(population, name))[-1, 0]), 1.01, why,
        )
        for name, words in regimes.items()
    ]  # fmt: skip
    of_samples = part(samples, "samples").isel(time=-1)
    gains = (advantage(of_samples).values - 1).reshape(-1, np.unique(of_samples["size"]).size)
    name = "with more samples, attention lowers the loss by more (least ratio)"
    least, why = float((gains[1:] / gains[:-1]).min()), "what random words take over, attention need not do"
    return [*made, at_least(name, "memorised words", ">= 1", least, 1.0, why)]


def _random(samples: xr.Dataset, networks: xr.Dataset) -> list[Claim]:
    mean_start = largest_score(part(samples, "mean start").isel(time=-1)).values
    off = _factor(np.median(networks["score"].values, axis=1) / mean_start)
    name = "random networks' scores, in those of the mean start: off by a factor"
    return [at_most(name, "mean start", "1", off, 2.0, "a factor of 2, for medians over seeds at widths of 16 to 256")]


def _factor(ratios: Float[np.ndarray, "..."]) -> float:
    """The largest factor by which any ratio is off 1; NaN where there are none."""
    return float(np.exp(np.abs(np.log(ratios)).max())) if np.size(ratios) else np.nan
