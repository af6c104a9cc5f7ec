"""Sharpness: the largest eigenvalue of the loss's Hessian, which decides which learning rates are stable.

Descent with learning_rate * sharpness < 2 follows a quadratic loss downhill; well below 2 it follows the gradient flow.
Eigenvalues come from products of the Hessian with vectors, which cost two gradients each; no Hessian is formed.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from gradflow.dynamics.trees import as_arrays


class Ritz(NamedTuple):
    """Estimates of eigenvalues, ascending: `values` (k,), each within its `errors` (k,) of an eigenvalue of the Hessian.

    The ends of the spectrum are met first. `leading` is the unit vector that belongs to the largest value, `lowest` to the smallest.
    """

    values: Float[Array, " k"]
    errors: Float[Array, " k"]
    leading: PyTree
    lowest: PyTree


def sharpness(loss: Callable, params: PyTree, *data: PyTree, iterations: int = 16) -> Float[Array, ""]:
    """Largest eigenvalue of the Hessian of `loss(params, *data)`: a lower bound, after `iterations` of Lanczos's method."""
    return hessian_spectrum(loss, params, *data, iterations=iterations).values[-1]


def hessian_spectrum(loss: Callable, params: PyTree, *data: PyTree, iterations: int = 30) -> Ritz:
    """The ends of the Hessian's spectrum, by Lanczos's method (1950) with full reorthogonalisation.

    `iterations` Hessian-vector products, as many vectors in memory. It starts from a fixed random vector, since a gradient
    may have no part in the leading direction where the loss is symmetric.
    """
    return _lanczos(loss, as_arrays(params), as_arrays(data), iterations)


@eqx.filter_jit
def _lanczos(loss, params, data, iterations) -> Ritz:
    flat, unravel = ravel_pytree(params)
    k = min(iterations, flat.size)
    exhausted = 1e3 * jnp.finfo(flat.dtype).eps  # of the largest eigenvalue seen: what is left is rounding

    def hessian_times(v):
        return ravel_pytree(jax.jvp(lambda p: jax.grad(loss)(p, *data), (params,), (unravel(v),))[1])[0]

    def orthogonal(v, basis):
        for _ in range(2):  # once more, for what rounding left of the basis
            v = v - basis.T @ (basis @ v)
        return v

    def fresh(j, basis):
        v = orthogonal(jax.random.normal(jax.random.fold_in(jax.random.key(0), j), flat.shape, flat.dtype), basis)
        return v / jnp.linalg.norm(v)

    def iterate(j, carry):
        basis, diagonal, beyond, v = carry
        basis = basis.at[j].set(v)
        w = hessian_times(v)
        diagonal = diagonal.at[j].set(v @ w)
        w = orthogonal(w, basis)
        size = jnp.linalg.norm(w)
        spent = size <= exhausted * jnp.maximum(jnp.abs(diagonal).max(), beyond.max())
        beyond = beyond.at[j].set(jnp.where(spent, 0, size))
        v = jax.lax.cond(spent, lambda: fresh(j + 1, basis), lambda: w / size)
        return basis, diagonal, beyond, v

    basis = jnp.zeros((k, flat.size), flat.dtype)
    zeros = jnp.zeros(k, flat.dtype)
    basis, diagonal, beyond, _ = jax.lax.fori_loop(0, k, iterate, (basis, zeros, zeros, fresh(0, basis)))
    values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(beyond[:-1], 1) + jnp.diag(beyond[:-1], -1))
    lowest, leading = (unravel(basis.T @ vectors[:, end]) for end in (0, -1))
    return Ritz(values, beyond[-1] * jnp.abs(vectors[-1]), leading, lowest)


@eqx.filter_jit
def largest_eigenvalue(field: Callable, state: PyTree, *data: PyTree) -> Float[Array, ""]:
    """The largest eigenvalue, in size, of the Jacobian of `field(state, *data)[0]`.

    By power iteration from a fixed random vector. The Jacobian need not be symmetric; it is -Hessian for the field of plain gradient flow.
    """
    flat, unravel = ravel_pytree(state)

    def velocity(y):
        return ravel_pytree(field(unravel(y), *data)[0])[0]

    start = jax.random.normal(jax.random.key(0), flat.shape, flat.dtype)
    return spectral_radius(lambda v: jax.jvp(velocity, (flat,), (v,))[1], start, jnp.inf, 1e-6)[0]


def spectral_radius(
    times: Callable[[Array], Array], vector: Float[Array, " p"], guess: Float[Array, ""], tolerance: float
) -> tuple[Float[Array, ""], Float[Array, " p"], Int[Array, ""]]:
    """Largest |eigenvalue| of the matrix in `times(v)`, by power iteration from `vector`; an eigenvector; the products taken.

    Ends where it changes by less than `tolerance`, of itself, from the `guess` or the iteration before; after 100 at most.
    From below for a symmetric matrix.
    """

    def goes_on(carry):
        rho, before, _, products = carry
        return (abs(rho - before) > tolerance * rho) & (products < 100)

    def iterate(carry):
        rho, _, v, products = carry
        image = times(v)
        size = jnp.linalg.norm(image)
        return size, rho, jnp.where(size > 0, image / size, v), products + 1

    guess = jnp.asarray(guess, vector.dtype)
    once = iterate((guess, guess, vector / jnp.linalg.norm(vector), jnp.zeros((), int)))
    rho, _, vector, products = jax.lax.while_loop(goes_on, iterate, once)
    return rho, vector, products
