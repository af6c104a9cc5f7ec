"""Flow of the coupled system: G, S, the Gram matrices and A close, at every width.

State and names are those of `gradflow.models.coupled.Coupled`; the functions take symbols as well as numbers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import sympy as sp

from derivations._cooccurrence import Weights, embedded, example, in_a_row, matrix, named, names, numbers, symbols
from derivations._proof import Derivation, compare, equation, require_zero
from derivations.softmax import softmax
from derivations.weight_gradients import output, scores
from gradflow.models import coupled


class Coupled(NamedTuple):
    """The six variables; G is a column and S a number."""

    G: sp.Matrix
    S: sp.Expr
    Gamma_V: sp.Matrix
    A: sp.Matrix
    Gamma_K: sp.Matrix
    Gamma_Q: sp.Matrix


def reduce(weights: Weights) -> Coupled:
    """The six variables of some weights."""
    u, (_, W_V, W_K, W_Q, _) = weights.u, weights
    return Coupled(W_V.T * u, u.dot(u), W_V.T * W_V, W_K.T * W_Q, W_K.T * W_K, W_Q.T * W_Q)


def word_scores(A: sp.Matrix, words: Sequence[int], l: int, m: sp.Expr) -> sp.Matrix:
    """Scores of the query at position l, in the order of the words."""
    return sp.Matrix([A[word, words[l]] / sp.sqrt(m) for word in words])


def word_output(G: sp.Matrix, A: sp.Matrix, words: Sequence[int], m: sp.Expr) -> sp.Expr:
    """F of a sentence from G and A."""
    attended = [softmax(word_scores(A, words, l, m)) for l in range(len(words))]
    return sum(p[h] * G[word] for p in attended for h, word in enumerate(words))


def sample_forces(G: sp.Matrix, A: sp.Matrix, words: Sequence[int], y: int, m: sp.Expr) -> tuple[sp.Matrix, sp.Matrix]:
    """What a sentence adds to r and D, by sums over its positions; r and D are their means."""
    r, D = sp.zeros(*G.shape), sp.zeros(*A.shape)
    g = 1 / (1 + sp.exp(y * word_output(G, A, words, m)))
    for l, query in enumerate(words):
        p = softmax(word_scores(A, words, l, m))
        mean = sum(p[h] * G[word] for h, word in enumerate(words))
        for h, key in enumerate(words):
            r[key] += g * y * p[h]
            D[key, query] += g * y * p[h] * (G[key] - mean) / sp.sqrt(m)
    return r, D


def forces(G: sp.Matrix, A: sp.Matrix, sentences, labels: Sequence[int], m: sp.Expr) -> list[sp.Matrix]:
    """r = -dLoss/dG and D = -dLoss/dA of the mean loss over some sentences of word indices."""
    samples = [sample_forces(G, A, words, y, m) for words, y in zip(sentences, labels, strict=True)]
    return [sum(parts, sp.zeros(*parts[0].shape)) / len(labels) for parts in zip(*samples, strict=True)]


def weight_field(weights: Weights, r: sp.Matrix, D: sp.Matrix) -> list[sp.Matrix]:
    """dW, dW_V, dW_K and dW_Q from r and D."""
    _, W_V, W_K, W_Q, a = weights
    return [a * (W_V * r).T, weights.u * r.T, W_Q * D.T, W_K * D]


def field(state: Coupled, r: sp.Matrix, D: sp.Matrix, m1: sp.Expr) -> Coupled:
    """The velocity of the coupled state."""
    G, S, Gamma_V, A, Gamma_K, Gamma_Q = state
    return Coupled(
        G=S * r + m1 * Gamma_V * r,
        S=2 * m1 * r.dot(G),
        Gamma_V=r * G.T + G * r.T,
        A=D * Gamma_Q + Gamma_K * D,
        Gamma_K=A * D.T + D * A.T,
        Gamma_Q=A.T * D + D.T * A,
    )


def squared_speed(state: Coupled, r: sp.Matrix, D: sp.Matrix, m1: sp.Expr) -> sp.Expr:
    """-dLoss/dt = |dtheta/dt|^2."""
    on_D = D * state.Gamma_Q + state.Gamma_K * D
    return m1 * r.dot(state.Gamma_V * r) + state.S * r.dot(r) + (D.T * on_D).trace()


def derive() -> Derivation:
    """Symbolically for arbitrary r and D, and for the r and D of sentences; then against `gradflow.models.coupled`."""
    weights, r, D = symbols(m=2, m1=2, d=3), matrix("r", 3, 1), matrix("D", 3, 3)
    G, A, m = matrix("G", 3, 1), matrix("A", 3, 3), sp.Symbol("m", positive=True)
    for words, y in (((0, 1, 2), 1), ((2, 0, 2), -1)):
        X, F = embedded(words, 3), word_output(G, A, words, m)
        by_weights = names([scores(weights, X, l) for l in range(3)], y * output(weights, X))
        by_words = names([word_scores(A, words, l, m) for l in range(3)], y * F)
        of_state = word_output(reduce(weights).G, reduce(weights).A, words, 2)
        require_zero("F is a function of G and A", named(of_state - output(weights, X), by_weights))

        word_loss, (of_G, of_A) = sp.log(1 + sp.exp(-y * F)), sample_forces(G, A, words, y, m)
        require_zero("r = -dLoss/dG", named(sp.diff(word_loss, G) + of_G, by_words))
        require_zero("D = -dLoss/dA", named(sp.diff(word_loss, A) + of_A, by_words))
        require_zero("columns of D", named(sp.ones(1, 3) * of_A, by_words))
        require_zero("r.G", named(of_G.dot(G) - y * F / (1 + sp.exp(y * F)), by_words))

    state, velocity, m1 = reduce(weights), weight_field(weights, r, D), weights.a.dot(weights.a)
    # -dLoss = r.dG + <D, dA>: the velocity is the gradient of this, with r and D held
    work = r.dot(state.G) + (D.T * state.A).trace()
    for name, parameter, rate in zip(weights._fields[:4], weights[:4], velocity, strict=True):
        require_zero(f"d{name}", sp.diff(work, parameter) - rate)

    t = sp.Symbol("t", real=True)
    rates = field(state, r, D, m1)
    for name, moving, rate in zip(state._fields, reduce(weights.moved(velocity, t)), rates, strict=True):
        require_zero(f"d{name}", sp.diff(moving, t).subs(t, 0) - rate)

    speed = squared_speed(state, r, D, m1)
    require_zero("energy of the weights", sum(entry**2 for rate in velocity for entry in rate) - speed)
    require_zero("energy of the loss", r.dot(rates.G) + (D.T * rates.A).trace() - speed)

    made, batch = example()
    width, made_state = coupled.width_of(made), coupled.reduce(made)
    now = reduce(numbers(made))
    forces_now = forces(now.G, now.A, batch.tokens.tolist(), batch.label.tolist(), width.m)
    derived, derived_speed = (function(now, *forces_now, width.m1) for function in (field, squared_speed))
    made_field, made_speed = coupled.field(made_state, batch, width)
    minus_forces = jax.grad(coupled.word_loss, argnums=(0, 1))(made_state.G, made_state.A, batch, width)
    return Derivation(
        "The coupled system closes",
        "Yang et al. (2024), App. C and Eqs. 4 to 7, for words that may repeat",
        (
            r"$F = \sum_l \sum_h p_{l,h} G(x_h)$ with $G(\mu) = u^\top W_V \mu$, $u = W^\top a$, and scores $A[x_h, x_l] / \sqrt m$ with $A = W_K^\top W_Q$. So the loss knows the weights through $G$ and $A$ alone. Let",
            equation(r"r", r"-\frac{\partial \mathcal L}{\partial G}, \qquad D = -\frac{\partial \mathcal L}{\partial A} ."),
            r"With $g_i = 1/(1 + e^{y_i F_i})$ and the Jacobian $\operatorname{diag}(p) - pp^\top$ of the softmax these are sums over positions, in which a word may stand more than once:",
            equation(r"r(\mu)", r"\frac1n \sum_{i,\, h:\, x_h = \mu} g_i y_i \sum_l p_{l,h}, \qquad D[\nu, \mu] = \frac{1}{n \sqrt m} \sum_i g_i y_i \sum_{l:\, x_l = \mu}\ \sum_{h:\, x_h = \nu} p_{l,h} \Big(G(x_h) - \sum_{h'} p_{l,h'} G(x_{h'})\Big)."),
            r"Columns of $D$ sum to zero, as those of the Jacobian do, and $r \cdot G = \frac1n \sum_i g_i y_i F_i$. All of this was found from $\ln(1 + e^{-yF})$ by differentiating along every entry of $G$ and $A$, "
            r"for any $m$ and the sentences $(\mu_1, \mu_2, \mu_3)$ with $y = 1$ and $(\mu_3, \mu_1, \mu_3)$ with $y = -1$.",
            r"By the chain rule, $-d\mathcal L = r \cdot dG + \langle D, dA \rangle$ with $dG = dW_V^\top u + W_V^\top dW^\top a$ and $dA = dW_K^\top W_Q + W_K^\top dW_Q$. Read off what stands beside each differential:",
            equation(r"\dot W", r"a (W_V r)^\top, \qquad \dot W_V = u r^\top, \qquad \dot W_K = W_Q D^\top, \qquad \dot W_Q = W_K D ."),
            r"$|a|^2 = m_1$, so $\dot u = \dot W^\top a = m_1 W_V r$. The product rule, and nothing that is special to these $r$ and $D$, gives with the Gram matrices $\Gamma$ of the columns of $W_V, W_K, W_Q$ and $S = |u|^2$",
            r"$$ \begin{aligned} \dot G &= S r + m_1 \Gamma_V r, & \dot S &= 2 m_1\, r \cdot G, & \dot \Gamma_V &= r G^\top + G r^\top, \\ "
            r"\dot A &= D \Gamma_Q + \Gamma_K D, & \dot \Gamma_K &= A D^\top + D A^\top, & \dot \Gamma_Q &= A^\top D + D^\top A, \end{aligned} $$",
            r"found equal entry by entry for $m = m_1 = 2$, $d = 3$ and symbols for all weights, $a$, $r$ and $D$. Nothing on the right is larger than $d \times d$. "
            r"The second is Eq. 5 of the paper, $\dot S = \frac{2 m_1}{n} \sum_i g_i y_i F_i$; the first is its Eq. 4, whose last term is printed with a factor $a_{j_1}$ too many (the sum over $j_1$ has turned $a_{j_1}^2$ into $m_1$ already).",
            r"Both sides of $-\dot{\mathcal L} = \sum |\dot \theta|^2$ are",
            equation(r"r \cdot \dot G + \langle D, \dot A \rangle", r"m_1\, r \cdot \Gamma_V r + S\, r \cdot r + \langle D, D \Gamma_Q \rangle + \langle D, \Gamma_K D \rangle ."),
        ),
        (
            compare("coupled.reduce", in_a_row(now), in_a_row(made_state)),
            compare("-grad coupled.word_loss", in_a_row(forces_now), -in_a_row(minus_forces)),
            compare("coupled.field", in_a_row(derived), in_a_row(made_field)),
            compare("its squared speed", [float(derived_speed)], [made_speed]),
        ),
    )  # fmt: skip
