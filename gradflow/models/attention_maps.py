"""How queries and keys make an attention map, one function a variant: `map(q, k, visible)`, the rows weigh the values.

q (i, c) and k (j, c) are one head's queries and keys, `visible` (i, j) says what each query may see. All scores are scaled by
1/sqrt(c).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def linear(q: Float[Array, "i c"], k: Float[Array, "j c"], visible: Bool[Array, "i j"]) -> Float[Array, "i j"]:
    """q k^T / sqrt(c) where visible, else 0: neither exponential nor normalisation (Gopalani and Hu 2025, section 2)."""
    return jnp.where(visible, _scores(q, k), 0)


def softmax(q: Float[Array, "i c"], k: Float[Array, "j c"], visible: Bool[Array, "i j"]) -> Float[Array, "i j"]:
    """softmax over the visible j of q k^T / sqrt(c) (Vaswani et al. 2017, Eq. 1)."""
    return jax.nn.softmax(jnp.where(visible, _scores(q, k), -jnp.inf), axis=-1)


ATTENTION = {"linear": linear, "softmax": softmax}


def _scores(q: Array, k: Array) -> Array:
    return q @ k.T / q.shape[-1] ** 0.5
