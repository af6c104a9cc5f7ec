"""Algorithmic tasks on sequences: a prompt of random tokens, a separator, and the output that the prompt determines.

Source: Gopalani and Hu (2025), arXiv 2506.13688, section 2 and Appendix. Tokens are numbered from 0. A model predicts every token
but the first from those before it, the random inputs too.

Every task says what a prompt is made of (`parts`) and what its output is (`answer`); samples, and lists of all sequences, are made
from these two. Output t, from 0, is predicted at position prompt + t - 1, its row of the attention map.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from gradflow.errors import require
from gradflow.tasks import closed_forms


class Uniform(NamedTuple):
    """`count` consecutive tokens of a prompt, each uniform on start..stop-1: independent, or no two equal. A separator is the only one
    of its range."""

    start: int
    stop: int
    count: int = 1
    distinct: bool = False

    @property
    def ways(self) -> int:
        words = self.stop - self.start
        return math.perm(words, self.count) if self.distinct else words**self.count

    def every(self) -> Iterator[tuple[int, ...]]:
        words = range(self.start, self.stop)
        return (
            itertools.permutations(words, self.count) if self.distinct else itertools.product(words, repeat=self.count)
        )

    def draw(self, key: PRNGKeyArray, size: int) -> Int[Array, "size count"]:
        if self.ways == 1:  # nothing to draw
            return jnp.full((size, self.count), self.start, jnp.int32)
        if self.distinct:
            words = jnp.arange(self.start, self.stop, dtype=jnp.int32)
            rows = jnp.broadcast_to(words, (size, len(words)))
            return jax.random.permutation(key, rows, axis=1, independent=True)[:, : self.count]
        return jax.random.randint(key, (size, self.count), self.start, self.stop, jnp.int32)


@dataclasses.dataclass(frozen=True)
class Task:
    """What all tasks share. The others have

    parts       what a prompt is made of, its separator included
    losses      `tasks.closed_forms.Losses`, in closed form; refuses sizes that do not fit
    answer      (prompt,) -> (outputs,): the output of a prompt
    optimal     (length,) -> (strategies, layers, outputs, length - 1): the entries of the attention map that a sequence needs, for each
                way of solving the task that is known, from the first layer on; what a row's own token tells needs no attention
    strategies  their names
    segments    the part of the output that each output belongs to, from 0 on; default: there is one
    pairs       the pairs of output rows whose hidden states are compared: all within a segment, those with its first output only
                where it `compares_first`
    """

    strategies: ClassVar[tuple[str, ...]] = ("optimal",)
    compares_first: ClassVar[bool] = True

    def __post_init__(self):
        _ = self.losses  # refuses

    @property
    def vocabulary(self) -> int:
        return self.losses.vocabulary

    @property
    def prompt(self) -> int:
        """Tokens of a prompt with its separator."""
        return sum(part.count for part in self.parts)

    @property
    def outputs(self) -> int:
        return len(self.losses.outputs)

    @property
    def length(self) -> int:
        return self.prompt + self.outputs

    @property
    def rows(self) -> Int[np.ndarray, " outputs"]:
        """The positions at which the outputs are predicted."""
        return self.prompt - 1 + np.arange(self.outputs)

    @property
    def segments(self) -> Int[np.ndarray, " outputs"]:
        return np.zeros(self.outputs, np.int32)

    @property
    def pairs(self) -> Bool[np.ndarray, "outputs outputs"]:
        within = np.tri(self.outputs, k=-1, dtype=bool) & (self.segments[:, None] == self.segments)
        return within if self.compares_first else within & (np.diff(self.segments, prepend=-1) == 0)

    def draw(self, key: PRNGKeyArray, size: int) -> Int[Array, "size prompt"]:
        """`size` prompts, independent of each other."""
        keys = jax.random.split(key, len(self.parts))
        return jnp.concatenate([part.draw(each, size) for part, each in zip(self.parts, keys, strict=True)], axis=1)

    def sample(self, key: PRNGKeyArray, size: int) -> Int[Array, "size length"]:
        """`size` sequences, prompts with their outputs, drawn independently."""
        return self.complete(self.draw(key, size))

    def complete(self, prompts: Int[Array, "size prompt"]) -> Int[Array, "size length"]:
        """Prompts with their outputs."""
        return jnp.concatenate([prompts, jax.vmap(self.answer)(prompts)], axis=1)


def every_sequence(task: Task, limit: int = 100_000) -> Int[Array, "size length"]:
    """All sequences of a task, which are equally likely: the mean of a loss over them is its expectation.

    Raises InputError where there are more than `limit`.
    """
    count = math.prod(part.ways for part in task.parts)
    require(
        count <= limit, f"{task} has {count} sequences, and at most limit = {limit} are listed: take smaller sizes."
    )
    prompts = itertools.product(*(part.every() for part in task.parts))
    return task.complete(jnp.asarray(np.array([sum(each, ()) for each in prompts], np.int32)))


class Fresh(eqx.Module):
    """A stream of fresh batches, for `descend(stream=...)`: `size` sequences of a task for every step."""

    task: Task = eqx.field(static=True)
    size: int = eqx.field(static=True)
    key: PRNGKeyArray

    def __call__(self, step: Int[Array, ""]) -> tuple[Int[Array, "size length"]]:
        return (self.task.sample(jax.random.fold_in(self.key, step), self.size),)


# ------------------------------------------------------------------------------------------------- sums modulo p


@dataclasses.dataclass(frozen=True)
class WindowSum(Task):
    """Moving window sum: y_i = x_i for i < k, else (x_{i-k+1} + .. + x_i) mod p, of x_i uniform on 1..p-1; the separator is p."""

    n: int = 16
    p: int = 17
    k: int = 2
    compares_first: ClassVar[bool] = False

    @property
    def parts(self) -> tuple[Uniform, ...]:
        return _inputs(self.n, self.p - 1, self.p)

    @property
    def losses(self) -> closed_forms.Losses:
        return closed_forms.window_sum(self.n, self.p, self.k)

    def answer(self, prompt: Int[Array, " prompt"]) -> Int[Array, " outputs"]:
        last = np.arange(self.n)
        first = np.where(last < self.k - 1, last, last - self.k + 1)
        return _sums(prompt[: self.n], first, last + 1, self.p)

    def optimal(self, tokens: Int[Array, " length"]) -> Bool[Array, "strategies layers outputs length-1"]:
        """Columns t-k+1..t of row t, those from 0 on: as published, also where y_i = x_i asks for the last of them alone."""
        row, column = _entries(self)
        return _one_way((row - self.k < column) & (column <= row))


@dataclasses.dataclass(frozen=True)
class PrefixSum(Task):
    """y_i = (x_1 + .. + x_i) mod p, of x_i uniform on 1..p-1 or, `distinct`, a permutation of these; the separator is p."""

    n: int = 16
    p: int = 17
    distinct: bool = False
    compares_first: ClassVar[bool] = False

    @property
    def parts(self) -> tuple[Uniform, ...]:
        return _inputs(self.n, self.p - 1, self.p, self.distinct)

    @property
    def losses(self) -> closed_forms.Losses:
        return closed_forms.prefix_sum(self.n, self.p, self.distinct)

    def answer(self, prompt: Int[Array, " prompt"]) -> Int[Array, " outputs"]:
        return jnp.cumsum(prompt[: self.n]) % self.p

    def optimal(self, tokens: Int[Array, " length"]) -> Bool[Array, "strategies layers outputs length-1"]:
        """The next input and, after y_1, the sum so far, which is the row's own token."""
        row, column = _entries(self)
        return _one_way((column == row) | (column == self.n + row) & (row > 0))


MIXES = {
    "123_disjoint_454": ((1, 0, 4), (2, 4, 9), (3, 10, 14)),
    "124_stair_653": ((1, 0, 6), (2, 0, 5), (4, 0, 3)),
    "124_disjoint_444": ((1, 0, 4), (2, 4, 8), (4, 9, 13)),
    "124_disjoint_453": ((1, 0, 4), (2, 4, 9), (4, 10, 13)),
}
"""Segments of `ConcatenatedSums`: a window k, and which of its sums, from `start` to before `stop`; sum i is of x_{i+1}..x_{i+k}."""


@dataclasses.dataclass(frozen=True)
class ConcatenatedSums(Task):
    """Sums modulo p of windows of different size side by side, see `MIXES`; 16 x_i uniform on 1..p-1, and the separator p."""

    mix: str = "123_disjoint_454"
    p: int = 17
    n: ClassVar[int] = 16

    def __post_init__(self):
        require(self.mix in MIXES, f"mix must be one of {', '.join(MIXES)}, got {self.mix!r}.")
        super().__post_init__()

    @property
    def parts(self) -> tuple[Uniform, ...]:
        return _inputs(self.n, self.p - 1, self.p)

    @property
    def losses(self) -> closed_forms.Losses:
        first, end = self._windows
        return closed_forms.concatenated_sums(self.n, self.p, tuple((end - first).tolist()))

    @property
    def _windows(self) -> Int[np.ndarray, "2 outputs"]:
        """The first input of each output, from 0, and the one after its last."""
        return np.array([(i, i + k) for k, start, stop in MIXES[self.mix] for i in range(start, stop)]).T

    @property
    def segments(self) -> Int[np.ndarray, " outputs"]:
        return np.repeat(np.arange(3, dtype=np.int32), [stop - start for _, start, stop in MIXES[self.mix]])

    def answer(self, prompt: Int[Array, " prompt"]) -> Int[Array, " outputs"]:
        return _sums(prompt[: self.n], *self._windows, self.p)

    def optimal(self, tokens: Int[Array, " length"]) -> Bool[Array, "strategies layers outputs length-1"]:
        """The numbers of which an output is the sum: derived, no such set is published."""
        _, column = _entries(self)
        first, end = self._windows[..., None]
        return _one_way((first <= column) & (column < end))


@dataclasses.dataclass(frozen=True)
class Addition(Task):
    """a+b= and the digits of the sum, of two numbers uniform on those of up to `digits` digits, padded with zeros to this length.

    Token 10 is +, token 11 is =. The sum has digits + 1 digits, `units_first` or the last carry first.
    """

    digits: int = 4
    units_first: bool = True

    @property
    def parts(self) -> tuple[Uniform, ...]:
        return Uniform(0, 10, self.digits), Uniform(10, 11), Uniform(0, 10, self.digits), Uniform(11, 12)

    @property
    def losses(self) -> closed_forms.Losses:
        return closed_forms.addition(self.digits, self.units_first)

    def answer(self, prompt: Int[Array, " prompt"]) -> Int[Array, " outputs"]:
        carry, shown = 0, []
        for pair in (prompt[: self.digits] + prompt[self.digits + 1 : -1])[::-1]:
            shown.append((pair + carry) % 10)
            carry = (pair + carry) // 10
        return jnp.stack([*shown, carry] if self.units_first else [carry, *shown[::-1]])

    @property
    def pairs(self) -> Bool[np.ndarray, "outputs outputs"]:
        """All that leave the last carry out."""
        pairs, carry = super().pairs, self.digits if self.units_first else 0
        pairs[carry] = pairs[:, carry] = False
        return pairs

    def optimal(self, tokens: Int[Array, " length"]) -> Bool[Array, "strategies layers outputs length-1"]:
        """Units first: both digits of an output's place and of the place before, which tell the carry together with the row's own
        token. Else, derived: both digits of its place and of all lower ones."""
        n, row = self.digits, np.arange(self.digits + 1)[:, None]
        place = np.full(self.length - 1, -2)  # no place, nor one before
        place[:n] = place[n + 1 : 2 * n + 1] = np.arange(n)[::-1]
        shown = row if self.units_first else n - row
        lowest = shown - 1 if self.units_first else 0
        return _one_way((lowest <= place) & (place <= shown))


# --------------------------------------------------------------------------------------- copies, counts and permutations


@dataclasses.dataclass(frozen=True)
class Copy(Task):
    """y = x, or from the last to the first, of x_i uniform on 1..words; the separator is 0."""

    n: int = 16
    words: int = 16
    reverse: bool = False

    @property
    def parts(self) -> tuple[Uniform, ...]:
        return _inputs(self.n, self.words, 0)

    @property
    def losses(self) -> closed_forms.Losses:
        return closed_forms.copy(self.n, self.words)

    def answer(self, prompt: Int[Array, " prompt"]) -> Int[Array, " outputs"]:
        x = prompt[: self.n]
        return x[::-1] if self.reverse else x

    def optimal(self, tokens: Int[Array, " length"]) -> Bool[Array, "strategies layers outputs length-1"]:
        row, column = _entries(self)
        return _one_way(column == (self.n - 1 - row if self.reverse else row))


@dataclasses.dataclass(frozen=True)
class Repeat(Task):
    """`blocks` blocks of equal tokens, the b-th (from 0) of (x_1 + b) mod (words + 1); x_i uniform on 1..words, the separator is words + 1."""

    n: int = 16
    words: int = 16
    blocks: int = 1
    compares_first: ClassVar[bool] = False

    @property
    def parts(self) -> tuple[Uniform, ...]:
        return _inputs(self.n, self.words, self.words + 1)

    @property
    def losses(self) -> closed_forms.Losses:
        return closed_forms.repeat(self.n, self.words, self.blocks)

    @property
    def segments(self) -> Int[np.ndarray, " outputs"]:
        return np.repeat(np.arange(self.blocks, dtype=np.int32), self.n // self.blocks)

    def answer(self, prompt: Int[Array, " prompt"]) -> Int[Array, " outputs"]:
        return (prompt[0] + self.segments) % (self.words + 1)

    def optimal(self, tokens: Int[Array, " length"]) -> Bool[Array, "strategies layers outputs length-1"]:
        """x_1, on which all outputs depend and on nothing else: derived, no such set is published."""
        row, column = _entries(self)
        return _one_way(column == 0 * row)


@dataclasses.dataclass(frozen=True)
class Histogram(Task):
    """y_i = #{j: x_j = x_i}, of x_i uniform on 1..words; the separator is 0."""

    n: int = 16
    words: int = 12

    @property
    def parts(self) -> tuple[Uniform, ...]:
        return _inputs(self.n, self.words, 0)

    @property
    def losses(self) -> closed_forms.Losses:
        return closed_forms.histogram(self.n, self.words)

    def answer(self, prompt: Int[Array, " prompt"]) -> Int[Array, " outputs"]:
        x = prompt[: self.n]
        return (x[:, None] == x).sum(axis=1, dtype=x.dtype)

    def optimal(self, tokens: Int[Array, " length"]) -> Bool[Array, "strategies layers outputs length-1"]:
        """The input that is counted, in the first layer; it is then compared with all inputs, of which nothing is asked."""
        row, column = _entries(self)
        return _one_way(column == row)


@dataclasses.dataclass(frozen=True)
class Permutation(Task):
    """x, 0, a permutation pi of 1..n, 0, and y_i = x_{pi^c(i)}, c = `power`; x_i uniform on the `words` tokens after n."""

    n: int = 16
    words: int = 16
    power: int = 1
    strategies: ClassVar[tuple[str, ...]] = ("permutation first", "input first")

    def __post_init__(self):
        super().__post_init__()
        require(self.power >= 1, f"The power of a permutation must be at least 1, got {self.power}.")

    @property
    def parts(self) -> tuple[Uniform, ...]:
        x = Uniform(self.n + 1, self.n + self.words + 1, self.n)
        return x, Uniform(0, 1), Uniform(1, self.n + 1, self.n, distinct=True), Uniform(0, 1)

    @property
    def losses(self) -> closed_forms.Losses:
        return closed_forms.permutation(self.n, self.words)

    def _path(self, tokens: Int[Array, " length"]) -> list[Int[Array, " outputs"]]:
        """Where to look for each output, hop by hop: `power` positions in the permutation, and last one in the input."""
        shown, i, hops = tokens[self.n + 1 : 2 * self.n + 1], jnp.arange(self.n), []
        for _ in range(self.power):
            hops.append(self.n + 1 + i)
            i = shown[i] - 1
        return [*hops, i]

    def answer(self, prompt: Int[Array, " prompt"]) -> Int[Array, " outputs"]:
        return prompt[self._path(prompt)[-1]]

    def optimal(self, tokens: Int[Array, " length"]) -> Bool[Array, "strategies layers outputs length-1"]:
        """pi_i in layer 1 and x_{pi_i} in layer 2, or the layers' roles exchanged. For a power, derived: a layer a hop, or backwards."""
        _, column = _entries(self)
        layers = jnp.stack(self._path(tokens))[..., None] == column
        return jnp.stack([layers, layers[::-1]])


# ------------------------------------------------------------------------------------------------------------- shared


def _inputs(n: int, words: int, separator: int, distinct: bool = False) -> tuple[Uniform, ...]:
    """A prompt of n tokens out of 1..words and a separator."""
    return Uniform(1, words + 1, n, distinct), Uniform(separator, separator + 1)


def _sums(x: Int[Array, " n"], first: Int[np.ndarray, " outputs"], end: Int[np.ndarray, " outputs"], p: int):
    """The sums of x[first] .. x[end - 1] modulo p."""
    total = jnp.pad(jnp.cumsum(x), (1, 0))
    return (total[end] - total[first]) % p


def _entries(task: Task) -> tuple[Int[np.ndarray, "outputs 1"], Int[np.ndarray, "1 length-1"]]:
    """Output rows of the attention map, from 0, and its columns."""
    return np.ogrid[: task.outputs, : task.length - 1]


def _one_way(needed: Bool[np.ndarray, "outputs length-1"]) -> Bool[Array, "1 1 outputs length-1"]:
    """One strategy, which asks something of one layer."""
    return jnp.asarray(needed)[None, None]


PAPER: dict[str, Task] = {
    "window_sum": WindowSum(),
    "prefix_sum": PrefixSum(),
    "prefix_sum_distinct": PrefixSum(distinct=True),
    "addition": Addition(),
    "permutation": Permutation(),
    "histogram": Histogram(),
    "copy": Copy(),
    "reverse": Copy(reverse=True),
    **{f"repeat_{blocks}": Repeat(blocks=blocks) for blocks in (1, 2, 4)},
    **{mix: ConcatenatedSums(mix) for mix in MIXES},
}
"""The tasks of the paper at its sizes."""

SMALL: dict[str, Task] = {
    "window_sum": WindowSum(8, 11),
    "prefix_sum": PrefixSum(8, 11),
    "prefix_sum_distinct": PrefixSum(10, 11, distinct=True),
    "addition": Addition(2),
    "permutation": Permutation(8, 8),
    "histogram": Histogram(8, 6),
    "copy": Copy(8, 10),
    "reverse": Copy(8, 10, reverse=True),
    **{f"repeat_{blocks}": Repeat(12, 10, blocks) for blocks in (1, 2, 4)},
    **{mix: ConcatenatedSums(mix, 11) for mix in MIXES},
}
"""The same at sizes that are learned in seconds, but for the concatenated sums, whose segments are of 16 numbers."""
