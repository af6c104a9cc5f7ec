"""Phase 1 in closed form: near zero weights u and W_V r/|r| grow like cosh and sinh of sqrt(m1) |r| t, and where they start."""

import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp
from jax.flatten_util import ravel_pytree
from scipy.linalg import expm

from derivations import four_point
from derivations._proof import Derivation, compare, equation, require_zero
from gradflow.models import cooccurrence, coupled


def rate(r: sp.Matrix, m1: sp.Expr) -> sp.Expr:
    """lambda = sqrt(m1) |r|."""
    return sp.sqrt(m1) * sp.sqrt(r.dot(r))


def squared_length(n: sp.Expr, L: sp.Expr) -> sp.Expr:
    """|r|^2 at the start for n sentences of L words and unique random words: r is r_k = sum of y/(2n) over the sentences with word k."""
    classes = four_point.sentence_classes()
    start = four_point.velocity(classes.shares / 2)
    random_words = n * sum(classes.shares[k] * (L - sum(classes.words[k, :])) for k in range(4))
    return start.dot(start) + random_words / (2 * n) ** 2


def readout_and_values(
    u: sp.Matrix, W_V: sp.Matrix, r: sp.Matrix, m1: sp.Expr, t: sp.Expr
) -> tuple[sp.Matrix, sp.Matrix]:
    """u and W_V at time t from their values at 0."""
    cosh, sinh = sp.cosh(rate(r, m1) * t), sp.sinh(rate(r, m1) * t)
    along = r / sp.sqrt(r.dot(r))
    v = W_V * along
    return cosh * u + sp.sqrt(m1) * sinh * v, W_V + ((cosh - 1) * v + sinh / sp.sqrt(m1) * u) * along.T


def outputs_and_size(
    G: sp.Matrix, S: sp.Expr, Gamma_V: sp.Matrix, r: sp.Matrix, m1: sp.Expr, t: sp.Expr
) -> tuple[sp.Matrix, sp.Expr]:
    """G and S at time t from G, S and Gamma_V at 0."""
    cosh, sinh = sp.cosh(rate(r, m1) * t), sp.sinh(rate(r, m1) * t)
    along = r / sp.sqrt(r.dot(r))
    overlap, size = along.dot(G), (along.T * Gamma_V * along)[0]
    S_t = cosh**2 * S + 2 * sp.sqrt(m1) * sinh * cosh * overlap + m1 * sinh**2 * size
    gained = (cosh * (cosh - 1) + sinh**2) * overlap + sp.sqrt(m1) * sinh * (cosh - 1) * size
    gained += sinh * cosh / sp.sqrt(m1) * S
    return cosh * G + sp.sqrt(m1) * sinh * Gamma_V * along + gained * along, S_t


def mean_initial_rate(sigma0: sp.Expr, sigma1: sp.Expr, m: sp.Expr, r: sp.Matrix) -> sp.Matrix:
    """Mean rate of a_j w_j.W_V mu of one neuron at a Gaussian start."""
    return (sigma0**2 + sigma1**2) * m * r


def derive() -> Derivation:
    """From the loss to second order in the weights; against the Hessian of the model at zero and the coupled field at its start."""
    t, m1 = sp.symbols("t m_1", positive=True)
    neurons, channels, embedding = 3, 2, 2
    r = sp.Matrix(sp.symbols(f"r_1:{embedding + 1}", positive=True))
    W = sp.Matrix(neurons, channels, sp.symbols(f"w_:{neurons * channels}"))
    W_V = sp.Matrix(channels, embedding, sp.symbols(f"v_:{channels * embedding}"))
    a = sp.Matrix([1, -1, 1])
    u = W.T * a

    # the flow of -u.W_V r, which is all of the loss up to second order, in the weights
    F = sp.Symbol("F")
    require_zero("loss", sp.series(sp.log(1 + sp.exp(-F)), F, 0, 2).removeO() - sp.log(2) + F / 2)
    gain = u.dot(W_V * r)
    dW = W.applyfunc(lambda w: sp.diff(gain, w))
    require_zero("dW", dW - a * (W_V * r).T)
    require_zero("du", dW.T * a - neurons * W_V * r)
    require_zero("dW_V", W_V.applyfunc(lambda v: sp.diff(gain, v)) - u * r.T)

    # its solution, in powers of e = exp(lambda t)
    lam, e = rate(r, m1), sp.Symbol("e", positive=True)
    hyperbolic = {sp.cosh(lam * t): (e + 1 / e) / 2, sp.sinh(lam * t): (e - 1 / e) / 2}
    u0 = sp.Matrix(sp.symbols(f"u_1:{channels + 1}", real=True))
    u_t, W_V_t = solution = readout_and_values(u0, W_V, r, m1, t)
    require_zero("start", u_t.subs(t, 0) - u0, W_V_t.subs(t, 0) - W_V)
    du, dW_V = (sp.diff(each, t).subs(hyperbolic) for each in solution)
    u_t, W_V_t = (each.subs(hyperbolic) for each in solution)
    require_zero("u", du - m1 * W_V_t * r)
    require_zero("W_V", dW_V - u_t * r.T)
    G_t, S_t = (each.subs(hyperbolic) for each in outputs_and_size(W_V.T * u0, u0.dot(u0), W_V.T * W_V, r, m1, t))
    require_zero("G", G_t - W_V_t.T * u_t)
    require_zero("S", S_t - u_t.dot(u_t))
    # half the rate of u u^T - m1 W_V W_V^T along the solution, which the other half transposes
    half = du * u_t.T - m1 * W_V_t * dW_V.T
    require_zero("conserved", half + half.T)

    # how long it takes, as S and G are quadratic in the size of the start
    sigma, reached = sp.symbols("sigma S_*", positive=True)
    scaled = readout_and_values(sigma * u0, sigma * W_V, r, m1, t)
    require_zero("scale", *(ours - sigma * each for ours, each in zip(scaled, solution, strict=True)))
    growing = u0 + sp.sqrt(m1) * W_V * r / sp.sqrt(r.dot(r))
    require_zero("growth", sp.expand(S_t).coeff(e, 2) - growing.dot(growing) / 4)
    size = sp.Symbol("c", positive=True)
    escape = sp.log(reached / (sigma**2 * size)) / (2 * lam)
    require_zero("escape", sigma**2 * size * sp.exp(2 * lam * escape) - reached)
    require_zero("slope", sigma * sp.diff(escape, sigma) + 1 / lam)

    # the mean start
    sigma0, sigma1 = sp.symbols("sigma_0 sigma_1", positive=True)
    for j in range(neurons):
        w_j, dw_j = W[j, :].T, dW[j, :].T
        speed = a[j] * (W_V.T * dw_j + (u * r.T).T * w_j)
        mean = speed.applyfunc(
            lambda each: _gaussian_mean(each, {**dict.fromkeys(W, sigma1), **dict.fromkeys(W_V, sigma0)})
        )
        require_zero("mean rate", mean - mean_initial_rate(sigma0, sigma1, sp.Integer(channels), r))
    shares = four_point.sentence_classes().shares
    at_start = four_point.velocity(shares / 2)
    batch, d = four_point.training_set(6, 4)
    all_words = four_point.rates_of_words(batch, d, [sp.Rational(1, 2)] * 6)
    n, L = sp.symbols("n L", positive=True)
    require_zero("r of the fixed words", all_words[:3, :] - at_start)
    require_zero("|r|^2", all_words.dot(all_words) - squared_length(sp.Integer(6), sp.Integer(4)))

    return Derivation(
        "Phase 1 in closed form",
        "Yang et al. (2024), Lemmas 4.1, 4.2, E.4, E.16; the solution is this project's",
        (
            r"Near zero weights scores vanish to second order, so attention is uniform, $F = O(|W|\,|W_V|)$ and $\ln(1 + e^{-yF}) = \ln 2 - yF/2 + O(F^2)$: up to "
            r"second order in the weights the loss is $\ln 2 - u \cdot W_V r$ with $u = W^\top a$ and the constant $r = \frac{1}{2n} \sum_i y_i X_i 1$. Its flow,",
            equation(r"\dot W", r"a\,(W_V r)^\top,\qquad \dot u = m_1 W_V r,\qquad \dot W_V = u\, r^\top,"),
            r"is linear ($a^\top a = m_1$ gives $\dot u$). With $\hat r = r/|r|$ and $v = W_V \hat r$ it couples the pair $(u, v)$ alone, at the rate",
            equation(r"\lambda", r"\sqrt{m_1}\,|r|:") + "\n\n"
            + equation("u(t)", r"u_0 \cosh\lambda t + \sqrt{m_1}\, v_0 \sinh\lambda t,\qquad v(t) = v_0 \cosh\lambda t + \frac{u_0}{\sqrt{m_1}} \sinh\lambda t,"),
            r"and $W_V = W_{V,0} + (v - v_0)\,\hat r^\top$, while $W_K$ and $W_Q$ rest. (One readout vector, $\hat g = 2 r$: $\lambda = |\hat g|/2$.) Both sides were differentiated and agree; "
            r"$u u^\top - m_1 W_V W_V^\top$ stays. With $\gamma = \hat r \cdot G_0$ and $\nu = \hat r^\top \Gamma_{V,0}\, \hat r$, short $c, s$ for $\cosh\lambda t, \sinh\lambda t$,",
            equation("S", r"c^2 S_0 + 2\sqrt{m_1}\, s c\, \gamma + m_1 s^2 \nu,") + "\n\n"
            + equation("G", r"c\, G_0 + \sqrt{m_1}\, s\, \Gamma_{V,0}\, \hat r + \Bigl[(c^2 - c + s^2)\,\gamma + \sqrt{m_1}\, s (c - 1)\,\nu + \frac{s c}{\sqrt{m_1}} S_0\Bigr] \hat r."),
            r"From weights of size $\sigma$, $S = \sigma^2 \hat S(t)$ with $\hat S \to \frac14 |u_0 + \sqrt{m_1}\, v_0|^2 e^{2\lambda t}$: it reaches $S_*$ at "
            r"$\frac1\lambda \ln\frac1\sigma$ and a constant. One power of ten less costs $\ln 10/\lambda$.",
            rf"For the task, $g = 1/2$ gives $r(\mu_1), r(\mu_2), r(\mu_3) = {', '.join(map(sp.latex, at_start))}$ and $\pm 1/(2n)$ on a random word, so "
            rf"$|r|^2 = {sp.latex(sp.expand(squared_length(n, L)))}$.",
            r"Lemmas 4.1 and 4.2: one neuron's $a_j w_j \cdot W_V \mu$ moves at $a_j w_j \cdot u\; r(\mu) + r^\top \Gamma_V\, \mu$. Over Gaussian weights "
            r"$E\, a_j w_j \cdot u = \sigma_1^2 m$ and $E\, \Gamma_V = \sigma_0^2 m I$, to leading order ($g = 1/2$, $p = 1/L$) therefore",
            equation(r"E\, \frac{d}{dt}\, a_j w_j \cdot W_V \mu", r"(\sigma_0^2 + \sigma_1^2)\, m\; r(\mu),")
            + "\n\n" + r"$\left(\frac14 - \frac1{12}\right) = \frac16$ of $(\sigma_0^2 + \sigma_1^2)\, m$ for $\mu_1$ and $\mu_2$, and nothing for $\mu_3$.",
            r"The paper's proof of Lemma E.4 (the display that follows its appeal to Lemma D.3, Corollary D.2 and Lemma D.8) has $\frac13 \pm 0.01$ for this $\frac16$: the difference of the shares, "
            r"$\frac12 - \frac16$, without the factor $g = \frac12$. The order that the lemma claims does not change.",
        ),
        (*_against_the_hessian_at_zero(), _against_the_coupled_start(all_words, batch, d)),
    )  # fmt: skip


def _gaussian_mean(polynomial: sp.Expr, scales: dict[sp.Symbol, sp.Expr]) -> sp.Expr:
    """The mean over independent centred Gaussians of a polynomial of degree 2 in each of them."""
    symbols = list(scales)
    total = sp.Integer(0)
    for powers, coefficient in sp.Poly(sp.expand(polynomial), *symbols).terms():
        if max(powers) > 2:
            raise ValueError("a moment above the second")
        if all(power in (0, 2) for power in powers):
            total += coefficient * sp.prod([scales[x] ** power for x, power in zip(symbols, powers, strict=True)])
    return total


def _against_the_hessian_at_zero():
    """The flow of the model's loss, linearised at zero weights by JAX and solved by the matrix exponential."""
    m, neurons, time = 2, 3, 4.0
    batch, d = four_point.training_set(6, 4)
    weights = cooccurrence.init(jax.random.key(2), m=m, m1=neurons, d=d, L=4, sigma0=1.0, sigma1=1.0)
    trained = (weights.W, weights.W_V, weights.W_K, weights.W_Q)
    flat, unravel = ravel_pytree(trained)

    @jax.jit
    @jax.hessian
    def hessian(x):
        return cooccurrence.loss(cooccurrence.Weights(*unravel(x), a=weights.a), batch)

    H = np.asarray(hessian(jnp.zeros_like(flat)))
    W, W_V, W_K, W_Q = unravel(jnp.asarray(expm(-H * time) @ np.asarray(flat)))
    made = cooccurrence.Weights(W, W_V, W_K, W_Q, weights.a)

    r = four_point.rates_of_words(batch, d, [sp.Rational(1, 2)] * 6)
    start, state = coupled.reduce(weights), coupled.reduce(made)
    derived = readout_and_values(sp.Matrix(weights.u), sp.Matrix(weights.W_V), r, neurons, time)
    derived_G, derived_S = outputs_and_size(
        sp.Matrix(start.G), start.S.item(), sp.Matrix(start.Gamma_V), r, neurons, time
    )
    derived_rate = float(sp.sqrt(neurons * squared_length(sp.Integer(6), sp.Integer(4))))
    return (
        compare("u and W_V of the loss linearised at zero by JAX", sp.Matrix.hstack(*derived), np.column_stack([made.u, made.W_V])),
        compare("its G and S", [*derived_G, derived_S], [*state.G, state.S]),
        compare("its W_K and W_Q, which rest", [weights.W_K, weights.W_Q], [made.W_K, made.W_Q]),
        compare("its fastest rate", [derived_rate], [-np.linalg.eigvalsh(H)[0]]),
    )  # fmt: skip


def _against_the_coupled_start(r: sp.Matrix, batch, d: int):
    """At orthogonal columns of exactly the mean size G = 0, so g = 1/2 and p = 1/L hold to the last digit."""
    m, neurons, sigma0, sigma1 = 5, 7, 0.3, 0.4
    start = coupled.infinite_width_start(m=m, m1=neurons, d=d, L=4, sigma0=sigma0, sigma1=sigma1)
    dG = jax.jit(coupled.field)(start, batch, coupled.Width(float(m), float(neurons)))[0].G
    symbols = sp.symbols("sigma_0 sigma_1 m", positive=True)
    derived = sp.lambdify(symbols, mean_initial_rate(*symbols, r))(sigma0, sigma1, m)
    return compare(
        "the coupled field at the infinite-width start, per neuron", derived.ravel(), np.asarray(dG) / neurons
    )
