"""Where attention matters: the three numbers that decide it, and how far scores move before the loss is small.

From the mean start (`coupled.infinite_width_start`), measure time in the readout's clock tau = rho t, rho = m m1 (sigma0^2 + sigma1^2),
scores as B = A / sqrt(m), and Gram matrices by their initial size. Then sigma0, sigma1, m and m1 enter in three numbers only:

    values    phi = sigma0^2 / (sigma0^2 + sigma1^2)          share of W_V's size in the readout's rate
    richness  epsilon = 4 / (m^2 m1 (sigma0^2 + sigma1^2)^2)  how much that rate grows: along a straight path it is sqrt(1 + epsilon |G|^2)
    size      m m1

and scores follow dB/dtau = (phi / (m m1)) (D K_Q + K_K D) with D = -dLoss/dB and K = 1 at the start: in the readout's clock, no
initialisation makes attention faster than 1 / (m m1). To first order in that speed, the outputs follow the four-point flow and

    B(tau) = 2 (phi / (m m1)) int_0^tau D(G) / sqrt(1 + epsilon |G|^2) dtau',

which late grows like (phi / (m m1)) (7/L)(2 - 1/L) ln^2 tau for the largest score, mu2 as seen from mu1. Derived in
derivations/attention_speed.py for this package.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradflow.tasks.cooccurrence import CLASS_SHARES, LABELS
from gradflow.theory import four_point


class Groups(NamedTuple):
    """The three numbers; scalars or arrays of one shape."""

    values: Float[np.ndarray, "..."]
    richness: Float[np.ndarray, "..."]
    size: Float[np.ndarray, "..."]


def groups(*, m, m1, sigma0, sigma1) -> Groups:
    """The numbers that two widths and two scales come to."""
    total = sigma0**2 + sigma1**2
    return Groups(sigma0**2 / total, 4 / (m**2 * m1 * total**2), m * m1)


def scales(given: Groups, m1=1.0) -> dict[str, Float[np.ndarray, "..."]]:
    """Widths and scales (m, m1, sigma0, sigma1) that come to these numbers, for any choice of m1."""
    m = given.size / m1
    total = 2 / (m * np.sqrt(m1 * given.richness))
    return dict(m=m, m1=m1, sigma0=np.sqrt(given.values * total), sigma1=np.sqrt((1 - given.values) * total))


def readout_rate(*, m, m1, sigma0, sigma1):
    """rho, the rate at which G moves along its own loss gradient at the start."""
    return m * m1 * (sigma0**2 + sigma1**2)


def drive(G: Float[Array, " 3"], L: float) -> Float[Array, "3 3"]:
    """D[key, query] = -dLoss/dB at uniform attention and without random words: of every sentence that has both, y g (G(key) - F/L) / L."""
    points, labels = jnp.array(four_point.POINTS, float), jnp.array(LABELS, float)
    F = points @ G
    pull = jnp.array(CLASS_SHARES) * labels * jax.nn.sigmoid(-labels * F)
    return jnp.einsum("c,ck,cq,ck->kq", pull, points, points, G - F[:, None] / L) / L


def score_change(
    tau: Float[np.ndarray, " T"], L: float, richness: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "T N 3 3"]:
    """The change of the scores B[key, query] at the times tau (the first is 0), in units of phi / (m m1), to first order."""
    G = four_point.flow(tau, rtol=1e-9).states
    per_rate = 1 / np.sqrt(1 + np.multiply.outer((G**2).sum(axis=1), richness))
    speed = 2 * np.asarray(jax.vmap(drive, in_axes=(0, None))(jnp.asarray(G), L))[:, None] * per_rate[:, :, None, None]
    steps = np.diff(tau)[:, None, None, None] * (speed[1:] + speed[:-1]) / 2
    return np.concatenate([np.zeros_like(speed[:1]), np.cumsum(steps, axis=0)])
