"""What data each step of training sees, as a pure function of the step: minibatches out of given samples, or fresh ones."""

from collections.abc import Callable
from numbers import Integral
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from gradflow.errors import require

Sampling = Literal["with_replacement", "without_replacement"]


class Minibatches(eqx.Module):
    """A plan of minibatches out of the samples along the first axis of data[0]; `plan` makes it."""

    size: int = eqx.field(static=True)
    of: int = eqx.field(static=True)
    sampling: str = eqx.field(static=True)
    key: PRNGKeyArray | None

    @classmethod
    def plan(cls, data: tuple, size: int | None, sampling: str, key: PRNGKeyArray | None) -> "Minibatches":
        """Check that minibatches of this size can be had; without a size, every step sees all data."""
        if size is None:
            return cls(0, 0, "all", None)
        of = sample_count(data)
        require(isinstance(size, Integral), f"batch_size must be a whole number, got {size}.")
        require(1 <= size <= of, f"batch_size must be between 1 and the {of} samples, got {size}.")
        require(
            sampling in Sampling.__args__, f"Unknown sampling {sampling!r}; known are {', '.join(Sampling.__args__)}."
        )
        require(key is not None, "SGD draws minibatches: give it a key, such as jax.random.key(0).")
        return cls(size, of, sampling, key)

    @property
    def name(self) -> str:
        return "gradient descent" if self.sampling == "all" else f"SGD, batch_size = {self.size}, {self.sampling}"

    def at(self, step: jax.Array, data: tuple) -> tuple:
        """The data of one step."""
        if self.sampling == "all":
            return data
        if self.sampling == "with_replacement":
            chosen = jax.random.randint(jax.random.fold_in(self.key, step), (self.size,), 0, self.of)
        else:
            an_epoch = self.of // self.size
            order = jax.random.permutation(jax.random.fold_in(self.key, step // an_epoch), self.of)
            chosen = jax.lax.dynamic_slice_in_dim(order, (step % an_epoch) * self.size, self.size)
        return (jax.tree.map(lambda leaf: leaf[chosen], data[0]), *data[1:])

    def seen(self, step: jax.Array, data: tuple) -> tuple:
        """The data on which the loss is measured after so many steps: all."""
        return data


class Stream(eqx.Module):
    """Fresh data each step: `draw(step)` makes the arguments of the loss, the same ones whenever it is asked again.

    So does `held_out(step)` those that are looked at; without it the data given.
    """

    draw: Callable
    held_out: Callable | None

    @property
    def name(self) -> str:
        return "fresh data each step"

    def at(self, step: jax.Array, data: tuple) -> tuple:
        """The data of one step."""
        return _arguments(self.draw, step)

    def seen(self, step: jax.Array, data: tuple) -> tuple:
        """The data on which the loss is measured after so many steps."""
        return _arguments(self.held_out, step) if self.held_out else data


def _arguments(draw: Callable, step: jax.Array) -> tuple:
    """What is drawn for a step, if it is a tuple: an array would be taken apart into its rows."""
    drawn = draw(step)
    require(isinstance(drawn, tuple), "A stream must return a tuple, (batch, ...): the arguments of the loss.")
    return drawn


def sample_count(data: tuple) -> int:
    """How many samples data[0] holds, along the first axis of its arrays."""
    require(bool(data), "Minibatches need data: loss(params, batch).")
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(data[0])}
    same = len(counts) == 1 and counts != {()}
    require(same, "Every array of data[0] must hold the samples along its first axis, as many as the others.")
    return counts.pop()[0]
