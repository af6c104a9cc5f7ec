"""Pytrees as vectors: sums and products over all leaves, derivatives along them, and leaves of definite type."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


def plus(one: PyTree, scale: float | Array, other: PyTree) -> PyTree:
    """one + scale * other."""
    return jax.tree.map(lambda a, b: a + scale * b, one, other)


def inner(one: PyTree, other: PyTree) -> Float[Array, ""]:
    """Sum of products over all leaves of two pytrees of one structure."""
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, one, other)))


def squared_norm(tree: PyTree) -> Float[Array, ""]:
    """Sum of squares over all leaves."""
    return inner(tree, tree)


def along(function: Callable, at: PyTree, direction: PyTree) -> PyTree:
    """The derivative of a function along a direction: f'v."""
    return jax.jvp(function, (at,), (direction,))[1]


def not_finite(state: PyTree) -> str:
    """The names of the variables of a state that are not finite, for a message; '' if all are."""
    paths = jax.tree_util.tree_leaves_with_path(state)
    return ", ".join(
        jax.tree_util.keystr(path).strip(".") for path, leaf in paths if not bool(jnp.isfinite(leaf).all())
    )


def as_arrays(tree: PyTree) -> PyTree:
    """The same pytree with every number an array of definite type, so that a solve is compiled once and not once a value."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)) if eqx.is_array_like(leaf) else leaf, tree
    )
