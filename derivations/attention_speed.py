"""How fast attention starts: four sizes enter in three numbers, and in the readout's clock scores start at 2 phi / (m m1) times their force."""

import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp

from derivations import four_point
from derivations._cooccurrence import in_a_row, matrix
from derivations._proof import Derivation, compare, equation, require_zero
from derivations.coupled_flow import Coupled, field
from gradflow.models import coupled, orbits
from gradflow.models import groups as grouped
from gradflow.theory import attention

m, m1, sigma0, sigma1, L = sp.symbols("m m_1 sigma_0 sigma_1 L", positive=True)
phi, epsilon, size = sp.symbols("phi epsilon M", positive=True)


def groups() -> dict[sp.Symbol, sp.Expr]:
    """The share of the values in the readout's rate, its richness, and the size m m1."""
    total = sigma0**2 + sigma1**2
    return {phi: sigma0**2 / total, epsilon: 4 / (m**2 * m1 * total**2), size: m * m1}


def readout_rate() -> sp.Expr:
    """rho = m m1 (sigma0^2 + sigma1^2), the rate S + m1 |column of W_V|^2 at which G moves along r at the start."""
    return m * m1 * (sigma0**2 + sigma1**2)


def units(d: int) -> Coupled:
    """What each variable is measured in, beside time in 1 / rho: G in 1, S in rho, Gamma_V in rho / m1, A in sqrt(m), the others in sigma0^2 m."""
    rho, gram = readout_rate(), sigma0**2 * m
    return Coupled(sp.Integer(1), rho, rho / m1, sp.sqrt(m), gram, gram)


def scaled_field(state: Coupled, r: sp.Matrix, D: sp.Matrix) -> Coupled:
    """The flow in these units, with D = -dLoss/dB for the scores B = A / sqrt(m)."""
    G, s, V, B, K, Q = state
    return Coupled(
        G=s * r + V * r,
        S=epsilon / 2 * r.dot(G),
        Gamma_V=epsilon / 4 * (r * G.T + G * r.T),
        A=phi / size * (D * Q + K * D),
        Gamma_K=epsilon / (4 * phi) * (B * D.T + D * B.T),
        Gamma_Q=epsilon / (4 * phi) * (B.T * D + D.T * B),
    )


def drive(G: sp.Matrix, s: sp.Matrix) -> sp.Matrix:
    """D[key, query] at uniform attention p = 1/L: sentences of class k that hold both add s_k y_k (G(key) - F_k / L) / L."""
    classes = four_point.sentence_classes()
    F = classes.words * G
    return sp.Matrix(
        3,
        3,
        lambda key, query: sum(
            s[k] * classes.labels[k] * classes.words[k, key] * classes.words[k, query] * (G[key] - F[k] / L) / L
            for k in range(4)
        ),
    )


def late_drive() -> sp.Matrix:
    """C(L): D tends to C ln(tau) / tau on the four-point flow, where G tends to (2, 2, -3) ln(tau) and s to its duals / tau."""
    (duals,) = four_point.hard_margin(four_point.kernel())
    direction = four_point.sentence_classes().signed.T * duals
    return drive(direction, duals)


def grown(J: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """A singular value of B, and that of K and Q with it, where D = U diag(dJ/dtau) V^T with constant U and V."""
    return 2 * phi / sp.sqrt(epsilon * size) * sp.sinh(sp.sqrt(epsilon / size) * J), sp.cosh(
        sp.sqrt(epsilon / size) * J
    )


def derive() -> Derivation:
    """Symbolically for two words and any r, D; against the coupled field in two parametrisations, and against the scores' force."""
    d = 2
    r, D, state = matrix("r", d, 1), matrix("D", d, d), Coupled(matrix("G", d, 1), sp.Symbol("s"), *(matrix(name, d, d) for name in ("V", "B", "K", "Q")))  # fmt: skip
    unit, rho = units(d), readout_rate()
    original = Coupled(*(value * scale for value, scale in zip(state, unit, strict=True)))
    velocity = field(original, r, D / sp.sqrt(m), m1)
    for name, moved, scale, claimed in zip(state._fields, velocity, unit, scaled_field(state, r, D), strict=True):
        require_zero(f"{name} in its unit", moved / (scale * rho) - claimed.subs(groups()))
    start = (rho - sigma0**2 * m * m1) / rho, sigma0**2 * m * m1 / rho
    require_zero("readout at the start", start[0] - (1 - phi.subs(groups())), start[1] - phi.subs(groups()))

    # along a straight path: G and r along e, and V e = v e
    e, x, push, s, v = sp.Matrix([1, 0]), *sp.symbols("x rho_r s v", real=True)
    V = sp.diag(v, sp.Symbol("w"))
    straight = scaled_field(Coupled(x * e, s, V, *state[3:]), push * e, D)
    of_rate = straight.S + (e.T * straight.Gamma_V * e)[0]
    require_zero("rate", 2 * (s + v) * of_rate - 2 * epsilon * x * straight.G[0])

    # scores under a force of constant singular vectors, any rotations U and V
    tau = sp.Symbol("tau", positive=True)
    J = [sp.Function(f"J_{k}")(tau) for k in (1, 2)]
    U, V_turn = (
        sp.Matrix([[1 - x**2, -2 * x], [2 * x, 1 - x**2]]) / (1 + x**2) for x in sp.symbols("x_U x_V", real=True)
    )
    b, k = (sp.diag(*(grown(each)[part] for each in J)) for part in (0, 1))
    force = U * sp.diag(*(sp.diff(each, tau) for each in J)) * V_turn.T
    solved = Coupled(*state[:3], U * b * V_turn.T, U * k * U.T, V_turn * k * V_turn.T)
    moved = scaled_field(solved, r, force)
    for name in ("A", "Gamma_K", "Gamma_Q"):
        require_zero(f"{name} grows", sp.diff(getattr(solved, name), tau) - getattr(moved, name))
    pushed = sp.Symbol("J", positive=True)
    require_zero("small", sp.limit(grown(pushed)[0] / pushed, pushed, 0) - 2 * phi / size)

    C = late_drive()
    top = C[1, 0]
    require_zero("largest", top - (7 / L) * (2 - 1 / L))
    require_zero("the signals alike", C[0, 1] - top, C[2, 0] - C[2, 1], C[0, 0] - C[1, 1])
    fall = sp.simplify(-C[2, 0])
    require_zero("squared logarithm", sp.diff(sp.log(tau) ** 2, tau) - 2 * sp.log(tau) / tau)
    sign = {name: sp.simplify(value) for name, value in (("C_{21} = C_{12}", top), ("C_{31} = C_{32}", -fall), ("C_{11} = C_{22}", C[0, 0]), ("C_{33}", C[2, 2]))}  # fmt: skip

    return Derivation(
        "How fast attention starts",
        "derived for this package, on the coupled system of Yang et al. (2024)",
        (
            r"Start from orthogonal columns: $G = A = 0$, $\Gamma_V = \Gamma_K = \Gamma_Q = \sigma_0^2 m\, I$, $S = \sigma_1^2 m m_1$. The readout moves $G$ along its force at the rate",
            equation(r"\rho", r"S + m_1 \sigma_0^2 m = m m_1 (\sigma_0^2 + \sigma_1^2)."),
            r"Measure time in $1/\rho$, so $\tau = \rho t$; $S$ in $\rho$, $\Gamma_V$ in $\rho/m_1$, $\Gamma_K, \Gamma_Q$ in $\sigma_0^2 m$, and scores as the softmax sees them, $B = A/\sqrt m$, with "
            r"$D = -\partial L/\partial B$. The coupled flow becomes, term by term,",
            r"$$ \begin{aligned} \dot G &= s\, r + V r, & \dot s &= \tfrac{\varepsilon}{2}\, r \cdot G, & \dot V &= \tfrac{\varepsilon}{4} (r G^\top + G r^\top), \\ "
            r"\dot B &= \tfrac{\varphi}{m m_1} (D Q + K D), & \dot K &= \tfrac{\varepsilon}{4 \varphi} (B D^\top + D B^\top), & \dot Q &= \tfrac{\varepsilon}{4 \varphi} (B^\top D + D^\top B), \end{aligned} $$",
            r"from $s = 1 - \varphi$, $V = \varphi I$, $K = Q = I$, $G = B = 0$. So $\sigma_0, \sigma_1, m, m_1$ enter in three numbers:",
            r"$$ \varphi = \frac{\sigma_0^2}{\sigma_0^2 + \sigma_1^2} \in (0, 1), \qquad \varepsilon = \frac{4}{m^2 m_1 (\sigma_0^2 + \sigma_1^2)^2}, \qquad m m_1. $$",
            r"**Scores start to move at $2\varphi/(m m_1) < 2/(m m_1)$ times their force $D$**, whatever $\sigma_0$ and $\sigma_1$ are: large initial $W_K, W_Q$ need a large $\sigma_0$, which is that "
            r"of $W_V$, too, and speeds the readout up as much. Later $K$ and $Q$ grow along with the scores, and so does their speed. Where outputs "
            r"move along a straight line, $G$ and $r$ along a unit vector $e$ with $V e \parallel e$, the rate $\varrho = s + e \cdot V e$ obeys $\varrho\, \dot\varrho = \varepsilon\, |G|\, |\dot G|$, hence",
            equation(r"\varrho", r"\sqrt{1 + \varepsilon |G|^2}."),
            r"While scores are small, attention is uniform and the outputs follow the four-point flow in the clock that this rate drives, whatever attention does. Where the singular vectors "
            r"of $D$ stand still, so do those of $B$, and of $K$ and $Q$, which grow along; singular value by singular value, with $J = \int D\, d\tau$,",
            equation("B", r"\frac{2\varphi}{\sqrt{\varepsilon\, m m_1}}\, \sinh\Bigl(\sqrt{\varepsilon/(m m_1)}\; J\Bigr) = \frac{2\varphi}{m m_1}\, J + \dots"),
            r"A score moves if sentences hold both its words, $D_{kq} = \frac1L \sum_c \bar s_c y_c x_{ck} x_{cq} (G_k - F_c/L)$. "
            r"Late, $G = (2, 2, -3) \ln\tau$ and $\bar s = (7, 5, 5, 0)/\tau$, so $D = C \ln\tau/\tau$ and $B = \frac{\varphi}{m m_1}\, C \ln^2\tau$ for $\varepsilon \ll 1$, with",
            *(equation(name, value) for name, value in sign.items()),
            r"(key, query): each signal is sought by the other, the common word shunned by both, as Theorem 3.3 says, and "
            rf"$C_{{21}} : -C_{{31}} = {sp.latex(sp.factor(top / fall))}$, 3/2 for five words. Attention matters, $|B| \geq B_*$, only where $m m_1 \leq \varphi\, C_{{21}} \ln^2\tau / B_*$.",
        ),
        (_against_the_field(), _against_the_forces()),
    )  # fmt: skip


def _against_the_field():
    """The coupled field at a random state, in two parametrisations that come to the same three numbers."""
    words, L_words = 3, 5
    rng = np.random.default_rng(0)
    symmetric = [np.eye(words) + 0.1 * (x + x.T) for x in rng.normal(size=(3, words, words))]
    G, s, (V, K, Q), B = rng.normal(size=words), 0.7, symmetric, rng.normal(size=(words, words))
    sizes = orbits.classes(np.inf, L_words)
    given = grouped.Groups(0.3, 0.8, 40.0)
    derived, made = [], []
    for neurons in (1.0, 2.5):
        scales = grouped.scales(given, m1=neurons)
        numbers = {m: scales["m"], m1: neurons, sigma0: scales["sigma0"], sigma1: scales["sigma1"]}
        unit = [float(each.subs(numbers)) for each in units(words)]
        values = [G, s, V, B, K, Q]
        state = coupled.Coupled(*(jnp.asarray(value) * scale for value, scale in zip(values, unit, strict=True)))
        moved, _ = orbits.field(state, sizes, coupled.Width(scales["m"], neurons))
        made.append(in_a_row([leaf / (scale * grouped.readout_rate(**scales)) for leaf, scale in zip(jax.tree.leaves(moved), unit, strict=True)]))  # fmt: skip
        r, D = (-each for each in jax.grad(orbits.class_loss, argnums=(0, 1))(jnp.asarray(G), jnp.asarray(B), sizes, coupled.Width(1.0, 1.0)))  # fmt: skip
        scaled = scaled_field(Coupled(*map(sp.Matrix, (G,)), sp.Float(s), *map(sp.Matrix, (V, B, K, Q))), sp.Matrix(r), sp.Matrix(D))  # fmt: skip
        at = dict(zip((phi, epsilon, size), given, strict=True))
        derived.append(np.concatenate([np.ravel(sp.Matrix([each]).subs(at)).astype(float) for each in scaled]))
    return compare("the coupled field at two choices of m1", derived, made)


def _against_the_forces():
    """The force on the scores where attention is uniform, by JAX and by theory.attention."""
    G, words = np.array([0.4, -0.9, 1.3]), 6.0
    symbols = sp.Matrix(sp.symbols("G_1:4", real=True))
    derived = sp.lambdify((symbols, L), drive(symbols, four_point.class_gradients(symbols)))(G, words)
    slope = jax.grad(orbits.class_loss, argnums=1)(jnp.asarray(G), jnp.zeros((3, 3)), orbits.classes(np.inf, words), coupled.Width(1.0, 1.0))  # fmt: skip
    made = np.stack([-np.asarray(slope), np.asarray(attention.drive(jnp.asarray(G), words))])
    return compare("the force on scores, of the model and of theory.attention", np.stack([derived, derived]), made)
