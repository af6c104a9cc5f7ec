"""Training some of the parameters at a rate of their own: 0 freezes them. A field for `gradient_flow(field=...)`."""

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from gradflow.dynamics.trees import inner
from gradflow.errors import require


class OwnRate(eqx.Module):
    """The flow of `field` with the velocity of the named attributes of its state multiplied by a rate, the last of its data.

    To change the rate of attention, or freeze it: W_K and W_Q of the weights (field: `GradientField(loss)`), or A, Gamma_K and
    Gamma_Q of a coupled or orbit state, which is the same. `rate` is traced: flows at all rates share one compilation.
    Raises `InputError` where the state has no attribute of that name.
    """

    loss: Callable
    field: Callable
    names: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, state: PyTree, *data_and_rate: PyTree) -> tuple[PyTree, Float[Array, ""]]:
        *data, rate = data_and_rate
        for name in self.names:
            require(hasattr(state, name), f"{type(state).__name__} has no {name!r} to train at another rate.")
        moving, _ = self.field(state, *data)
        own = tuple(jax.tree.map(lambda leaf: rate * leaf, getattr(moving, name)) for name in self.names)
        moving = eqx.tree_at(lambda velocity: tuple(getattr(velocity, name) for name in self.names), moving, own)
        return moving, -inner(jax.grad(self.loss)(state, *data), moving)
