"""Automatic balancing: dR/dt is a quadratic in R whose root in (1, 2) attracts, and there all class gradients fall at one rate."""

import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp

from derivations import four_point, max_margin
from derivations._proof import Derivation, compare, equation, require_zero
from derivations.max_margin import LENGTH, N
from gradflow.models import coupled
from gradflow.models.cooccurrence import word_outputs
from gradflow.tasks.cooccurrence import Batch
from gradflow.theory import four_point as theory
from gradflow.theory.max_margin import unique_words_limits


def slopes(s: sp.Matrix) -> sp.Matrix:
    """h_k = -share_k g'(margin_k) = s_k (1 - s_k / share_k), by which s_k falls as its margin grows."""
    shares = four_point.sentence_classes().shares
    return sp.Matrix([s[k] * (1 - s[k] / shares[k]) for k in range(4)])


def ratio_velocity(K: sp.Matrix, s: sp.Matrix, h: sp.Matrix) -> sp.Expr:
    """dR/dtau where sentences of a class have one margin: margins move by K s, so ds_k/dtau = -h_k (K s)_k."""
    speed = -h.multiply_elementwise(K * s)
    return sum(sp.diff(four_point.gradient_ratio(s), s[k]) * speed[k] for k in range(4))


def quadratic(h: sp.Matrix, q: sp.Expr) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """(a, b, c) of Lemma F.6, with q = (s1 - s3) / (s1 - s2), which the paper sets to 1 up to a small deviation."""
    h1, h2, h3, h4 = h
    return -h1 - h2, q * h1 - h3 - h4, (1 + q) * h1 + h2 + q * h3


def own_words(s: sp.Matrix, h: sp.Matrix) -> sp.Expr:
    """What the random words of finite training sets add to dR/dtau."""
    own = (max_margin.kernel() - four_point.kernel()).diagonal()
    term = [own[k] * h[k] * s[k] for k in range(4)]
    R = four_point.gradient_ratio(s)
    return ((1 + R) * (term[0] - term[1]) - term[2] - term[3]) / (s[0] - s[1])


def derive() -> Derivation:
    """The quadratic, its root, the root in closed form for n sentences of L words; against the flows' own derivative of R."""
    s, h = (sp.Matrix(sp.symbols(f"{name}_1:5", positive=True)) for name in ("s", "h"))
    K, K_own = four_point.kernel(), max_margin.kernel()
    R_of_s = four_point.gradient_ratio(s)
    R, q = sp.symbols("R q")
    q_of_s = (s[0] - s[2]) / (s[0] - s[1])
    margin = sp.Symbol("m", real=True)
    g = 1 / (1 + sp.exp(margin))
    require_zero("slope of a class gradient", sp.diff(g, margin) + g * (1 - g))

    a, b, c = quadratic(h, q)
    polynomial = a * R**2 + b * R + c
    on_s = polynomial.subs({R: R_of_s, q: q_of_s}, simultaneous=True)
    require_zero("quadratic", sp.cancel(ratio_velocity(K, s, h) - on_s))
    require_zero("own words", sp.cancel(ratio_velocity(K_own, s, h) - on_s - own_words(s, h)))

    # its root
    symmetric = polynomial.subs(q, 1)
    at_1, at_2 = (sp.expand(symmetric.subs(R, value)) for value in (1, 2))
    require_zero("at 1", at_1 - (2 * h[0] - h[3]))
    require_zero("at 2", at_2 + 3 * h[1] + h[2] + 2 * h[3])

    # late, h = s, and the coefficients depend on R themselves
    line = four_point.late_gradients(R)
    require_zero("cubic", symmetric.subs(dict(zip(h, line, strict=True))) - four_point.late_ratio_velocity(K, R))
    late = four_point.late_ratio_velocity(K_own, R)
    root = max_margin.limits_of(max_margin.duals()).R
    factored = -(R + 1) * (R + 2) * (2 * N + 4 * LENGTH - 6) * (R - root) / N
    require_zero("late velocity with own words", sp.cancel(late - factored))

    # balance at the root, and what becomes of the rest
    rates = (K_own * line.subs(R, root)).applyfunc(sp.cancel)
    require_zero("one rate", sp.cancel(rates[0] - rates[1]), sp.cancel(rates[1] - rates[2]))
    require_zero("I4 falls faster", sp.cancel(rates[3] - rates[1] - max_margin.room_of_I4() / N))
    fall = K_own * s
    apart = 1 + 6 * (LENGTH - 2) / N
    require_zero("I2 against I3", fall[1] - fall[2] - apart * (s[1] - s[2]))

    rng = np.random.default_rng(0)
    sizes = [(30, 4), (60, 5), (180, 13), (6000, 3)]
    solved = sp.lambdify((N, LENGTH), [each for each in sp.solve(late, R) if each.has(N)])
    return Derivation(
        "Automatic balancing of gradients",
        "Yang et al. (2024), Lemmas 4.4, 4.5, F.5, F.6",
        (
            r"Uniform attention, $\tau = S t$, equal margins within a class. Margins move by $\dot m = K \bar s$ with the $K$ of the four-point flow, and "
            r"$\dot{\bar s}_k = -h_k \dot m_k$ with $h_k = -\text{share}_k\, g'(m_k) = \bar s_k (1 - \bar s_k/\text{share}_k) > 0$. Put that into the derivative of "
            r"$R = (\bar s_2 + \bar s_3 + \bar s_4 - \bar s_1)/(\bar s_1 - \bar s_2)$, and write $q = (\bar s_1 - \bar s_3)/(\bar s_1 - \bar s_2)$. With no approximation",
            equation(r"\dot R", "a R^2 + b R + c") + "\n\n" + equation("(a, b, c)", rf"\bigl({sp.latex(a)},\; {sp.latex(b)},\; {sp.latex(c)}\bigr),"),
            r"the paper's quadratic at $q = 1$ (its $\sum g'$ are $-n h$), that is at $\bar s_2 = \bar s_3$.",
            rf"There the quadratic is ${sp.latex(at_1)}$ at $R = 1$ and ${sp.latex(at_2)} < 0$ at $R = 2$; $a < 0 < c$, so it has one positive root, above which $R$ falls and "
            r"below which it rises. Whatever the $h$ are, that root lies in $(1, 2)$ if and only if $2 h_1 > h_4$.",
            r"The root moves with the $h$. Late, $h = \bar s$ and $\bar s_4 \to 0$, and the definition of $R$ fixes $\bar s \propto (2 + R, 1 + R, 1 + R, 0)$: in these the quadratic becomes "
            r"$-(\bar s_1 - \bar s_2)(2R - 3)(R + 1)(R + 2)$, the cubic of the four-point flow.",
            r"With $n$ sentences of $L$ words and unique random words, these add to $K$ the diagonal $(L - c_k)/n_k$; the same line then gives",
            equation(r"\dot R", r"-(\bar s_1 - \bar s_2)\,\frac{(R + 1)(R + 2)}{n}\,\bigl((2n + 4L - 6)\, R - (3n - 2L)\bigr)."),
            r"So $R^* = (3n - 2L)/(2n + 4L - 6)$ attracts from all of $R > -1$, and is the $R^*$ of the max-margin limits, which lies in $(1, 3/2)$ wherever class $I_4$ is no support vector.",
            r"At $R^*$, and on that line only there, $(K \bar s)_1 = (K \bar s)_2 = (K \bar s)_3$: the relative rates $\dot{\bar s}_k/\bar s_k$ of the three classes agree, and so do those of their losses. "
            r"Class $I_4$ falls faster, by $(\bar s_1 - \bar s_2)\bigl(n - 6(L-2)(1 + R^*)\bigr)/n$, just where it is no support vector. And "
            rf"$\frac{{d}}{{d\tau}} \ln(\bar s_2/\bar s_3) = -\bigl({sp.latex(apart)}\bigr)(\bar s_2 - \bar s_3)$ late, whatever $\bar s_1$ and $\bar s_4$: the two grow equal (Lemma 4.4).",
        ),
        (
            _along_four_points(K, rng.normal(size=(6, 3))),
            _along_the_coupled_flow(s, h, rng.normal(size=7)),
            compare("R* in theory", [solved(*size)[0] for size in sizes], [unique_words_limits(*size).R for size in sizes]),
        ),
    )  # fmt: skip


def _along_four_points(K: sp.Matrix, states: np.ndarray):
    """At any state, without the exchange of mu1 and mu2."""
    G = sp.Matrix(sp.symbols("G_1:4", real=True))
    s = sp.Matrix(sp.symbols("s_1:5", positive=True))
    of_s = sp.lambdify([s], ratio_velocity(K, s, slopes(s)))
    of_G = sp.lambdify([G], four_point.class_gradients(G))

    @jax.jit
    @jax.vmap
    def made(G):
        return jax.jvp(theory.gradient_ratio, (G,), (-jax.grad(theory.loss)(G),))[1]

    return compare("R along the four-point flow by JAX", [of_s(of_G(row).ravel()) for row in states], made(states))


def _along_the_coupled_flow(s: sp.Matrix, h: sp.Matrix, values: np.ndarray):
    """With attention and readout frozen (no Gram matrices), at a state with one G for all random words of a class."""
    n, L = 30, 4
    batch, d = four_point.training_set(n, L)
    G = jnp.asarray(values[:3].tolist() + [0.0] * (d - 3))
    random = batch.tokens >= 3
    G = G.at[batch.tokens[random]].set(jnp.asarray(values[3:])[batch.word_class.repeat(random.sum(axis=1))])
    nothing = jnp.zeros((d, d))

    def class_gradients(G: jax.Array, batch: Batch) -> jax.Array:
        g = jax.nn.sigmoid(-batch.label * word_outputs(G, nothing, batch.tokens, 1.0))
        return jax.ops.segment_sum(g, batch.word_class, 4) / n

    def ratio(G: jax.Array) -> jax.Array:
        s1, s2, s3, s4 = class_gradients(G, batch)
        return (s2 + s3 + s4 - s1) / (s1 - s2)

    @jax.jit
    def made(G):
        state = coupled.Coupled(G, jnp.array(1.0), nothing, A=nothing, Gamma_K=nothing, Gamma_Q=nothing)
        return jax.jvp(ratio, (G,), (coupled.field(state, batch, coupled.Width(1.0, 1.0))[0].G,))[1]

    a, b, c = quadratic(h, (s[0] - s[2]) / (s[0] - s[1]))
    R = four_point.gradient_ratio(s)
    derived = (a * R**2 + b * R + c + own_words(s, h)).subs(dict(zip(h, slopes(s), strict=True)))
    numbers = np.asarray(class_gradients(G, batch))
    against = f"R along the coupled flow, n = {n}, L = {L}"
    return compare(against, [sp.lambdify([s, N, LENGTH], derived)(numbers, n, L)], [made(G)])
