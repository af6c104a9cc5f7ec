"""Where training ends with n sentences of L words and unique random words: R* = (3n - 2L) / (2n + 4L - 6) and its companions."""

from functools import cache
from typing import NamedTuple

import numpy as np
import sympy as sp

from derivations import four_point
from derivations._proof import Derivation, NotProved, compare, equation, require_zero
from gradflow.theory import max_margin
from gradflow.theory.four_point import DUALS, LIMIT_LOSS_TIMES_TAU, LIMIT_R

N, LENGTH = sp.symbols("n L", positive=True)


class Limits(NamedTuple):
    """Late-time limits of R, s1/s2 and the loss times the readout's clock."""

    R: sp.Expr
    rho: sp.Expr
    loss_times_clock: sp.Expr


def kernel(n: sp.Expr = N, L: sp.Expr = LENGTH) -> sp.Matrix:
    """That of the four points, and what a class gains by its own random words: it has L - c_k of them a sentence, in n_k sentences."""
    classes = four_point.sentence_classes()
    own_words = [L - sum(classes.words[k, :]) for k in range(4)]
    return four_point.kernel() + sp.diag(*[own_words[k] / (n * classes.shares[k]) for k in range(4)])


def limits_of(duals: sp.Matrix) -> Limits:
    """The limits for the sums of the duals over each class, to which the class gradients become proportional."""
    return Limits(four_point.gradient_ratio(duals), duals[0] / duals[1], sum(duals))


@cache
def duals() -> sp.ImmutableMatrix:
    """Sums of the duals over each class, where I1, I2, I3 alone are tight: K alpha = 1 on these."""
    (alpha,) = sp.linsolve((kernel()[:3, :3], sp.ones(3, 1)))
    return sp.ImmutableMatrix([*alpha, 0])


def room_of_I4() -> sp.Expr:
    """By how much the margin of class I4 exceeds 1 there, times kappa n (1 + R): the closed forms hold where this is >= 0."""
    return N - 6 * (LENGTH - 2) * (1 + limits_of(duals()).R)


def derive() -> Derivation:
    """From the optimality conditions of a training set, reduced to a weight a class; against the closed form and the NNLS solver."""
    # the reduction, on a training set with symbols for all duals: margins of samples are K times the sums over classes
    batch, d = four_point.training_set(6, 4)
    by_class = sp.symbols("a_1:5")
    word_class, label = batch.word_class.tolist(), [int(y) for y in batch.label]
    counts = sp.Matrix([np.bincount(words, minlength=d).tolist() for words in batch.tokens])
    signed = sp.diag(*label) * counts
    w = signed.T * sp.Matrix([by_class[k] for k in word_class])
    sums = sp.Matrix([by_class[k] * word_class.count(k) for k in range(4)])
    of_class = kernel(6, 4) * sums
    require_zero("margins by class", signed * w - sp.Matrix([of_class[k] for k in word_class]))
    require_zero("|w|^2", w.dot(w) - (sums.T * of_class)[0])

    alpha = duals()
    R, rho, product = limits = Limits(*map(sp.cancel, limits_of(alpha)))
    margins = (kernel() * alpha).applyfunc(sp.cancel)
    kappa = (R - 1) / (1 + R) + 6 * (LENGTH - 2) / N
    _require_equal("tight", *((margin, 1) for margin in margins[:3]))
    _require_equal("rho, kappa", (rho, (2 + R) / (1 + R)), (alpha[1], 1 / kappa), (alpha[2], alpha[1]))
    _require_equal("loss times clock", (product, (rho + 2) / kappa))
    _require_equal("room of I4", ((margins[3] - 1) * kappa * N * (1 + R), room_of_I4()))

    # where I4 is not tight, R* lies between 1 and 3/2
    denominator = 2 * N + 4 * LENGTH - 6
    _require_equal("R*", (R, (3 * N - 2 * LENGTH) / denominator))
    _require_equal("below 3/2", (sp.Rational(3, 2) - R, (8 * LENGTH - 9) / denominator))
    _require_equal("above 1", (R - 1, (N - 6 * (LENGTH - 1)) / denominator))
    room = sp.cancel(room_of_I4() * (N + 2 * LENGTH - 3))
    require_zero("room at n = 6 (L - 1)", room.subs(N, 6 * (LENGTH - 1)) + 6 * (8 * LENGTH - 9) * (LENGTH - 3))
    require_zero("room at n = 0", room.subs(N, 0) + 6 * (LENGTH - 2) * (LENGTH - 3))
    require_zero("room is convex in n", sp.diff(room, N, 2) - 2)
    many = [sp.limit(each, N, sp.oo) for each in limits]
    x = sp.Symbol("x")
    slope = sp.solve(sp.Poly(room.subs(N, x * LENGTH), LENGTH).LC(), x)[-1]

    closed = sp.lambdify((N, LENGTH), tuple(limits))
    sizes = [(30, 4), (60, 5)]
    ours = [closed(*size) for size in sizes]
    theirs = [max_margin.unique_words_limits(*size) for size in sizes]
    solved = [_solved(*size) for size in sizes]
    exact, tight = _exactly(30, 5), _solved(30, 5)
    return Derivation(
        "The max-margin limits of a training set",
        "Soudry et al. (2018) for the direction; the constants are this project's",
        (
            r"Uniform attention, $n$ sentences of $L$ words, no random word twice. Late, $g_i \to n\alpha_i/\tau$ with the duals of "
            r"$\min |w|^2$ under $y_i\, w \cdot c_i \ge 1$, $w = \sum_i \alpha_i y_i c_i$, $c_i$ the word counts. $w$ is unique by strict convexity, "
            r"so exchanging sentences of one class leaves it alone; as $w = \alpha_i y_i$ on a sentence's own words, all $\alpha_i$ of a class are equal "
            r"(where $L = 3$, class $I_1$ has no such word and its duals may be taken equal). With $s_k = \sum_{i \in I_k} \alpha_i$ the margins are $K s$: those of the "
            r"four points, and $(L - c_k)/n_k$ on the diagonal, since a sentence's $L - c_k$ random words work for it alone:",
            equation("K", kernel()),
            r"Suppose that $I_4$ is not tight. $K s = 1$ on the other three has the solution $s_2 = s_3 = 1/\kappa$, $s_1 = \rho/\kappa$, $s_4 = 0$,",
            equation(r"R^* = \frac{s_2 + s_3 + s_4 - s_1}{s_1 - s_2}", R) + "\n\n"
            + equation(r"\rho = \frac{s_1}{s_2}", rf"\frac{{2 + R^*}}{{1 + R^*}} = {sp.latex(sp.factor(rho))}") + "\n\n"
            + equation(r"\kappa", r"\frac{R^* - 1}{1 + R^*} + \frac{6 (L - 2)}{n}") + "\n\n"
            + equation(r"\mathcal{L}\,\tau \to |w|^2 = \sum_k s_k", r"\frac{\rho + 2}{\kappa}"),
            r"The margin of $I_4$ is $1 + \bigl(n - 6 (L - 2)(1 + R^*)\bigr) / \bigl(\kappa\, n\, (1 + R^*)\bigr)$. So the closed form is optimal (duals "
            r"$\ge 0$, margins $\ge 1$) where",
            r"$$ n \ge 6 (L - 2)(1 + R^*), \qquad\text{that is}\qquad " + sp.latex(sp.collect(room, N)) + r" \ge 0. $$",
            r"This polynomial is convex in $n$, $-6(L-2)(L-3) \le 0$ at $n = 0$ and $-6(8L-9)(L-3) \le 0$ at $n = 6(L-1)$. So it is negative between them, the "
            r"condition forces $n \ge 6(L - 1)$, and with it $R^* \ge 1$, as $R^* - 1$ has the sign of $n - 6(L-1)$. Equality is met once, at $L = 3$, $n = 12$, where $I_4$ is just "
            r"tight. Above, $R^* < 3/2$, as $3/2 - R^*$ has the sign of $8L - 9$. So $1 < R^* < 3/2$ wherever $I_4$ has room to spare, $\kappa > 0$, and "
            rf"$n \ge 15 (L - 2)$ suffices. (For long sentences the condition tends to $n/L \ge {sp.latex(slope)} \approx {float(slope):.3f}$.)",
            rf"For $n \to \infty$ the own words drop out: $R^* \to {sp.latex(many[0])}$, $\rho \to {sp.latex(many[1])}$, $\mathcal{{L}}\tau \to {many[2]}$, the four-point flow.",
        ),
        (
            compare("the closed form in theory", ours, [[each.R, each.s1_over_s2, each.loss_times_clock] for each in theirs]),
            compare("the NNLS solver on sampled training sets", ours, solved),
            compare("the NNLS solver where I4 is tight, by exact enumeration", [*exact], tight),
            compare("the constants of the four-point flow", [float(each) for each in many], [LIMIT_R, DUALS[0] / DUALS[1], LIMIT_LOSS_TIMES_TAU]),
        ),
    )  # fmt: skip


def _require_equal(what: str, *pairs: tuple[sp.Expr, sp.Expr]) -> None:
    """As rational functions: `cancel` is much faster on them than what `require_zero` does."""
    require_zero(what, *(sp.cancel(a - b) for a, b in pairs))


def _solved(n: int, L: int) -> list[float]:
    """The limits of a sampled training set by the package's solver for any training set."""
    batch, d = four_point.training_set(n, L)
    tokens, label, word_class = map(np.asarray, batch)
    found = max_margin.limits(tokens, label, word_class, d)
    return [found.R, found.s1_over_s2, found.loss_times_clock]


def _exactly(n: int, L: int) -> list[float]:
    """The limits in rational numbers, by trying all sets of tight classes."""
    solutions = four_point.hard_margin(kernel(sp.Integer(n), sp.Integer(L)))
    if len(solutions) != 1:
        raise NotProved(f"{len(solutions)} points satisfy the optimality conditions.")
    return [float(each) for each in limits_of(solutions[0])]
