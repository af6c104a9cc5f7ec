"""Training with some of the parameters held fixed, as a field for `gradient_flow(field=...)`."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gradflow.dynamics.trees import inner
from gradflow.errors import require


class Frozen(eqx.Module):
    """The flow of `field` with the named attributes of its state held fixed.

    To freeze attention: W_K, W_Q of the weights (field: `GradientField(loss)`), or A, Gamma_K, Gamma_Q of a coupled or orbit state.
    Exact wherever the frozen attributes' own motion is all that moves them, and is not felt by the others' velocity: so here.
    Raises `InputError` where the state has no attribute of that name.
    """

    loss: Callable
    field: Callable
    names: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, state: PyTree, *data: PyTree) -> tuple[PyTree, Float[Array, ""]]:
        for name in self.names:
            require(hasattr(state, name), f"{type(state).__name__} has no {name!r} to freeze.")
        moving, _ = self.field(state, *data)
        still = tuple(jax.tree.map(jnp.zeros_like, getattr(moving, name)) for name in self.names)
        moving = eqx.tree_at(lambda velocity: tuple(getattr(velocity, name) for name in self.names), moving, still)
        return moving, -inner(jax.grad(self.loss)(state, *data), moving)
