"""Attention helped or hindered by hand: the entries that a task needs are multiplied by a strength, in training and when looked at.

    A <- A * M,   M = strength on the optimal entries of the rows of outputs 2, 3, .., else 1

Source: Gopalani and Hu (2025), arXiv 2506.13688, section 4: a strength above 1 shortens the plateau, one below 1 lengthens it. M is a
constant: gradients pass through A alone. The row of the first output, which is learned before the plateau, is left alone.
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gradflow.errors import require
from gradflow.models.transformer import Tap
from gradflow.tasks.sequences import Task


class Biased(eqx.Module):
    """The taps that bias the maps of sequences of a task: give it to `transformer.Loss` and to `observe.sequences.Observer`.

    `strategy` says which of the task's ways (`task.strategies`) is helped; the layers of which it speaks are biased, the others not.
    Raises `InputError` for a strategy that the task has not.
    """

    task: Task = eqx.field(static=True)
    strategy: int = eqx.field(static=True, default=0)

    def __check_init__(self):
        known = self.task.strategies
        require(
            self.strategy in range(len(known)),
            f"strategy must be below {len(known)} ({', '.join(known)}), got {self.strategy}.",
        )

    def __call__(self, tokens: Int[Array, " length"], strength: Float[Array, ""]) -> Tap:
        optimal = self.task.optimal(tokens)[self.strategy].at[:, 0].set(False)  # of each layer, rows of outputs
        wanted = jnp.pad(optimal, ((0, 0), (self.task.prompt - 1, 0), (0, 0)))  # the same of all positions
        by_place = {f"layers/{layer}/map": of_layer for layer, of_layer in enumerate(wanted)}

        def tap(place, value, positions):
            if place not in by_place:
                return value
            here = by_place[place][positions, : value.shape[-1]]
            return value * jnp.where(here, jnp.asarray(strength, value.dtype), 1)

        return tap


class WithStrength(eqx.Module):
    """A stream whose batches come with the strength of a bias: 1 before step `start`, `strength` from it on.

    All is traced: another strength or start needs no new compilation.
    """

    stream: Callable
    strength: Float[Array, ""] = eqx.field(converter=lambda strength: jnp.asarray(strength, float))
    start: Int[Array, ""] = eqx.field(converter=lambda start: jnp.asarray(start, int), default=0)

    def __call__(self, step: Int[Array, ""]) -> tuple:
        return *self.stream(step), jnp.where(step < self.start, 1.0, self.strength)
