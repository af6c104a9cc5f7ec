"""The four-point flow: what the co-occurrence model does to leading order, with attention uniform and the readout rate constant.

Without random words and in the clock tau = S t, the outputs G = (G1, G2, G3) of mu1, mu2, mu3 follow logistic regression on
four points, the classes' word counts x = (1,1,1), (1,0,1), (0,1,1), (0,0,1) with labels + - - - and shares 1/2, 1/6, 1/6, 1/6:

    dG1 = sbar1 - sbar2,  dG2 = sbar1 - sbar3,  dG3 = sbar1 - sbar2 - sbar3 - sbar4,  sbar_k = share_k / (1 + exp(y_k F_k))

So it converges to the max-margin direction (2, 2, -3), whose duals are 7 : 5 : 5 : 0, and from G = 0 everything about it is a
number. Those numbers are below; `tests/theory` holds the flow to them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradflow.dynamics import Trajectory, gradient_flow
from gradflow.tasks.cooccurrence import CLASS_SHARES, LABELS, SIGNAL_COUNTS

POINTS = SIGNAL_COUNTS

MAX_MARGIN_DIRECTION = np.array([2, 2, -3])
DUALS = np.array([7, 5, 5, 0])
LIMIT_R = 3 / 2
LIMIT_LOSS_TIMES_TAU = 17
ONE_SIGNAL_PEAK_LOSS = 0.80257
ONE_SIGNAL_PEAK_TAU = 3.5647
ALL_RIGHT_TAU = 12.979


def class_margins(G: Float[Array, "... 3"]) -> Float[Array, "... 4"]:
    """y_k F_k of the four classes."""
    return jnp.asarray(LABELS) * (G @ jnp.asarray(POINTS.T, float))


def class_losses(G: Float[Array, "... 3"]) -> Float[Array, "... 4"]:
    """Loss of a sentence of each class."""
    return jax.nn.softplus(-class_margins(G))


def loss(G: Float[Array, " 3"]) -> Float[Array, ""]:
    """Population loss."""
    return jnp.asarray(CLASS_SHARES) @ class_losses(G)


def flow(tau: Float[np.ndarray, " T"], *, rtol: float = 1e-11) -> Trajectory:
    """The four-point flow from G = 0 at the times `tau`, which start at 0."""
    return gradient_flow(loss, jnp.zeros(3), times=tau, method="dopri8", rtol=rtol, show_progress=False)


def gradient_ratio(G: Float[Array, "... 3"]) -> Float[Array, "..."]:
    """R = (s2 + s3 + s4 - s1) / (s1 - s2), which is -dG3/dG1."""
    s = jnp.asarray(CLASS_SHARES) * jax.nn.sigmoid(-class_margins(G))
    return (s[..., 1] + s[..., 2] + s[..., 3] - s[..., 0]) / (s[..., 0] - s[..., 1])
