"""What gradient flow of the co-occurrence model conserves exactly, in both of its forms.

Full weights (Du et al. 2018; Marcotte et al. 2023, arXiv 2307.00144, for the rescaling laws; the last two are this model's):

    C1   = W_K W_K^T - W_Q W_Q^T                           (m, m)
    C2   = W^T W - W_V W_V^T                               (m, m)
    C2a  = u u^T - m1 W_V W_V^T, u = W^T a                 (m, m)
    W    off a: (I - a a^T / m1) W                         (m1, m)
    K1   = W_K sum_mu mu: the softmax does not see a shift (m,)

In the coupled variables those become the traces of powers of C1 and C2a, and the length of K1. Descent keeps the last two,
which are linear, and breaks the others at O(learning rate); `descent_step_drift` says by how much, exactly. Proofs:
`derivations.conservation`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from gradflow.models.cooccurrence import Weights
from gradflow.models.coupled import Coupled, Width


def of_weights(weights: Weights, *_data) -> dict[str, Array]:
    """The conserved quantities of full weights."""
    W, W_V, W_K, W_Q, a, u = weights.W, weights.W_V, weights.W_K, weights.W_Q, weights.a, weights.u
    values = W_V @ W_V.T
    return {
        "C1": W_K @ W_K.T - W_Q @ W_Q.T,
        "C2": W.T @ W - values,
        "C2a": jnp.outer(u, u) - a.size * values,
        "W off a": W - jnp.outer(a, u) / a.size,
        "K1": W_K.sum(axis=1),
    }


def of_coupled(state: Coupled, batch, width: Width) -> dict[str, Float[Array, ""]]:
    """The conserved quantities that the coupled variables can express."""
    m1 = width.m1
    return {
        "tr C1": jnp.trace(state.Gamma_K) - jnp.trace(state.Gamma_Q),
        "tr C1^2": jnp.sum(state.Gamma_K**2) + jnp.sum(state.Gamma_Q**2) - 2 * jnp.sum(state.A**2),
        "tr C2a": state.S - m1 * jnp.trace(state.Gamma_V),
        "tr C2a^2": state.S**2 - 2 * m1 * jnp.sum(state.G**2) + m1**2 * jnp.sum(state.Gamma_V**2),
        "|K1|^2": state.Gamma_K.sum(),
    }


def descent_step_drift(gradient: Weights, learning_rate: float) -> dict[str, Float[Array, "m m"]]:
    """By how much one step of gradient descent changes C1 and C2: the terms of second order, which are all there are."""
    h2 = learning_rate**2
    return {
        "C1": h2 * (gradient.W_K @ gradient.W_K.T - gradient.W_Q @ gradient.W_Q.T),
        "C2": h2 * (gradient.W.T @ gradient.W - gradient.W_V @ gradient.W_V.T),
    }
