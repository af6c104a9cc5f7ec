"""Sharpness: the largest eigenvalue of the loss's Hessian, which decides which learning rates are stable.

Descent with learning_rate * sharpness < 2 follows a quadratic loss downhill; well below 2 it follows the gradient flow.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gradflow.dynamics.watch import as_arrays, squared_norm


def sharpness(loss: Callable, params: PyTree, *data: PyTree, iterations: int = 40) -> Float[Array, ""]:
    """Largest eigenvalue, in size, of the Hessian of `loss(params, *data)`, by power iteration from the gradient.

    A lower bound, off by less than (second / largest eigenvalue)^(2 * iterations) of itself.
    """
    return _power_iteration(loss, as_arrays(params), as_arrays(data), iterations)


@eqx.filter_jit
def _power_iteration(loss, params, data, iterations):
    gradient = jax.grad(loss)

    def hessian_times(v):
        return jax.jvp(lambda p: gradient(p, *data), (params,), (v,))[1]

    def normalised(v):
        return jax.tree.map(lambda leaf: leaf / jnp.sqrt(squared_norm(v)), v)

    v = normalised(gradient(params, *data))
    v = jax.lax.fori_loop(0, iterations, lambda _, v: normalised(hessian_times(v)), v)
    return jnp.sqrt(squared_norm(hessian_times(v)))
