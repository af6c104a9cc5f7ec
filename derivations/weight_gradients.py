"""Gradient flow of W, W_V, W_K and W_Q, differentiated from the loss of the co-occurrence model.

X has the embeddings of a sentence's words as columns. The functions take matrices of symbols, for the proof, as well as
matrices of numbers, for the checks.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp

from derivations._cooccurrence import Weights, embedded, example, in_a_row, matrix, named, names, numbers, symbols
from derivations._proof import Derivation, compare, equation, require_zero
from derivations.softmax import jacobian, softmax
from gradflow.models import cooccurrence


def scores(weights: Weights, X: sp.Matrix, l: int) -> sp.Matrix:
    """s_l = X^T W_K^T W_Q x_l / sqrt(m), of one query position."""
    return X.T * weights.W_K.T * weights.W_Q * X[:, l] / sp.sqrt(weights.W_K.rows)


def output(weights: Weights, X: sp.Matrix) -> sp.Expr:
    """F(X), Eq. 1 of the paper."""
    attended = [softmax(scores(weights, X, l)) for l in range(X.cols)]
    neurons = zip(weights.a, weights.W.tolist(), strict=True)
    return sum(a_j * (sp.Matrix([w_j]) * weights.W_V * X * p)[0] for a_j, w_j in neurons for p in attended)


def sample_loss(weights: Weights, X: sp.Matrix, y: int) -> sp.Expr:
    """log(1 + exp(-y F)); the loss (Eq. 2) is its mean."""
    return sp.log(1 + sp.exp(-y * output(weights, X)))


def sample_velocity(weights: Weights, X: sp.Matrix, y: int) -> list[sp.Matrix]:
    """What a sentence adds to dW, dW_V, dW_K and dW_Q (App. B); their velocity is its mean."""
    W, W_V, W_K, W_Q, a = weights
    V, K, Q = W_V * X, W_K * X, W_Q * X
    g, root_m = 1 / (1 + sp.exp(y * output(weights, X))), sp.sqrt(W_K.rows)
    dW, dW_V, dW_K, dW_Q = (sp.zeros(*matrix.shape) for matrix in weights[:4])
    for l in range(X.cols):
        p = softmax(scores(weights, X, l))
        for j in range(W.rows):
            w = W[j, :].T
            excess = sp.diag(*(V.T * w - sp.ones(X.cols, 1) * (w.T * V * p)))
            dW[j, :] += a[j] * (V * p).T
            dW_V += a[j] * w * (X * p).T
            dW_K += a[j] * Q[:, l] * p.T * excess * X.T / root_m
            dW_Q += a[j] * K * excess * p * X[:, l].T / root_m
    return [g * y * rate for rate in (dW, dW_V, dW_K, dW_Q)]


def loss(weights: Weights, sentences: Sequence[sp.Matrix], labels: Sequence[int]) -> sp.Expr:
    """The mean loss over some sentences X."""
    return sum(sample_loss(weights, X, y) for X, y in zip(sentences, labels, strict=True)) / len(labels)


def velocity(weights: Weights, sentences: Sequence[sp.Matrix], labels: Sequence[int]) -> list[sp.Matrix]:
    """dW, dW_V, dW_K and dW_Q under gradient flow of the mean loss."""
    samples = [sample_velocity(weights, X, y) for X, y in zip(sentences, labels, strict=True)]
    return [sum(rates, sp.zeros(*rates[0].shape)) / len(labels) for rates in zip(*samples, strict=True)]


def derive() -> Derivation:
    """Symbolically, a sentence at a time; then several at once against the model's loss and its derivative by JAX."""
    weights = symbols(m=2, m1=2, d=3)
    for words, y in (((0, 1, 2), 1), ((2, 0, 2), -1)):
        X = embedded(words, 3)
        rules = names([scores(weights, X, l) for l in range(X.cols)], y * output(weights, X))
        of_sample = sample_loss(weights, X, y)
        for name, parameter, rate in zip(weights._fields[:4], weights[:4], sample_velocity(weights, X, y), strict=True):
            require_zero(f"d{name}", named(sp.diff(of_sample, parameter) + rate, rules))

    z = sp.Symbol("z", real=True)
    require_zero("logistic loss", sp.diff(sp.log(1 + sp.exp(-z)), z) + 1 / (1 + sp.exp(z)))
    p, v = matrix("p", 3, 1), matrix("v", 3, 1)
    require_zero("softmax", jacobian(p) * v - sp.diag(*(v - sp.ones(3, 1) * (v.T * p))) * p)

    made, batch = example()
    labels, d = batch.label.tolist(), made.W_K.shape[1]
    reflection = sp.eye(d) - 2 * sp.ones(d, d) / d
    own, reflected = ([basis[:, list(words)] for words in batch.tokens.tolist()] for basis in (sp.eye(d), reflection))
    mu = jnp.array(reflection.tolist(), float)
    return Derivation(
        "Gradient flow of the four matrices",
        "Yang et al. (2024), Eqs. 1 and 2 and App. B",
        (
            r"The loss is a mean of $\ell(y F)$, $\ell(z) = \ln(1 + e^{-z})$, $\ell'(z) = -1/(1 + e^z)$. With $g_i = 1/(1 + e^{y_i F_i})$, a step "
            r"$d\theta$ changes it by $-\frac1n \sum_i g_i y_i\, dF_i$, so gradient flow is $\dot\theta = \frac1n \sum_i g_i y_i\, \partial F_i / \partial \theta$. "
            r"It is enough to find $dF$ for a sentence $X$. Write $V, K, Q = W_V X, W_K X, W_Q X$ and $p_l = \operatorname{softmax}(s_l)$, "
            r"$s_l = X^\top W_K^\top W_Q x_l / \sqrt m$; then $F = \sum_l \sum_j a_j w_j^\top V p_l$.",
            r"Through the value side, $dF = \sum_l \sum_j a_j (dw_j^\top V p_l + w_j^\top dW_V X p_l)$: read off",
            equation(r"\dot w_j", r"\frac1n \sum_i g_i y_i \sum_l a_j V p_l, \qquad \dot W_V = \frac1n \sum_i g_i y_i \sum_l \sum_j a_j w_j (X p_l)^\top ."),
            r"Through the scores, $dp_l = (\operatorname{diag} p_l - p_l p_l^\top)\, ds_l$ (Jacobian of the softmax), and $(\operatorname{diag} p - pp^\top) v = \operatorname{diag}(v - v^\top p)\, p$. So "
            r"$dF = \sum_l b_l^\top ds_l$ with $b_l = \sum_j a_j \operatorname{diag}(V^\top w_j - w_j^\top V p_l)\, p_l$, where "
            r"$\sqrt m\, ds_l = X^\top dW_K^\top q_l + K^\top dW_Q\, x_l$. Since $b^\top X^\top dW_K^\top q = \langle dW_K, q\, b^\top X^\top \rangle$ and $b^\top K^\top dW_Q\, x = \langle dW_Q, K b\, x^\top \rangle$,",
            equation(r"\dot W_K", r"\frac{1}{n \sqrt m} \sum_i g_i y_i \sum_l \sum_j a_j\, q_l\, p_l^\top \operatorname{diag}(w_j^\top V - w_j^\top V p_l)\, X^\top,"),
            equation(r"\dot W_Q", r"\frac{1}{n \sqrt m} \sum_i g_i y_i \sum_l \sum_j a_j\, K \operatorname{diag}(V^\top w_j - w_j^\top V p_l)\, p_l\, x_l^\top ."),
            r"None of this asks for a basis or for different words. The same four were found from Eqs. 1 and 2 by differentiating along every entry, for $m = m_1 = 2$, $d = L = 3$, "
            r"the sentences $(\mu_1, \mu_2, \mu_3)$ with $y = 1$ and $(\mu_3, \mu_1, \mu_3)$ with $y = -1$, and symbols for all weights.",
        ),
        (
            compare("cooccurrence.loss", [float(loss(numbers(made), own, labels))], [cooccurrence.loss(made, batch)]),
            compare("-grad plain_loss", in_a_row(velocity(numbers(made), own, labels)), _descent(made, batch)),
            compare("-grad plain_loss in another basis", in_a_row(velocity(numbers(made), reflected, labels)), _descent(made, batch, mu)),
        ),
    )  # fmt: skip


def _descent(weights: cooccurrence.Weights, *data) -> np.ndarray:
    """-grad of the loss written as Eq. 1 reads, in a row, without the fixed signs."""
    gradient = jax.grad(cooccurrence.plain_loss)(weights, *data)
    return -in_a_row((gradient.W, gradient.W_V, gradient.W_K, gradient.W_Q))
