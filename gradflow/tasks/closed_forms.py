"""What a next-token model of an algorithmic task can reach: the loss of every stage, in closed form.

A prompt of n random tokens, a separator and the output; cross-entropy in nats, averaged over all positions that are predicted,
which is every one but the first, so that random inputs are scored, too (Gopalani and Hu 2025, arXiv 2506.13688). Then

    initial   ln(vocabulary)                                 all tokens equally likely
    marginal  (inputs + sum_i H(y_i)) / positions            every output at its own marginal distribution
    plateau   the same without the first outputs, which are right by then
    floor     inputs / positions                             all outputs right

where `inputs` are the nats of the inputs that are predicted, each given those before. For the moving window sum of k numbers,
x_i uniform on 1..p-1, y_i = x_i for i < k and (x_{i-k+1} + .. + x_i) mod p from k on, the outputs before y_k are right first:

    plateau = ((n-1) ln(p-1) + (n-k+1) H) / (2n),    floor = (n-1) ln(p-1) / (2n)

with H the entropy of a sum of k numbers. Derived, and held to counts over all inputs, in `derivations/sequence_losses.py`.
"""

import dataclasses
import math
from collections.abc import Iterable
from fractions import Fraction

from gradflow.errors import require


@dataclasses.dataclass(frozen=True)
class Losses:
    """The losses of a task.

    vocabulary  number of tokens
    positions   number of tokens that are predicted
    inputs      nats of the inputs among these
    outputs     entropy of each output by itself, in nats
    first       how many outputs, from the first on, are right on the plateau; None where that is not known
    """

    vocabulary: int
    positions: int
    inputs: float
    outputs: tuple[float, ...]
    first: int | None = None

    def with_right(self, count: int) -> float:
        """The loss where the first `count` outputs are right and the others at their marginals."""
        require(0 <= count <= len(self.outputs), f"count must be between 0 and {len(self.outputs)}, got {count}.")
        return (self.inputs + sum(self.outputs[count:])) / self.positions

    @property
    def initial(self) -> float:
        return math.log(self.vocabulary)

    @property
    def marginal(self) -> float:
        return self.with_right(0)

    @property
    def plateau(self) -> float:
        """NaN where it is not known which outputs are right first."""
        return math.nan if self.first is None else self.with_right(self.first)

    @property
    def floor(self) -> float:
        return self.with_right(len(self.outputs))


# ------------------------------------------------------------------------------------------------- sums modulo p


def chance_of_zero(k, p):
    """P(x_1 + .. + x_k = 0 mod p) = (1 + (p-1) (-1/(p-1))^k) / p, x_i uniform on 1..p-1; all other values are equally likely.

    For any p >= 2; arithmetic alone, so that fractions and sympy's symbols will do.
    """
    return (1 + (-1) ** k / (p - 1) ** (k - 1)) / p


def chance_of_zero_distinct(k: int, p: int) -> Fraction:
    """The same for k distinct numbers out of 1..p-1: (1 + (p-1) (-1)^k / C(p-1, k)) / p. For odd primes p."""
    require(p > 2 and all(p % d for d in range(2, math.isqrt(p) + 1)), f"p must be an odd prime, got {p}.")
    return (1 + Fraction((-1) ** k * (p - 1), math.comb(p - 1, k))) / p


def entropy(probabilities: Iterable[float]) -> float:
    """-sum q ln q, in nats."""
    return -sum(q * math.log(q) for q in probabilities if q > 0)


def entropy_of_residue(zero: float, p: int) -> float:
    """Entropy of a residue mod p that is 0 with probability `zero` and all others equally often."""
    return entropy([zero, 1 - zero]) + (1 - zero) * math.log(p - 1)


# --------------------------------------------------------------------------------------------------------- tasks


def window_sum(n: int, p: int, k: int = 2) -> Losses:
    """The moving window sum of k numbers (see above); the separator is token p."""
    _require_window(n, p, k)
    of_input, of_sum = math.log(p - 1), entropy_of_residue(chance_of_zero(k, p), p)
    outputs = (of_input,) * (k - 1) + (of_sum,) * (n - k + 1)
    return Losses(p + 1, 2 * n, (n - 1) * of_input, outputs, first=k - 1)


def prefix_sum(n: int, p: int, distinct: bool = False) -> Losses:
    """y_i = (x_1 + .. + x_i) mod p; on the plateau y_1 = x_1 is right. The marginal of y_i depends on i.

    `distinct`: the inputs are a permutation of 1..p-1, so n = p - 1 and p is an odd prime; inputs are scored as n - 1 draws
    without replacement.
    """
    _require_window(n, p, 1)
    if distinct:
        require(n == p - 1, f"A permutation of 1..p-1 has n = p - 1 numbers, got n = {n} and p = {p}.")
        inputs, zero = math.log(math.factorial(n - 1)), chance_of_zero_distinct
    else:
        inputs, zero = (n - 1) * math.log(p - 1), chance_of_zero
    outputs = tuple(entropy_of_residue(float(zero(i, p)), p) for i in range(1, n + 1))
    return Losses(p + 1, 2 * n, inputs, outputs, first=1)


def prefix_sum_without_repeats(n: int, p: int) -> float:
    """(n-1) ln(p-1) / n: y_1 is right, and after it any value but the last one, since prefix sums never repeat."""
    _require_window(n, p, 1)
    return (n - 1) * math.log(p - 1) / n


def concatenated_sums(n: int, p: int, windows: tuple[int, ...]) -> Losses:
    """Outputs that are each the sum of some of the n inputs, as many as `windows` says; the separator is token p."""
    for k in windows:
        _require_window(n, p, k)
    of_sum = {k: entropy_of_residue(chance_of_zero(k, p), p) for k in set(windows)}
    return Losses(p + 1, n + len(windows), (n - 1) * math.log(p - 1), tuple(of_sum[k] for k in windows))


def addition(digits: int, units_first: bool = True) -> Losses:
    """a+b= and the sum of two numbers uniform on 0..N-1, N = 10^digits, in base 10; tokens 10 and 11 are + and =.

    Every digit of the sum is uniform, for those of a are and the carry into its place depends on lower ones alone; the last carry is 1 where a + b >= N,
    with probability (N-1) / (2N). This carry is said to be right before the digits; `first` counts from the units and cannot tell it.
    """
    require(digits >= 1, f"digits must be at least 1, got {digits}.")
    carry = (10**digits - 1) / (2 * 10**digits)
    outputs = (math.log(10),) * digits, (entropy([carry, 1 - carry]),)
    low, high = outputs if units_first else outputs[::-1]
    return Losses(12, 3 * digits + 2, (2 * digits - 1) * math.log(10), low + high)


def copy(n: int, words: int) -> Losses:
    """y = x, or x reversed, with x_i uniform on 1..words; the separator is token 0. On the plateau y_1 is right."""
    _require_words(n, words)
    return Losses(words + 1, 2 * n, (n - 1) * math.log(words), (math.log(words),) * n, first=1)


def repeat(n: int, words: int, blocks: int) -> Losses:
    """Equal blocks, the b-th (from 0) of (x_1 + b) mod (words + 1); the separator is token words + 1.

    On the plateau the first block is right.
    """
    _require_words(n, words)
    fits = 1 <= blocks <= words and n % blocks == 0
    require(fits, f"blocks must divide n and be at most words, got {blocks}.")
    return Losses(words + 2, 2 * n, (n - 1) * math.log(words), (math.log(words),) * n, first=n // blocks)


def histogram(n: int, words: int) -> Losses:
    """y_i = #{j: x_j = x_i}, 1 + Binomial(n - 1, 1/words); the separator is token 0. No output is easier than another."""
    _require_words(n, words)
    chances = [math.comb(n - 1, c) * (words - 1) ** (n - 1 - c) / words ** (n - 1) for c in range(n)]
    return Losses(max(n, words) + 1, 2 * n, (n - 1) * math.log(words), (entropy(chances),) * n, first=0)


def permutation(n: int, words: int) -> Losses:
    """x, 0, a permutation of 1..n, 0, and x permuted, x_i uniform on `words` tokens. A permutation has ln n! nats."""
    _require_words(n, words)
    inputs = (n - 1) * math.log(words) + math.log(math.factorial(n))
    return Losses(n + words + 1, 3 * n + 1, inputs, (math.log(words),) * n, first=0)


# -------------------------------------------------------------------------------------------------- other measures


def window_sum_accuracy(n: int, p: int, k: int = 2) -> float:
    """Share of right outputs on the plateau: k - 1 are, and the likeliest residue is as often as it occurs."""
    _require_window(n, p, k)
    zero = chance_of_zero(k, p)
    return (k - 1 + (n - k + 1) * max(zero, (1 - zero) / (p - 1))) / n


def window_sum_repetition(n: int, p: int, k: int = 2):
    """Mean over neighbours of P(y_i = y_{i+1}) in the data of the moving window sum.

    Neighbours differ by one number that comes and one that goes, equal with probability 1/(p-1); but y_{k-1} = y_k, the last input
    that is copied and the first sum, asks the other k - 1 to vanish. Of prefix sums it is 0, for no x_i is.
    """
    _require_window(n, p, k)
    first_sum = chance_of_zero(k - 1, p) if k > 1 else 1 / (p - 1)
    return ((n - 2) / (p - 1) + first_sum) / (n - 1)


def window_sum_agreement(n: int, p: int, k: int = 2):
    """Mean over all outputs, y_1 too, of P(y_i = y_1) in the same data.

    Inputs agree by chance, y_k = y_1 asks the other k - 1 to vanish, and later sums do not know of x_1.
    """
    _require_window(n, p, k)
    copied = 1 + (k - 2) / (p - 1) if k > 1 else 0
    return (copied + chance_of_zero(k - 1, p) + (n - k) * chance_of_zero(k + 1, p)) / n


def repeat_repetition(n: int, blocks: int) -> float:
    """The same for `repeat`: all neighbours but those on both sides of a boundary."""
    return (n - blocks) / (n - 1)


def window_entries(n, k):
    """Entries of the attention map that the moving window sum needs: columns t-k+1..t of row t, those from 0 on."""
    return k * (2 * n - k + 1) / 2


def uniform_progress(entries, columns, rows):
    """Attention progress of a uniform causal map: `entries` over all entries of `rows` rows, the first of `columns`.

    With prompts of n tokens and a separator the first of the n rows has n + 1: 31/392 for a window of 2, n = 16.
    """
    return entries / (rows * columns + rows * (rows - 1) / 2)


def _require_window(n: int, p: int, k: int) -> None:
    require(n >= 2 and p >= 2, f"n and p must be at least 2, got n = {n} and p = {p}.")
    require(1 <= k <= n, f"A window takes between 1 and n = {n} numbers, got k = {k}.")


def _require_words(n: int, words: int) -> None:
    require(n >= 2 and words >= 2, f"n and words must be at least 2, got n = {n} and words = {words}.")
