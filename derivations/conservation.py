"""What gradient flow of the co-occurrence model conserves, what descent and weight decay make of it, and what moves.

Quantities and their names are those of `gradflow.theory.conservation.of_weights`.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp

from derivations._cooccurrence import Weights, embedded, example, in_a_row, matrix, numbers, symbols
from derivations._proof import Check, Derivation, compare, equation, require_zero
from derivations.coupled_flow import forces, reduce, weight_field
from derivations.weight_gradients import sample_velocity
from gradflow import descend
from gradflow.models import cooccurrence
from gradflow.tasks.cooccurrence import Batch
from gradflow.theory import conservation

QUADRATIC, LINEAR = ("C1", "C2", "C2a"), ("W off a", "K1")
_gradient = jax.jit(jax.grad(cooccurrence.loss))


def conserved(weights: Weights) -> dict[str, sp.Matrix]:
    """The conserved quantities; |a|^2 = m1."""
    W, W_V, W_K, W_Q, a = weights
    u, m1 = weights.u, a.dot(a)
    return {
        "C1": W_K * W_K.T - W_Q * W_Q.T,
        "C2": W.T * W - W_V * W_V.T,
        "C2a": u * u.T - m1 * W_V * W_V.T,
        "W off a": W - a * u.T / m1,
        "K1": W_K * sp.ones(W_K.cols, 1),
    }


def descent_drift(weights: Weights, r: sp.Matrix, D: sp.Matrix, h: sp.Expr) -> dict[str, sp.Matrix]:
    """By how much a step of descent with learning rate h changes them."""
    _, W_V, W_K, W_Q, a = weights
    u, m1, v = weights.u, a.dot(a), W_V * r
    C2 = h**2 * (m1 * v * v.T - r.dot(r) * u * u.T)
    still = {name: sp.zeros(*value.shape) for name, value in conserved(weights).items() if name in LINEAR}
    return {"C1": h**2 * (W_Q * D.T * D * W_Q.T - W_K * D * D.T * W_K.T), "C2": C2, "C2a": m1 * C2} | still


def decay(weights: Weights, strength: sp.Expr) -> dict[str, sp.Matrix]:
    """Their rates of change where the loss has a weight decay (strength / 2) |theta|^2 added."""
    return {name: -(2 if name in QUADRATIC else 1) * strength * value for name, value in conserved(weights).items()}


def rescaled(weights: Weights, rates: Sequence[sp.Expr]) -> Weights:
    """theta / sqrt(rate): where the four matrices have learning rates of their own, `conserved` of these weights is conserved."""
    trained = [matrix / sp.sqrt(rate) for matrix, rate in zip(weights[:4], rates, strict=True)]
    return Weights(*trained, weights.a)


def look_alikes(weights: Weights) -> dict[str, sp.Matrix]:
    """Quantities of the same kind that no law protects."""
    W, W_V, W_K, W_Q, _ = weights
    squares = {"|W|^2": W, "|W_V|^2": W_V, "|W_K|^2": W_K, "|W_Q|^2": W_Q, "|W_K^T W_Q|^2": W_K.T * W_Q}
    return {"W_Q 1": W_Q * sp.ones(W_Q.cols, 1)} | {name: sp.Matrix([(M.T * M).trace()]) for name, M in squares.items()}


def look_alike_rates(weights: Weights, r: sp.Matrix, D: sp.Matrix) -> dict[str, sp.Matrix]:
    """How fast these move along the flow."""
    G, _, _, A, Gamma_K, Gamma_Q = reduce(weights)
    value, score = sp.Matrix([2 * r.dot(G)]), sp.Matrix([2 * (A.T * D).trace()])
    return {
        "W_Q 1": weights.W_K * D * sp.ones(D.cols, 1),
        "|W|^2": value,
        "|W_V|^2": value,
        "|W_K|^2": score,
        "|W_Q|^2": score,
        "|W_K^T W_Q|^2": sp.Matrix([2 * (A.T * (D * Gamma_Q + Gamma_K * D)).trace()]),
    }


def exact_states() -> dict[str, tuple[Weights, dict[str, sp.Expr]]]:
    """Three weights with m = m1 = 1, d = 2, and some of their rates under the one sentence (mu_1, mu_2) with y = 1."""

    def weights(W_V, W_Q):
        return Weights(*(sp.Matrix([row]) for row in ([1], W_V, [1, 0], [W_Q, 0], [1])))

    ln2 = sp.log(2)
    score = sp.Rational(8, 15) * ln2
    return {
        "uniform attention, F = 0": (weights([1, -1], 0), {"W_Q 1": sp.Rational(1, 2)}),
        "values equal, F = ln 2": (
            weights([ln2 / 2, ln2 / 2], 0),
            {"|W_V|^2": 2 * ln2 / 3, "|W_K|^2": sp.S(0), "|W_K^T W_Q|^2": sp.S(0)},
        ),
        "attention 2 : 1, F = 0": (
            weights([1, -sp.Rational(7, 5)], ln2),
            {"|W_V|^2": sp.S(0), "|W_K|^2": score, "|W_K^T W_Q|^2": score * (1 + ln2**2)},
        ),
    }


def along(quantities: Callable, weights: Weights, velocity: Sequence[sp.Matrix]) -> dict[str, sp.Matrix]:
    """Rates of change of some quantities of the weights, where these move with a velocity."""
    t = sp.Symbol("t", real=True)
    return {name: sp.diff(value, t).subs(t, 0) for name, value in quantities(weights.moved(velocity, t)).items()}


def derive() -> Derivation:
    """Symbolically for arbitrary r, and D whose columns sum to zero; then against `gradflow.theory.conservation`."""
    weights, r, free = symbols(m=2, m1=2, d=3), matrix("r", 3, 1), matrix("D", 2, 3)
    D = free.col_join(-sp.ones(1, 2) * free)
    velocity, (h, strength) = weight_field(weights, r, D), sp.symbols("h lambda", positive=True)
    still = conserved(weights)

    for name, rate in along(conserved, weights, velocity).items():
        require_zero(f"d{name}", rate)
    stepped, drift = conserved(weights.moved(velocity, h)), descent_drift(weights, r, D, h)
    decaying = [rate - strength * parameter for rate, parameter in zip(velocity, weights, strict=False)]
    under_decay, decayed = along(conserved, weights, decaying), decay(weights, strength)
    for name, value in still.items():
        require_zero(f"a step of descent, {name}", stepped[name] - value - drift[name])
        require_zero(f"weight decay, {name}", under_decay[name] - decayed[name])
    eta = sp.symbols("eta_W eta_V eta_K eta_Q", positive=True)
    own_rates = [rate * own for rate, own in zip(velocity, eta, strict=True)]
    for name, rate in along(lambda moved: conserved(rescaled(moved, eta)), weights, own_rates).items():
        require_zero(f"separate learning rates, {name}", rate)
    claimed = look_alike_rates(weights, r, D)
    for name, rate in along(look_alikes, weights, velocity).items():
        require_zero(f"rate of {name}", rate - claimed[name])
    for state, rates in exact_states().values():
        moving = along(look_alikes, state, sample_velocity(state, embedded((0, 1), 2), 1))
        for name, rate in rates.items():
            require_zero(f"rate of {name} in numbers", moving[name] - sp.Matrix([rate]))

    made, batch = example()
    now, rate = numbers(made), 0.3
    r, D = forces(reduce(now).G, reduce(now).A, batch.tokens.tolist(), batch.label.tolist(), made.W_K.shape[0])
    own, kept, descended = (0.5, 2.0, 1.5, 0.8), conservation.of_weights(made), descent_drift(now, r, D, rate)
    after = descend(cooccurrence.loss, made, batch, learning_rate=rate, steps=1, show_progress=False).final
    changes = jax.tree.map(jnp.subtract, conservation.of_weights(after), kept)
    predicted = conservation.descent_step_drift(_gradient(made, batch), rate)

    def of_rescaled(weights):
        scaled = [matrix / eta**0.5 for matrix, eta in zip(jax.tree.leaves(weights), own, strict=False)]
        return conservation.of_weights(cooccurrence.Weights(*scaled, a=weights.a))

    only_sentence = Batch(jnp.array([[0, 1]]), jnp.ones(1), jnp.zeros(1, int))
    exact, by_code = [], []
    for state, rates in exact_states().values():
        *matrices, a = (np.asarray(matrix).astype(float) for matrix in state)
        moving = _rates(_look_alikes, cooccurrence.Weights(*matrices, a=a[:, 0]), only_sentence)
        exact += [float(number) for number in rates.values()]
        by_code += [float(moving[name].sum()) for name in rates]
    return Derivation(
        "Conservation laws of the flow, and what breaks them",
        "Du et al. (2018) and Marcotte et al. (2023) for the first two; the others are this model's",
        (
            r"Only the form of the flow matters here, $\dot W = a (W_V r)^\top$, $\dot W_V = u r^\top$, $\dot W_K = W_Q D^\top$, $\dot W_Q = W_K D$ with $u = W^\top a$, $|a|^2 = m_1$, for any $r$ and any $D$ whose columns sum to zero. With $v = W_V r$, $\dot u = m_1 v$ and",
            r"$$ \begin{aligned} C_1 &= W_K W_K^\top - W_Q W_Q^\top: & \tfrac{d}{dt} W_K W_K^\top &= W_Q D^\top W_K^\top + W_K D W_Q^\top = \tfrac{d}{dt} W_Q W_Q^\top, \\ "
            r"C_2 &= W^\top W - W_V W_V^\top: & \tfrac{d}{dt} W^\top W &= v u^\top + u v^\top = \tfrac{d}{dt} W_V W_V^\top, \\ "
            r"C_{2a} &= u u^\top - m_1 W_V W_V^\top: & \tfrac{d}{dt} u u^\top &= m_1 (v u^\top + u v^\top) = m_1 \tfrac{d}{dt} W_V W_V^\top, \\ "
            r"& (I - a a^\top / m_1)\, W: & (I - a a^\top / m_1)\, a &= 0, \\ "
            r"& W_K 1: & W_Q D^\top 1 &= 0 . \end{aligned} $$",
            r"All five stand still; by the fourth, $W(t) = W(0) + a\, (u(t) - u(0))^\top / m_1$. The last one is the softmax's blindness to a shift of all scores of a query.",
            r"*Descent.* A quadratic form obeys $C(\theta + h \dot\theta) = C(\theta) + h\, \dot C + h^2 C(\dot\theta)$, and $\dot C = 0$. So a step of learning rate $h$ changes $C_1$ by $h^2 (W_Q D^\top D W_Q^\top - W_K D D^\top W_K^\top)$, "
            r"$C_2$ by $h^2 (m_1 v v^\top - |r|^2 u u^\top)$ and $C_{2a}$ by $m_1$ times that, exactly, and the two linear ones by nothing. $r$ and $D$ may be those of a minibatch.",
            r"*Weight decay.* $\frac{\lambda}{2} |\theta|^2$ in the loss adds $-\lambda \theta$ to the velocity, and by homogeneity $\dot C = -2 \lambda C$ for the quadratic, $-\lambda C$ for the linear ones.",
            r"*Separate learning rates.* If each matrix moves with its own rate $\eta$, then $\theta / \sqrt\eta$ moves by a flow of the same form (with $\sqrt{\eta_W \eta_V}\, r$ and $\sqrt{\eta_K \eta_Q}\, D$), "
            r"so the laws hold for the matrices over the roots of their rates: $W_Q W_Q^\top / \eta_Q - W_K W_K^\top / \eta_K$ is conserved, and so on.",
            r"*What moves.* $\frac{d}{dt} W_Q 1 = W_K D 1$, and rows of $D$ do not sum to zero. Squared lengths obey",
            equation(r"\tfrac{d}{dt} |W|^2", r"\tfrac{d}{dt} |W_V|^2 = 2\, r \cdot G, \qquad \tfrac{d}{dt} |W_K|^2 = \tfrac{d}{dt} |W_Q|^2 = 2 \langle A, D \rangle, \qquad \tfrac{d}{dt} |A|^2 = 2 \langle A, D \Gamma_Q + \Gamma_K D \rangle ."),
            r"For one sentence $(\mu_1, \mu_2)$ with $y = 1$ and $m = m_1 = W = 1$, exactly:",
            _table(),
            r"By the last two rows $r \cdot G$ and $\langle A, D \rangle$ vanish independently. So $\alpha |W_K|^2 + \beta |W_Q|^2 + \gamma |W_V|^2 + \delta |W|^2$ is conserved from every start only if $\alpha + \beta = 0 = \gamma + \delta$, "
            r"which are the traces of $C_1$ and $C_2$: no law of this kind joins queries and keys to values, and none joins $|W_K^\top W_Q|^2$ to $|W_V|^2$. (Linear attention has one, $|W_K|^2 - |W_V|^2$, since its output is of degree one in either.)",
            r"All rates and changes above were found entry by entry for $m = m_1 = 2$, $d = 3$ and symbols for all weights, $a$, $r$ and $D$; those of the table from the gradient of the loss.",
        ),
        (
            compare("conservation.of_weights", in_a_row(conserved(now)), in_a_row(kept)),
            Check("its rates along the flow, of |weights| |velocity|", _unrest(conservation.of_weights, made, batch)),
            Check("the same at separate learning rates", _unrest(of_rescaled, made, batch, own)),
            compare("its rates under weight decay", in_a_row(decay(now, 0.7)), in_a_row(_rates(conservation.of_weights, made, batch, decay=0.7))),
            compare("its changes in a step of descent", in_a_row(descended), in_a_row(changes)),
            compare("descent_step_drift", in_a_row([descended[name] for name in sorted(predicted)]), in_a_row(predicted)),
            compare("rates of what moves", in_a_row(look_alike_rates(now, r, D)), in_a_row(_rates(_look_alikes, made, batch))),
            compare("the three exact states", exact, by_code),
        ),
    )  # fmt: skip


def _table() -> str:
    """The exact states and their rates, as Markdown."""
    lines = ["| state | $W_V$ | $W_K$ | $W_Q$ | rates |", "| --- | --- | --- | --- | --- |"]
    for name, (weights, rates) in exact_states().items():
        matrices = " | ".join(f"${sp.latex(weights[k].tolist()[0])}$" for k in (1, 2, 3))
        moving = ", ".join(f"`{quantity}`: ${sp.latex(rate)}$" for quantity, rate in rates.items())
        lines.append(f"| {name} | {matrices} | {moving.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def _look_alikes(weights: cooccurrence.Weights) -> dict[str, jax.Array]:
    """`look_alikes` of gradflow's weights."""
    W, W_V, W_K, W_Q, _ = jax.tree.leaves(weights)
    squares = {"|W|^2": W, "|W_V|^2": W_V, "|W_K|^2": W_K, "|W_Q|^2": W_Q, "|W_K^T W_Q|^2": W_K.T @ W_Q}
    return {"W_Q 1": W_Q.sum(axis=1)} | {name: jnp.vdot(M, M) for name, M in squares.items()}


def _velocity(weights, batch: Batch, eta=(1.0, 1.0, 1.0, 1.0), decay: float = 0.0) -> cooccurrence.Weights:
    """Of the flow, by differentiating gradflow's loss; with learning rates eta of the four matrices and weight decay."""
    *gradients, fixed = jax.tree.leaves(_gradient(weights, batch))
    pairs = zip(eta, gradients, jax.tree.leaves(weights), strict=False)
    return cooccurrence.Weights(*(-own * (gradient + decay * matrix) for own, gradient, matrix in pairs), a=fixed)


def _rates(quantities: Callable, weights, batch: Batch, **flow) -> dict[str, jax.Array]:
    """Rates of change of quantities of gradflow's weights along that velocity."""
    rates = jax.jit(lambda velocity: jax.jvp(quantities, (weights,), (velocity,))[1])
    return rates(_velocity(weights, batch, **flow))


def _unrest(quantities: Callable, weights, batch: Batch, eta=(1.0, 1.0, 1.0, 1.0)) -> float:
    """The largest rate of quantities that should stand still, over the size of what must cancel in it."""
    scale = np.abs(in_a_row(weights)).max() * np.abs(in_a_row(_velocity(weights, batch, eta))).max()
    return float(np.abs(in_a_row(_rates(quantities, weights, batch, eta=eta))).max() / scale)
