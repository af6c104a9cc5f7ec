"""Algorithmic tasks on sequences: a prompt of random tokens, a separator, and the output that the prompt determines.

Source: Gopalani and Hu (2025), arXiv 2506.13688, section 2 and Appendix. Tokens are numbered from 0. A model predicts every token
but the first from those before it, the random inputs too.

Every task says how prompts are drawn (`draw`) and what their output is (`answer`); the rest is counted from these two. Output t, from 0, is
predicted at position prompt + t - 1, its row of the attention map.
"""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from gradflow.tasks import closed_forms


@dataclasses.dataclass(frozen=True)
class Task:
    """What all tasks share. The others have

    vocabulary, prompt, outputs   numbers of tokens: known ones, of a prompt with its separator, of an output
    losses      `tasks.closed_forms.Losses` in closed form, or None
    draw        (key, size) -> (size, prompt): random prompts
    answer      (prompt,) -> (outputs,): the output of one of them
    optimal     (length,) -> (strategies, layers, outputs, length - 1): the entries of the attention map that a sequence needs, for each
                way of solving the task that is known, from the first layer on
    strategies  their names
    pairs       the pairs of output rows whose hidden states are compared; default: all
    """

    strategies: ClassVar[tuple[str, ...]] = ("optimal",)

    @property
    def length(self) -> int:
        return self.prompt + self.outputs

    @property
    def rows(self) -> Int[np.ndarray, " outputs"]:
        """The positions at which the outputs are predicted."""
        return self.prompt - 1 + np.arange(self.outputs)

    @property
    def pairs(self) -> Bool[np.ndarray, "outputs outputs"]:
        return np.tri(self.outputs, k=-1, dtype=bool)

    def sample(self, key: PRNGKeyArray, size: int) -> Int[Array, "size length"]:
        """`size` sequences, prompts with their outputs, drawn independently."""
        prompts = self.draw(key, size)
        return jnp.concatenate([prompts, jax.vmap(self.answer)(prompts)], axis=1)


class Fresh(eqx.Module):
    """A stream of fresh batches, for `descend(stream=...)`: `size` sequences of a task for every step."""

    task: Task = eqx.field(static=True)
    size: int = eqx.field(static=True)
    key: PRNGKeyArray

    def __call__(self, step: Int[Array, ""]) -> tuple[Int[Array, "size length"]]:
        return (self.task.sample(jax.random.fold_in(self.key, step), self.size),)


@dataclasses.dataclass(frozen=True)
class WindowSum(Task):
    """Moving window sum: y_i = x_i for i < k, else (x_{i-k+1} + .. + x_i) mod p, of x_i uniform on 1..p-1; the separator is p."""

    n: int = 16
    p: int = 17
    k: int = 2

    def __post_init__(self):
        closed_forms.window_sum(self.n, self.p, self.k)  # refuses sizes that do not fit

    @property
    def vocabulary(self) -> int:
        return self.p + 1

    @property
    def prompt(self) -> int:
        return self.n + 1

    @property
    def outputs(self) -> int:
        return self.n

    @property
    def losses(self) -> closed_forms.Losses:
        return closed_forms.window_sum(self.n, self.p, self.k)

    def draw(self, key: PRNGKeyArray, size: int) -> Int[Array, "size prompt"]:
        return _with_separator(jax.random.randint(key, (size, self.n), 1, self.p, jnp.int32), self.p)

    def answer(self, prompt: Int[Array, " prompt"]) -> Int[Array, " outputs"]:
        x = prompt[: self.n]
        total, before = jnp.cumsum(x), jnp.pad(jnp.cumsum(x), (self.k, 0))[: self.n]
        return jnp.where(jnp.arange(self.n) < self.k - 1, x, (total - before) % self.p)

    @property
    def pairs(self) -> Bool[np.ndarray, "outputs outputs"]:
        return _without_first(super().pairs)

    def optimal(self, tokens: Int[Array, " length"]) -> Bool[Array, "strategies layers outputs length-1"]:
        row, column = np.arange(self.outputs)[:, None], np.arange(self.length - 1)
        return jnp.asarray((row - self.k < column) & (column <= row))[None, None]


def _with_separator(x: Int[Array, "size n"], separator: int) -> Int[Array, "size n+1"]:
    return jnp.pad(x, ((0, 0), (0, 1)), constant_values=separator)


def _without_first(pairs: Bool[np.ndarray, "outputs outputs"]) -> Bool[np.ndarray, "outputs outputs"]:
    pairs[:, 0] = False
    return pairs


PAPER = {"window_sum": WindowSum()}
SMALL = {"window_sum": WindowSum(n=8, p=11)}
