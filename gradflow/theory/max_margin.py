"""Where training ends: the max-margin limits of the co-occurrence model for any training set.

With attention uniform, F_i = G . c_i with c_i the word counts of sentence i, so G follows logistic regression on the counts in the
readout's clock tau. Its direction tends to the hard-margin solution w of min |w|^2 subject to y_i w . c_i >= 1 (Soudry et al.
2018, arXiv 1710.10345), and with the duals alpha, w = sum_i alpha_i y_i c_i,

    g_i -> n alpha_i / tau,    so    s_k -> n / tau * sum over class k of alpha_i    and    L tau -> |w|^2 = sum_i alpha_i.

For unique random words the duals are equal within a class and give R* = (3n - 2L) / (2n + 4L - 6) and its companions in closed
form (`unique_words_limits`), where n is large enough for L (`least_samples`); `class_limits` has them for any n and L. For
n -> infinity they tend to the four-point flow's 3/2, 7/5 and 17.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import nnls

from gradflow.errors import require
from gradflow.tasks.cooccurrence import CLASS_SHARES
from gradflow.theory.four_point import LABELS, POINTS


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
    w, duals = _least_norm(signed_counts)
    return _from_duals(np.bincount(word_class, duals, minlength=4), w, direction=w)


def _least_norm(points: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " n"]]:
    """w of least norm with points @ w >= 1, and the duals."""
    system = np.vstack([points.T, np.ones(len(points))])
    target = np.append(np.zeros(points.shape[1]), 1.0)
    multipliers, _ = nnls(system, target)
    residual = system @ multipliers - target
    return -residual[:-1] / residual[-1], -multipliers / residual[-1]


def _from_duals(s: Float[np.ndarray, " 4"], w: np.ndarray, direction: np.ndarray | None = None) -> Limits:
    return Limits(
        R=(s[1] + s[2] + s[3] - s[0]) / (s[0] - s[1]),
        s1_over_s2=s[0] / s[1],
        s2_over_s3=s[1] / s[2],
        loss_times_clock=float(w @ w),
        direction=direction,
    )


def unique_words_limits(n: float, L: int) -> Limits:
    """R* = (3n - 2L) / (2n + 4L - 6); rho = s1/s2 = (2 + R)/(1 + R); L tau -> (rho + 2)/kappa, kappa = (R - 1)/(1 + R) + 6 (L - 2)/n.

    True while class I4 (neither signal) is right with room to spare: its margin -w3 = (2 - rho)/kappa must be at least 1, that is
    n >= 6 (L - 2) (1 + R), for which 15 (L - 2) suffices. Raises `InputError` for fewer samples; `class_limits` has no such bound.
    """
    R = (3 * n - 2 * L) / (2 * n + 4 * L - 6)
    rho = (2 + R) / (1 + R)
    kappa = (R - 1) / (1 + R) + 6 * (L - 2) / n
    require(
        kappa <= 2 - rho,
        f"n = {n} samples are too few for the closed form at L = {L} (15 (L - 2) suffice); use class_limits().",
    )
    return Limits(R, rho, 1.0, (rho + 2) / kappa)


def class_limits(n: float, L: int) -> Limits:
    """The limits for n samples with unique random words, on both sides of the closed form's border, and for n = inf.

    By symmetry w gives all random words of a class one value, and weighing them by the root of their number leaves four
    constraints in seven unknowns: class c is the point y_c (its signals, sqrt(r_c / n_c) along an axis of its own) with n_c
    samples of r_c random words each. A class's dual is then the sum of those of its samples.
    """
    w, s = _least_norm(_class_points(n, L))
    return _from_duals(s, w)


def least_samples(L: Float[np.ndarray, "*L"]) -> Float[np.ndarray, "*L"]:
    """The border of the closed form, n = 6 (L - 2) (1 + R*(n, L)), solved for n; n/L tends to (13 + sqrt(193))/2 = 13.446."""
    b, c = 13 * L - 27, 6 * (L - 2) * (L - 3)
    return (b + np.sqrt(b**2 + 4 * c)) / 2


def border_constant(n: float, L: int) -> float:
    """c in R - R* -> c / log(tau) on the border, where class I4 has margin 1 and dual 0 and nothing decays like a power.

    In s = log(tau), G = w s + rho with d rho = sum_c x_c b_c - w ds, and b_4, proportional to exp(-rho . x_4), goes last: the others keep
    their margins, so they answer to it by b_a = -K_aa^-1 K_a4 b_4, K the points' Gram matrix. What is left is
    d b_4 = -kappa b_4^2 ds with kappa the Schur complement of K_aa, hence b_4 -> 1 / (kappa s). Source: derived for this package.
    """
    points = _class_points(n, L)
    _, s = _least_norm(points)
    K = points @ points.T
    answer = np.append(-np.linalg.solve(K[:3, :3], K[:3, 3]), 1.0)
    above, below = np.array([-1, 1, 1, 1]), np.array([1, -1, 0, 0])  # R = s . above / s . below
    slope = (answer @ above - s @ above / (s @ below) * (answer @ below)) / (s @ below)
    return float(slope / (K[3] @ answer))


def _class_points(n: float, L: int) -> Float[np.ndarray, "4 7"]:
    of_random = np.sqrt((L - POINTS.sum(axis=1)) / (n * CLASS_SHARES))
    return LABELS[:, None] * np.hstack([POINTS, np.diag(of_random)])
