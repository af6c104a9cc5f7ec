"""Where training ends: the max-margin limits of the co-occurrence model for any training set.

With attention uniform, F_i = G . c_i with c_i the word counts of sentence i, so G follows logistic regression on the counts in the
readout's clock tau. Its direction tends to the hard-margin solution w of min |w|^2 subject to y_i w . c_i >= 1 (Soudry et al.
2018, arXiv 1710.10345), and with the duals alpha, w = sum_i alpha_i y_i c_i,

    g_i -> n alpha_i / tau,    so    s_k -> n / tau * sum over class k of alpha_i    and    L tau -> |w|^2 = sum_i alpha_i.

For unique random words the duals are equal within a class and give R* = (3n - 2L) / (2n + 4L - 6) and its companions in closed
form (`unique_words_limits`); for n -> infinity those tend to the four-point flow's 3/2, 7/5 and 17.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import nnls

from gradflow.errors import require


class Limits(NamedTuple):
    """Late-time limits of R, s1/s2, s2/s3, of loss times readout clock, and (where it is known) the direction of G."""

    R: float
    s1_over_s2: float
    s2_over_s3: float
    loss_times_clock: float
    direction: Float[np.ndarray, " d"] | None = None


def limits(
    tokens: Int[np.ndarray, "n L"], label: Float[np.ndarray, " n"], word_class: Int[np.ndarray, " n"], d: int
) -> Limits:
    """The limits for one training set, by least distance programming (Lawson and Hanson 1974, ch. 23)."""
    signed_counts = np.stack([y * np.bincount(words, minlength=d) for words, y in zip(tokens, label, strict=True)])
    system = np.vstack([signed_counts.T, np.ones(len(signed_counts))])
    target = np.append(np.zeros(d), 1.0)
    multipliers, _ = nnls(system, target)
    residual = system @ multipliers - target
    w, duals = -residual[:d] / residual[d], -multipliers / residual[d]
    s = np.bincount(word_class, duals, minlength=4)
    return Limits(
        R=(s[1] + s[2] + s[3] - s[0]) / (s[0] - s[1]),
        s1_over_s2=s[0] / s[1],
        s2_over_s3=s[1] / s[2],
        loss_times_clock=float(w @ w),
        direction=w,
    )


def unique_words_limits(n: int, L: int) -> Limits:
    """R* = (3n - 2L) / (2n + 4L - 6); rho = s1/s2 = (2 + R)/(1 + R); L tau -> (rho + 2)/kappa, kappa = (R - 1)/(1 + R) + 6 (L - 2)/n.

    True while class I4 (neither signal) is right with room to spare: its margin -w3 = (2 - rho)/kappa must be at least 1, that is
    n >= 6 (L - 2) (1 + R), about 15 (L - 2). Raises `InputError` for fewer samples; `limits` has no such bound.
    """
    R = (3 * n - 2 * L) / (2 * n + 4 * L - 6)
    rho = (2 + R) / (1 + R)
    kappa = (R - 1) / (1 + R) + 6 * (L - 2) / n
    require(
        kappa <= 2 - rho,
        f"n = {n} samples are too few for the closed form at L = {L} (about 15 (L - 2) suffice); use limits().",
    )
    return Limits(R, rho, 1.0, (rho + 2) / kappa)
