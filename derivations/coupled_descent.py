"""A step of gradient descent closes in the coupled variables, too: the flow's velocity and a second order, exactly."""

import sympy as sp

from derivations._cooccurrence import example, in_a_row, matrix, numbers, symbols
from derivations._proof import Derivation, compare, equation, require_zero
from derivations.coupled_flow import Coupled, field, forces, reduce, weight_field
from gradflow import descend
from gradflow.models import cooccurrence, coupled
from gradflow.tasks.cooccurrence import Batch


def second_order(state: Coupled, r: sp.Matrix, D: sp.Matrix, m1: sp.Expr) -> Coupled:
    """What a step of descent adds at second order in the learning rate."""
    G, S, Gamma_V, A, Gamma_K, Gamma_Q = state
    return Coupled(
        G=m1 * r.dot(G) * r,
        S=m1**2 * r.dot(Gamma_V * r),
        Gamma_V=S * r * r.T,
        A=D * A.T * D,
        Gamma_K=D * Gamma_Q * D.T,
        Gamma_Q=D.T * Gamma_K * D,
    )


def step(state: Coupled, r: sp.Matrix, D: sp.Matrix, m1: sp.Expr, h: sp.Expr) -> Coupled:
    """The coupled state after a step of descent of the weights with learning rate h."""
    terms = zip(state, field(state, r, D, m1), second_order(state, r, D, m1), strict=True)
    return Coupled(*(value + h * velocity + h**2 * bend for value, velocity, bend in terms))


def derive() -> Derivation:
    """Symbolically for arbitrary r, D and learning rate; then against `coupled.step` and descent of the full weights."""
    weights, r, D, h = symbols(m=2, m1=2, d=3), matrix("r", 3, 1), matrix("D", 3, 3), sp.Symbol("h", real=True)
    state, m1 = reduce(weights), weights.a.dot(weights.a)
    descended = reduce(weights.moved(weight_field(weights, r, D), h))
    for name, moved, claimed in zip(state._fields, descended, step(state, r, D, m1, h), strict=True):
        require_zero(f"{name} after a step", moved - claimed)

    made, batch = example()
    now, width, rate = reduce(numbers(made)), coupled.width_of(made), 0.3
    minibatch = Batch(*(leaf[1:] for leaf in batch))

    def derived(function, data, *more):
        pushed = forces(now.G, now.A, data.tokens.tolist(), data.label.tolist(), width.m)
        return in_a_row(function(now, *pushed, width.m1, *more))

    def descended_weights(data):
        return descend(cooccurrence.plain_loss, made, data, learning_rate=rate, steps=1, show_progress=False).final

    state_by_code, _ = coupled.step(coupled.reduce(made), rate, batch, width)
    bend_by_code = coupled.second_order(coupled.reduce(made), batch, width)
    return Derivation(
        "Gradient descent closes in the coupled variables",
        "this project, for the model of Yang et al. (2024)",
        (
            r"Each of $G = W_V^\top u$, $S = u^\top u$, $\Gamma_V = W_V^\top W_V$, $A = W_K^\top W_Q$, $\Gamma_K = W_K^\top W_K$ and $\Gamma_Q = W_Q^\top W_Q$ is a product $P^\top R$ of two of $u, W_V, W_K, W_Q$. "
            r"Descent of learning rate $h$ moves each factor by $h$ times its velocity under the flow, so",
            equation(r"(P + h \dot P)^\top (R + h \dot R) - P^\top R", r"h\, (\dot P^\top R + P^\top \dot R) + h^2\, \dot P^\top \dot R"),
            r"with nothing of third order. The first term is the flow's velocity. With $\dot u = m_1 W_V r$, $\dot W_V = u r^\top$, $\dot W_K = W_Q D^\top$, $\dot W_Q = W_K D$ the last is",
            r"$$ \begin{aligned} G:&\quad m_1 (r \cdot G)\, r, & S:&\quad m_1^2\, r \cdot \Gamma_V r, & \Gamma_V:&\quad S\, r r^\top, \\ "
            r"A:&\quad D A^\top D, & \Gamma_K:&\quad D \Gamma_Q D^\top, & \Gamma_Q:&\quad D^\top \Gamma_K D, \end{aligned} $$",
            r"again in the six variables alone. That is an identity in $h$, found entry by entry for $m = m_1 = 2$, $d = 3$ and symbols for all weights, $a$, $r$ and $D$.",
            r"Since $r$ and $D$ are arbitrary there, they may be those of any minibatch: SGD, whatever it draws, is reduced as exactly as full-batch descent is.",
        ),
        (
            compare("coupled.step", derived(step, batch, rate), in_a_row(state_by_code)),
            compare("coupled.second_order", derived(second_order, batch), in_a_row(bend_by_code)),
            compare("a step of descent of the weights", derived(step, batch, rate), in_a_row(coupled.reduce(descended_weights(batch)))),
            compare("a step of SGD of the weights", derived(step, minibatch, rate), in_a_row(coupled.reduce(descended_weights(minibatch)))),
        ),
    )  # fmt: skip
