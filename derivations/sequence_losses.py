"""The losses of algorithmic sequence tasks: sums modulo p by characters, entropies, and counts over all inputs."""

import itertools
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import sympy as sp

from derivations._proof import Derivation, compare, equation, require_zero
from gradflow.tasks import closed_forms

k, n, p = sp.symbols("k n p", integer=True, positive=True)


def chance_of_zero() -> sp.Expr:
    """P_k(0), solved from its recursion: the next number must be what is missing, and it is never 0."""
    P = sp.Function("P")
    return sp.rsolve(P(k + 1) - (1 - P(k)) / (p - 1), P(k), {P(0): 1})


def entropy_of_sum() -> sp.Expr:
    """Entropy of a sum of k numbers, of which the p - 1 residues other than 0 are equally likely."""
    zero = chance_of_zero()
    return -zero * sp.log(zero) - (1 - zero) * sp.log((1 - zero) / (p - 1))


def window_sum_levels() -> sp.Matrix:
    """Initial loss, all outputs at their marginals, plateau and floor of the moving window sum, k >= 2."""
    of_input, of_sum = sp.log(p - 1), entropy_of_sum()
    floor = (n - 1) * of_input / (2 * n)
    plateau = floor + (n - k + 1) * of_sum / (2 * n)
    return sp.Matrix([sp.log(p + 1), plateau + (k - 1) * of_input / (2 * n), plateau, floor])


# ---------------------------------------------------------------------------- tasks by definition, every input once


def window_sums(n: int, p: int, k: int) -> Iterator[tuple]:
    for x in itertools.product(range(1, p), repeat=n):
        yield (*x, p, *(x[i] if i + 1 < k else sum(x[i - k + 1 : i + 1]) % p for i in range(n)))


def prefix_sums(n: int, p: int, distinct: bool = False) -> Iterator[tuple]:
    for x in itertools.permutations(range(1, p), n) if distinct else itertools.product(range(1, p), repeat=n):
        yield (*x, p, *(sum(x[: i + 1]) % p for i in range(n)))


def copies(n: int, words: int) -> Iterator[tuple]:
    for x in itertools.product(range(1, words + 1), repeat=n):
        yield (*x, 0, *x)


def repeats(n: int, words: int, blocks: int) -> Iterator[tuple]:
    for x in itertools.product(range(1, words + 1), repeat=n):
        yield (*x, words + 1, *((x[0] + i * blocks // n) % (words + 1) for i in range(n)))


def histograms(n: int, words: int) -> Iterator[tuple]:
    for x in itertools.product(range(1, words + 1), repeat=n):
        yield (*x, 0, *(x.count(each) for each in x))


def permutations(n: int, words: int) -> Iterator[tuple]:
    for x in itertools.product(range(n + 1, n + words + 1), repeat=n):
        for order in itertools.permutations(range(1, n + 1)):
            yield (*x, 0, *order, 0, *(x[i - 1] for i in order))


def counted_levels(every: list[tuple], outputs: int, first: int) -> list[float]:
    """Initial loss, all outputs at their marginals, plateau and floor, from Shannon entropies of equally likely sequences.

    The floor is the entropy of whole sequences given their first token: the least that any next-token model reaches.
    """

    def entropy(values) -> float:
        counts = np.array(list(Counter(values).values())) / len(every)
        return -np.sum(counts * np.log(counts))

    positions = len(every[0]) - 1
    alone = [entropy(each) for each in zip(*every, strict=True)][-outputs:]
    floor = entropy(every) - entropy([each[0] for each in every])
    initial = np.log(1 + max(max(each) for each in every))
    return [initial, *((floor + sum(alone[right:])) / positions for right in (0, first, outputs))]


def counted_pairs(every: list[tuple], outputs: int) -> list[Fraction]:
    """Mean over neighbours of P(y_i = y_{i+1}), and over all outputs of P(y_i = y_1)."""
    shown = [each[-outputs:] for each in every]
    neighbours = sum(one == two for y in shown for one, two in itertools.pairwise(y))
    with_first = sum(y.count(y[0]) for y in shown)
    return [Fraction(neighbours, len(every) * (outputs - 1)), Fraction(with_first, len(every) * outputs)]


def counted_progress(n: int, window: int) -> Fraction:
    """Entries of a causal map of ones in columns t-k+1..t of row t over all its entries; rows begin at the separator."""
    needed = sum(len(range(max(0, t - window + 1), t + 1)) for t in range(n))
    return Fraction(needed, sum(n + 1 + t for t in range(n)))


def levels(losses: closed_forms.Losses) -> list[float]:
    """The four levels of `counted_levels`, from closed forms."""
    return [losses.initial, losses.marginal, losses.plateau, losses.floor]


# small enough to count in a moment: n, p and k; n and words; n, words and blocks
WINDOWS = ((2, 3, 2), (4, 5, 1), (4, 5, 2), (5, 4, 3), (4, 6, 4), (6, 3, 5))


def counted_tasks() -> dict[str, list[tuple]]:
    """All sequences of some small tasks, how many outputs are right on the plateau, and what gradflow says of the losses."""
    return {
        "window_sum": [(window_sums(*size), size[2] - 1, closed_forms.window_sum(*size)) for size in WINDOWS],
        "prefix_sum": [(prefix_sums(*size), 1, closed_forms.prefix_sum(*size)) for size in ((5, 4), (4, 5), (6, 3))],
        "prefix_sum of permutations": [(prefix_sums(m - 1, m, True), 1, closed_forms.prefix_sum(m - 1, m, True)) for m in (3, 5, 7)],
        "copy": [(copies(*size), 1, closed_forms.copy(*size)) for size in ((3, 4), (5, 3))],
        "repeat": [(repeats(*size), size[0] // size[2], closed_forms.repeat(*size)) for size in ((4, 4, 1), (4, 5, 2), (6, 3, 3))],
        "histogram": [(histograms(*size), 0, closed_forms.histogram(*size)) for size in ((3, 4), (5, 3), (4, 5))],
        "permutation": [(permutations(*size), 0, closed_forms.permutation(*size)) for size in ((3, 4), (4, 3))],
    }  # fmt: skip


def derive() -> Derivation:
    """Symbolically for any k, p and n; then closed forms against counts over all inputs."""
    zero = chance_of_zero()
    require_zero("an empty sum is 0", zero.subs(k, 0) - 1)
    require_zero("recursion", zero.subs(k, k + 1) - (1 - zero) / (p - 1))
    omega, z = sp.symbols("omega z")
    character = sp.cancel(((omega**p - omega) / (omega - 1)).subs(omega**p, 1)) / (p - 1)
    require_zero("by characters", (1 + (p - 1) * character**k) / p - zero)
    others = sp.Symbol("q", positive=True)  # p - 1, so that sympy parts powers of products
    require_zero("the code's", (closed_forms.chance_of_zero(k, p) - zero).subs(p, others + 1))
    for prime in (3, 5, 7, 11):
        alternating = sum((-z) ** count for count in range(prime))
        require_zero("distinct numbers", (1 + z) * alternating - (1 - (-z) ** prime))
    return Derivation(
        "Losses of sequence tasks",
        "Gopalani and Hu (2025), arXiv 2506.13688, for the tasks",
        (
            r"Let $x_1, x_2, \dots$ be uniform on $1..p-1$ and $P_k(s)$ the probability that $k$ of them sum to $s$ mod $p$. The next one must be what is missing, "
            r"which it is with probability $1/(p-1)$ unless nothing is: $P_{k+1}(s) = (1 - P_k(s)) / (p-1)$, with $P_0$ all at 0. So values other than 0 stay equally likely, and",
            equation("P_k(0)", zero),
            r"by the recursion, for symbolic $k$ and any $p \ge 2$. The same by characters: $\sum_{x=1}^{p-1} \omega^x = -1$ for every root of unity $\omega \ne 1$ of order $p$ or a divisor, so each of the "
            r"$p - 1$ characters other than 1 has the mean $-1/(p-1)$, to the power $k$.",
            r"For $k$ distinct numbers and an odd prime $p$, $\prod_{x=1}^{p-1} (1 + z\omega^x) = (1 - (-z)^p) / (1 + z) = \sum_{k<p} (-z)^k$, since with $x = 0$ the product is $1 - (-z)^p$; "
            r"so a character sums to $(-1)^k$ over all $\binom{p-1}{k}$ choices, and $P(0) = \frac1p \big(1 + (p-1)(-1)^k / \binom{p-1}{k}\big)$.",
            r"Prompt, separator and output have $2n + 1$ tokens, of which $2n$ are predicted. The inputs $x_2..x_n$ are among these and cost $\ln(p-1)$ each, the separator costs nothing, and an output of which "
            r"only the distribution is known costs its entropy: $\ln(p-1)$ where $y_i = x_i$, and for a sum",
            equation("H_k", r"-P_k(0) \ln P_k(0) - (1 - P_k(0)) \ln \frac{1 - P_k(0)}{p - 1}."),
            r"The moving window sum begins at $\ln(p+1)$. With all outputs at their marginals, with the $k-1$ copied ones right, and with all right its loss is",
            equation(r"\text{marginal}", r"\frac{(n+k-2)\ln(p-1) + (n-k+1)H_k}{2n},"),
            equation(r"\text{plateau}", r"\frac{(n-1)\ln(p-1) + (n-k+1)H_k}{2n}, \qquad \text{floor} = \frac{(n-1)\ln(p-1)}{2n}."),
            r"Counts: Shannon entropies over all inputs of small tasks, position by position and, for the floor, of whole sequences given their first token.",
        ),
        _checks(),
    )  # fmt: skip


def _checks() -> tuple:
    """Symbolic expressions on a grid of k, p and n; counts, task by task."""
    grid = np.array([(count, modulus) for count in range(7) for modulus in (2, 3, 4, 5, 11, 17)])
    sizes = np.array([(16, 17, 2), (8, 11, 2), (8, 7, 2), (16, 17, 3), (13, 6, 5)])
    made = [closed_forms.chance_of_zero(int(count), int(modulus)) for count, modulus in grid]
    distinct = [(count, modulus) for modulus in (3, 5, 7, 11) for count in range(modulus)]
    of_distinct = [np.mean([sum(x) % m == 0 for x in itertools.combinations(range(1, m), c)]) for c, m in distinct]
    windows = [(list(window_sums(*size)), size) for size in WINDOWS]
    maps = ((8, 2), (16, 2), (16, 3), (5, 5))
    return (
        compare("chance_of_zero", sp.lambdify([k, p], chance_of_zero())(*grid.T.astype(float)), made),
        compare("chance_of_zero_distinct", of_distinct, [float(closed_forms.chance_of_zero_distinct(*each)) for each in distinct]),
        compare("the levels of window_sum", np.array([np.ravel(sp.lambdify([n, p, k], window_sum_levels())(*map(float, each))) for each in sizes]),
                [levels(closed_forms.window_sum(*map(int, each))) for each in sizes]),
        *(
            compare(f"{task}, counted", [counted_levels(list(every), len(losses.outputs), first) for every, first, losses in cases],
                    [levels(losses) for _, _, losses in cases])
            for task, cases in counted_tasks().items()
        ),
        compare("pairs of window sums, counted", [counted_pairs(every, size[0]) for every, size in windows],
                [[closed_forms.window_sum_repetition(*size), closed_forms.window_sum_agreement(*size)] for _, size in windows]),
        compare("uniform_progress, counted", [counted_progress(*each) for each in maps],
                [closed_forms.uniform_progress(closed_forms.window_entries(*each), each[0] + 1, each[0]) for each in maps]),
    )  # fmt: skip
