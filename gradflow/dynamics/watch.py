"""What is kept of a run at each save point: the loss, the energy dissipated so far, the drift of conserved quantities."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gradflow.dynamics.trajectory import Saved
from gradflow.dynamics.trees import as_arrays, not_finite
from gradflow.errors import InputError, first_line, require


class Watch(eqx.Module):
    """Called with (state, dissipated energy, *data) at each save point; knows the conserved quantities at the start."""

    loss: Callable
    save: Callable | None
    invariants: Callable | None
    initial: dict[str, Array]

    @classmethod
    def begin(
        cls, loss: Callable, save: Callable | None, invariants: Callable | None, state: PyTree, data: tuple
    ) -> "Watch":
        """Watch a run that starts at `state`."""
        return as_arrays(cls(loss, save, invariants, eqx.filter_jit(invariants)(state, *data) if invariants else {}))

    def __call__(self, state: PyTree, dissipated: Float[Array, ""], *data: PyTree) -> Saved:
        now = self.invariants(state, *data) if self.invariants else {}
        drift = {name: relative_drift(value, self.initial[name]) for name, value in now.items()}
        kept = self.save(state, *data) if self.save else state
        return Saved(kept, self.loss(state, *data), dissipated, drift)


def require_real_loss(loss: Callable, state: PyTree, data: tuple) -> None:
    """Refuse states that are not arrays of real numbers, and losses that are not one."""
    leaves = jax.tree.leaves(state)
    real = bool(leaves) and all(eqx.is_inexact_array(leaf) and not jnp.iscomplexobj(leaf) for leaf in leaves)
    require(
        real,
        "Parameters must be a pytree of arrays of real floating-point numbers; of an equinox model, give the arrays.",
    )
    try:
        start = eqx.filter_eval_shape(loss, state, *data)
    except TypeError as error:
        raise InputError(f"The loss cannot be evaluated at the start: {first_line(error)}") from error
    real = getattr(start, "shape", None) == () and jnp.issubdtype(start.dtype, jnp.floating)
    require(real, f"The loss must be one real number, got {start}.")


def require_finite_start(loss: Float, state: PyTree) -> None:
    """Refuse a run whose loss is not finite at the start, once that is there; names the variables that are not."""
    names = not_finite(state)
    where = f" {names} is not finite, either." if names else ""
    require(math.isfinite(loss), f"The loss must be finite at the start, where it is {float(loss)}.{where}")


class OfParams(eqx.Module):
    """A function of parameters, as a function of a state that holds more and calls them `params`."""

    function: Callable

    def __call__(self, state, *data):
        return self.function(state.params, *data)


def relative_drift(now: Array, initial: Array) -> Float[Array, ""]:
    """|now - initial| / |initial| in the Frobenius norm; absolute where the initial value is zero."""
    size = jnp.linalg.norm(jnp.ravel(initial))
    return jnp.linalg.norm(jnp.ravel(now - initial)) / jnp.where(size > 0, size, 1)
