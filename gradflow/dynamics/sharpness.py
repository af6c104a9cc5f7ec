"""Sharpness: the largest eigenvalue of the loss's Hessian, which decides which learning rates are stable.

Descent with learning_rate * sharpness < 2 follows a quadratic loss downhill; well below 2 it follows the gradient flow.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gradflow.dynamics.flow import GradientField
from gradflow.dynamics.watch import as_arrays, squared_norm


def sharpness(
    loss: Callable, params: PyTree, *data: PyTree, field: Callable | None = None, iterations: int = 40
) -> Float[Array, ""]:
    """Largest eigenvalue, in size, of the Hessian of `loss(params, *data)`, by power iteration from the gradient.

    With `field` (as in `gradient_flow`), that of the field's Jacobian. A lower bound where the Jacobian is symmetric, off by
    less than (second / largest eigenvalue)^(2 * iterations) of itself.
    """
    return largest_eigenvalue(field or GradientField(loss), as_arrays(params), as_arrays(data), iterations)


@eqx.filter_jit
def largest_eigenvalue(field: Callable, state: PyTree, data: tuple, iterations: int) -> Float[Array, ""]:
    """The largest eigenvalue, in size, of the Jacobian of `field(state, *data)[0]`, by power iteration from the velocity."""

    def velocity(y):
        return field(y, *data)[0]

    def normalised(v):
        size = jnp.sqrt(squared_norm(v))
        return jax.tree.map(lambda leaf: leaf / jnp.where(size > 0, size, 1), v), size

    def iterate(_, v_and_size):
        return normalised(jax.jvp(velocity, (state,), (v_and_size[0],))[1])

    return jax.lax.fori_loop(0, iterations + 1, iterate, normalised(velocity(state)))[1]
