"""One softmax attention layer and a linear MLP, the model of Yang et al. (2024), Eq. 1.

    F(X) = sum_l sum_j a_j w_j^T W_V X softmax(X^T W_K^T W_Q x_l / sqrt(m))

W_Q, W_K, W_V are m x d, W is m1 x m with rows w_j, and a in {+1, -1}^m1 is fixed. Positions are summed, scores alone
are scaled, and there is no residual stream, normalisation, bias, mask or position code.

F depends on the weights only through two quantities on the d words, and both implementations of it are here:

    G(mu) = sum_j a_j w_j^T W_V mu        (d,)      what a word adds to the output when it is attended to
    A     = W_K^T W_Q                     (d, d)    A[key word, query word]; scores are A / sqrt(m)

`plain_outputs` reads like Eq. 1 and is the oracle. `outputs` forms G and A once and gathers them by word index, which is
what everything else runs on. Index suffixes: i sample, l query position, h key position, e embedding, c channel.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gradflow.errors import require
from gradflow.tasks.cooccurrence import Batch

Initialisation = Literal["paper", "kaiming_normal", "kaiming_uniform", "torch_linear"]


class Weights(eqx.Module):
    """The four trained matrices and the fixed signs of the readout (which get no gradient)."""

    W: Float[Array, "m1 m"]
    W_V: Float[Array, "m d"]
    W_K: Float[Array, "m d"]
    W_Q: Float[Array, "m d"]
    a: Float[Array, " m1"]

    @property
    def u(self) -> Float[Array, " m"]:
        """u = W^T a, the readout seen from the value channels."""
        return self.W.T @ jax.lax.stop_gradient(self.a)


def paper_scales(m: int, m1: int, L: int) -> tuple[float, float]:
    """(sigma0, sigma1) of the theorems' regime (Condition 1): sigma0 = 1 / (2 sqrt(L m)), sigma1 = 1 / sqrt(m1)."""
    return 0.5 / (L * m) ** 0.5, 1 / m1**0.5


def entry_scales(initialisation: Initialisation, *, m: int, m1: int, d: int, L: int) -> tuple[float, float]:
    """Standard deviations (sigma0, sigma1) of the entries of W_Q, W_K, W_V (fan-in d) and of W (fan-in m)."""
    for name, size in (("m", m), ("m1", m1), ("d", d), ("L", L)):
        require(size > 0, f"{name} must be positive, got {size}.")
    known = ", ".join(Initialisation.__args__)
    require(initialisation in Initialisation.__args__, f"Unknown initialisation {initialisation!r}; known are {known}.")
    if initialisation == "paper":
        return paper_scales(m, m1, L)
    gain = 1 / 3 if initialisation == "torch_linear" else 2
    return (gain / d) ** 0.5, (gain / m) ** 0.5


def init(
    key: PRNGKeyArray,
    *,
    m: int,
    m1: int,
    d: int,
    L: int,
    initialisation: Initialisation = "paper",
    sigma0: float | None = None,
    sigma1: float | None = None,
) -> Weights:
    """Random weights; a_j uniform on {+1, -1}.

    `paper`: Gaussian, scales from `paper_scales`. `kaiming_normal`: N(0, 2 / fan_in); `kaiming_uniform`:
    U(+-sqrt(6 / fan_in)) (He et al. 2015); `torch_linear`: U(+-1 / sqrt(fan_in)), what PyTorch gives an `nn.Linear`.
    fan_in is d for W_Q, W_K, W_V and m for W. `sigma0` and `sigma1`, where given, replace the standard deviations.
    """
    scales = entry_scales(initialisation, m=m, m1=m1, d=d, L=L)
    sigma0 = scales[0] if sigma0 is None else sigma0
    sigma1 = scales[1] if sigma1 is None else sigma1
    require(sigma0 >= 0 and sigma1 > 0, f"sigma0 must be >= 0 and sigma1 > 0, got {sigma0} and {sigma1}.")

    def unit(key, shape):
        if initialisation in ("paper", "kaiming_normal"):
            return jax.random.normal(key, shape)
        return jax.random.uniform(key, shape, minval=-(3**0.5), maxval=3**0.5)

    key_w, key_v, key_k, key_q, key_a = jax.random.split(key, 5)
    return Weights(
        W=sigma1 * unit(key_w, (m1, m)),
        W_V=sigma0 * unit(key_v, (m, d)),
        W_K=sigma0 * unit(key_k, (m, d)),
        W_Q=sigma0 * unit(key_q, (m, d)),
        a=jax.random.rademacher(key_a, (m1,), dtype=float),
    )


def attention(A: Float[Array, "d d"], tokens: Int[Array, "n L"], m: float) -> Float[Array, "n L L"]:
    """p[i, h, l]: how much query position l of sample i attends to key position h; sums to 1 over h."""
    words, d = tokens.astype(jnp.int32), A.shape[0]
    # one flat index a pair, not checked against the bounds: a third faster, forth and back, than A[key, query]
    key_query_ihl = words[:, :, None] * d + words[:, None, :]
    scores_ihl = (A / jnp.sqrt(m)).ravel().at[key_query_ihl].get(mode="promise_in_bounds")
    return jax.nn.softmax(scores_ihl, axis=1)


def word_outputs(
    G: Float[Array, " d"], A: Float[Array, "d d"], tokens: Int[Array, "n L"], m: float
) -> Float[Array, " n"]:
    """F of every sentence from the two quantities on words that determine it."""
    attended_ih = attention(A, tokens, m).sum(axis=2)
    return (attended_ih * G[tokens]).sum(axis=1)


def outputs(weights: Weights, tokens: Int[Array, "n L"]) -> Float[Array, " n"]:
    """F of every sentence, by gathering: costs O(d^2 m + n L^2)."""
    m = weights.W_K.shape[0]
    return word_outputs(weights.W_V.T @ weights.u, weights.W_K.T @ weights.W_Q, tokens, m)


def plain_outputs(
    weights: Weights, tokens: Int[Array, "n L"], embedding: Float[Array, "d d"] | None = None
) -> Float[Array, " n"]:
    """F of every sentence, term by term as in Eq. 1; `embedding` has the orthonormal mu_1..mu_d as columns (default: basis)."""
    m, d = weights.W_K.shape
    mu = jnp.eye(d) if embedding is None else embedding
    X_iel = jnp.moveaxis(mu[:, tokens], 1, 0)
    V_icl, K_icl, Q_icl = (jnp.einsum("ce,iel->icl", W, X_iel) for W in (weights.W_V, weights.W_K, weights.W_Q))
    scores_ihl = jnp.einsum("ich,icl->ihl", K_icl, Q_icl) / jnp.sqrt(m)
    p_ihl = jax.nn.softmax(scores_ihl, axis=1)
    return jnp.einsum("jc,ich,ihl,j->i", weights.W, V_icl, p_ihl, jax.lax.stop_gradient(weights.a))


def logistic(output: Float[Array, " n"], label: Float[Array, " n"]) -> Float[Array, ""]:
    """Mean over the batch of log(1 + exp(-y F)) (Eq. 2)."""
    return jax.nn.softplus(-label * output).mean()


def loss(weights: Weights, batch: Batch) -> Float[Array, ""]:
    """Empirical loss (Eq. 2) on `batch`."""
    return logistic(outputs(weights, batch.tokens), batch.label)


def plain_loss(weights: Weights, batch: Batch, embedding: Float[Array, "d d"] | None = None) -> Float[Array, ""]:
    """The same loss through `plain_outputs`."""
    return logistic(plain_outputs(weights, batch.tokens, embedding), batch.label)
