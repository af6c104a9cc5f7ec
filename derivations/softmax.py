"""The Jacobian of the softmax is diag(p) - p p^T, and a shift of all scores changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp

from derivations._proof import Derivation, compare, equation, require_zero
from gradflow.models.cooccurrence import attention


def softmax(scores: sp.Matrix) -> sp.Matrix:
    """p_h = exp(s_h) / sum_h' exp(s_h') of a column of scores."""
    weights = scores.applyfunc(sp.exp)
    return weights / sum(weights)


def jacobian(p: sp.Matrix) -> sp.Matrix:
    """diag(p) - p p^T: row h, column k is dp_h / ds_k."""
    return sp.diag(*p) - p * p.T


def derive(L: int = 3) -> Derivation:
    """Symbolically for L scores, then against the attention of the co-occurrence model and its derivative by JAX."""
    s = sp.Matrix(sp.symbols(f"s_1:{L + 1}", real=True))
    shift = sp.Symbol("c", real=True)
    p = softmax(s)
    require_zero("Jacobian", p.jacobian(s) - jacobian(p))
    require_zero("columns sum to zero", sp.ones(1, L) * jacobian(p))
    require_zero("shift invariance", softmax(s + shift * sp.ones(L, 1)) - p)

    A = np.random.default_rng(0).normal(size=(L, L))
    tokens, width = jnp.arange(L)[None], 2.0

    def weights_of_first_query(scores):
        return attention(jnp.asarray(A).at[:, 0].set(scores), tokens, width)[0, :, 0]

    scale = 1 / np.sqrt(width)
    derived_p = sp.lambdify([s], p)(A[:, 0] * scale)
    derived_J = sp.lambdify([s], jacobian(p))(A[:, 0] * scale)
    return Derivation(
        "Softmax and its Jacobian",
        "Bridle (1990); Yang et al. (2024), App. B",
        (
            equation(r"p_h", r"e^{s_h} / \sum_{h'} e^{s_{h'}}"),
            r"The derivative of $\ln p_h = s_h - \ln \sum_{h'} e^{s_{h'}}$ along $s_k$ is $\delta_{hk} - p_k$, so",
            equation(r"\partial p / \partial s", r"\operatorname{diag}(p) - p\,p^\top,"),
            rf"written out for {L} scores and found equal term by term. Its columns sum to zero, $1^\top(\operatorname{{diag}}(p) - pp^\top) = 0$, "
            r"since $\sum_h p_h = 1$ whatever $s$; and $p(s + c\,1) = p(s)$.",
        ),
        (
            compare("attention", derived_p.ravel(), weights_of_first_query(A[:, 0])),
            compare("its derivative by JAX", derived_J * scale, jax.jacobian(weights_of_first_query)(A[:, 0])),
        ),
    )  # fmt: skip
