"""What gradient flow of the transformer conserves: one quantity for each continuous symmetry of its loss.

Where exp(s A) acting on some of the parameters leaves the loss as it is, <A theta, grad loss> = 0; for a symmetric A (a rescaling, or
a constant shift) the left side is, up to sign, the velocity of <theta, A theta> / 2 or of <a, theta> (Du et al. 2018; Kunin et al.
2021, arXiv 2012.04728; Marcotte et al. 2023, arXiv 2307.00144). In a layer q = [N(x), 1] Q, with Q (e + 1, c) the weight of one head
over its bias row, and k, v in the same way; O (c, e) are the rows of O.weight that read the head.

quadratic
    Q, K           scores q k^T are the same under Q -> Q G, K -> K G^-T:       Q^T Q - K^T K           (layer, head, c, c)
    V, O           what is written is the same under V -> V G, O -> G^-1 O:     V^T V - O O^T           (layer, head, c, c)
    Q, V           linear attention: scores multiply values, Q -> s Q, V -> V / s:  |Q|^2 - |V|^2       (layer, head)
    norm_1, norm_2, norm   channel i of a norm is read by rows i of matrices, with s and 1 / s:
                   scale_i^2 + shift_i^2 - sum over readers (Q, K, V; up; head) of |row i|^2            (layer, e), (e,)
linear, which descent keeps, too
    head           a softmax does not see a shift of all logits:                head 1                  (e,)
    mean           a layer norm does not see the mean over channels of the stream: M 1 for every M that writes to it
    embeddings     x_t = E[token_t] + P_t is the same under E + a, P - a:       sum of E - sum of P     (e,)
    K.bias         softmax attention: q . b_K shifts a row of scores:           b_K                     (layer, c')

The whole stream may be scaled, but for the eps of the norms: `stream_norm` moves at a rate of order eps / variance.
No law joins up and down across gelu, Q and V across softmax, and none of the quadratic ones survives in Adam's flow.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from gradflow.models.transformer import Linear, Norm, Transformer

LINEAR = ("head", "mean", "embeddings", "K.bias")
"""The laws that are linear in the weights."""


def of_transformer(weights: Transformer, *_data) -> dict[str, Array]:
    """The conserved quantities of a transformer, by the names above."""
    layers, heads = weights.layers, weights.heads
    q, k, v = (
        jnp.stack([_by_head(getattr(layer, name), heads) for layer in layers]) for name in ("Q", "K", "V")
    )  # layer, e + 1, head, c
    o = jnp.stack([layer.O.weight.reshape(heads, -1, layer.O.weight.shape[1]) for layer in layers])  # layer, head, c, e
    kept = {
        "Q, K": _gram(q) - _gram(k),
        "V, O": _gram(v) - o @ jnp.swapaxes(o, -1, -2),
        "norm_1": jnp.stack([_balance(each.norm_1, each.Q.weight, each.K.weight, each.V.weight) for each in layers]),
        "norm_2": jnp.stack([_balance(each.norm_2, each.up.weight) for each in layers]),
        "norm": _balance(weights.norm, weights.head),
        "head": weights.head.sum(axis=1),
        "mean": jnp.concatenate([matrix.sum(axis=-1).ravel() for matrix in _writers(weights)]),
        "embeddings": weights.token_embedding.sum(axis=0) - weights.position_embedding.sum(axis=0),
    }
    if weights.attention == "linear":
        return kept | {"Q, V": jnp.square(q).sum(axis=(1, 3)) - jnp.square(v).sum(axis=(1, 3))}
    return kept | {"K.bias": jnp.stack([layer.K.bias for layer in layers])}


def stream_norm(weights: Transformer) -> Float[Array, ""]:
    """Squared norm of all that writes to the residual stream: embeddings, O and down with their biases.

    Layer norms do not see the scale of the stream, but for their eps, which a larger stream makes smaller.
    """
    return sum(jnp.square(matrix).sum() for matrix in _writers(weights))


def _writers(weights: Transformer) -> list[Array]:
    """What is added to the residual stream; the channels of the stream are the last axis."""
    linears = [linear for layer in weights.layers for linear in (layer.O, layer.down)]
    return [weights.token_embedding, weights.position_embedding, *(leaf for each in linears for leaf in (each.weight, each.bias))]  # fmt: skip


def _by_head(linear: Linear, heads: int) -> Float[Array, "e+1 head c"]:
    stacked = jnp.concatenate([linear.weight, linear.bias[None]])
    return stacked.reshape(len(stacked), heads, -1)


def _gram(matrix: Float[Array, "layer i head c"]) -> Float[Array, "layer head c c"]:
    return jnp.einsum("lihc,lihd->lhcd", matrix, matrix)


def _balance(norm: Norm, *readers: Float[Array, "e _"]) -> Float[Array, " e"]:
    return norm.scale**2 + norm.shift**2 - sum(jnp.square(matrix).sum(axis=1) for matrix in readers)
