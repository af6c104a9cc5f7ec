"""The diffusion of SGD: its drift and noise to weak order 2, in Ito's and Stratonovich's sense, and the mean of an epoch.

A step of SGD is x - h v, with v the gradient of a random minibatch: of mean g = grad L and covariance Sigma.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp

from derivations._proof import Derivation, compare, equation, require_zero
from gradflow.dynamics.diffusion import Diffusion, MeanSGD, minibatch_moments

h = sp.Symbol("h", positive=True)


def gradient(loss: sp.Expr, x: sp.Matrix) -> sp.Matrix:
    """grad L as a column."""
    return sp.Matrix([loss]).jacobian(x).T


def mean_after_step(phi: sp.Expr, x: sp.Matrix, mean: sp.Matrix, covariance: sp.Matrix) -> sp.Expr:
    """E phi(x - h v) through h^2: phi - h g.grad phi + (h^2 / 2) tr (g g^T + Sigma) phi''."""
    second = (mean * mean.T + covariance) * sp.hessian(phi, list(x))
    return phi - h * mean.dot(gradient(phi, x)) + h**2 / 2 * second.trace()


def ito_drift(loss: sp.Expr, x: sp.Matrix) -> sp.Matrix:
    """-grad(L + (h/4) |grad L|^2): Li, Tai and E's drift of weak order 2."""
    return stratonovich_drift(loss, 0, x)


def stratonovich_drift(loss: sp.Expr, spread: sp.Expr, x: sp.Matrix) -> sp.Matrix:
    """-grad(L + (h/4) (|grad L|^2 + tr Sigma)): the same flow and noise in Stratonovich's sense."""
    g = gradient(loss, x)
    return -gradient(loss + h / 4 * (g.dot(g) + spread), x)


def covariance(gradients: list[sp.Matrix], batch_size: sp.Expr) -> sp.Matrix:
    """Sigma of a minibatch drawn with replacement: that of single samples, over b."""
    n = len(gradients)
    mean = sum(gradients, sp.zeros(*gradients[0].shape)) / n
    return sum(((v - mean) * (v - mean).T for v in gradients), sp.zeros(mean.rows)) / (n * batch_size)


def shrink(n: sp.Expr, batch_size: sp.Expr) -> sp.Expr:
    """(n - b) / (n - 1): Sigma without replacement over Sigma with."""
    return (n - batch_size) / (n - 1)


def epoch_loss(batches: list[sp.Expr], x: sp.Matrix) -> sp.Expr:
    """L + (h / 4K) sum_k |grad L_k|^2, L the mean of K batches: its flow is the mean epoch without replacement."""
    return sum(loss + h / 4 * gradient(loss, x).dot(gradient(loss, x)) for loss in batches) / len(batches)


def derive() -> Derivation:
    """Symbolically for arbitrary losses, covariances and test functions of two variables, then against the code that diffuses."""
    x = sp.Matrix(sp.symbols("x_1:3", real=True))
    _prove_covariances()
    _prove_ito(x)
    _prove_stratonovich(x)
    _prove_epoch(x)
    return Derivation(
        "The diffusion of SGD",
        "Li, Tai, E (2017), arXiv 1511.06251; Smith, Dherin, Barrett, De (2021), arXiv 2101.12176",
        (
            r"Let $v$ be the gradient of a minibatch, of mean $g = \nabla L$ and covariance $\Sigma$. For every smooth $\varphi$",
            equation(
                r"E\,\varphi(x - hv)",
                r"\varphi - h\,g\cdot\nabla\varphi + \tfrac{h^2}{2} \operatorname{tr} (gg^\top + \Sigma)\varphi'' + O(h^3).",
            ),
            r"A diffusion $dX = (b_0 + h b_1)\,dt + \sqrt{h S}\,dW$ in Ito's sense has the generator $A_0 + h A_1$, $A_0 = b_0\cdot\nabla$, "
            r"$A_1 = b_1\cdot\nabla + \tfrac12 \operatorname{tr} S\nabla^2$, and",
            equation(
                r"E\,\varphi(X_h)",
                r"\varphi + h A_0\varphi + h^2 (A_1 + \tfrac12 A_0^2)\varphi + O(h^3).",
            ),
            r"With arbitrary functions $L, \Sigma, \varphi$ of two variables, equal powers of $h$ and equal derivatives of $\varphi$ leave one solution,",
            equation(
                r"b_0", r"-g, \qquad b_1 = -\tfrac12 Hg = -\nabla \tfrac14 |g|^2, \qquad S = \Sigma,"
            ),
            r"so that $dX = -\nabla(L + \tfrac h4 |\nabla L|^2)\,dt + \sqrt{h\Sigma}\,dW$ is off by $O(h^3)$ a step and, over $t/h$ steps, by $O(h^2)$. "
            r"No better: on $L = \lambda x^2/2$ the means differ by $\tfrac13 (h\lambda)^3 x$ a step.",
            r"Let $b$ of $n$ samples make a minibatch, and $c_i = \nabla l_i - g$. With replacement $\Sigma = \tfrac{1}{nb} \sum_i c_i c_i^\top$. Without, two draws are "
            r"correlated by $-1/(n-1)$, for all $n$ of them have no variance; so $\Sigma$ is smaller by $(n-b)/(n-1)$. The columns $\sqrt{h/(nb)}\,c_i$ are gradients, so that "
            r"$(c_i\cdot\nabla)c_i = \tfrac12 \nabla |c_i|^2$, and Stratonovich's generator $D\cdot\nabla + \tfrac{h}{2nb} \sum_i (c_i\cdot\nabla)^2$ is Ito's if",
            equation(r"D", r"-\nabla\left(L + \tfrac h4 (|\nabla L|^2 + \operatorname{tr}\Sigma)\right)."),
            r"An epoch without replacement takes $K$ batches $L_k$, of mean $L$, in a random order. Through $h^2$ it ends at "
            r"$x - h \sum_k g_k + h^2 \sum_{j \text{ before } k} H_k g_j$, and each of two batches is first in half of all orders: the mean is",
            equation(
                r"x - hKg + \tfrac{h^2}{2} \big(K^2 Hg - \sum_k H_k g_k\big)",
                r"x - hK\nabla M + \tfrac{(hK)^2}{2} Hg + O(h^3), \qquad M = L + \tfrac{h}{4K} \sum_k |g_k|^2,",
            ),
            r"the flow of $M$ over the time $hK$. Here $\tfrac1K \sum_k |g_k|^2 = |g|^2 + \tfrac1K \sum_k |g_k - g|^2$, whose mean over all divisions into batches is "
            r"$|g|^2 + \operatorname{tr}\Sigma$ without replacement.",
        ),
        _checks(x),
    )  # fmt: skip


def minibatches(n: int, batch_size: int, sampling: str) -> list[tuple[int, ...]]:
    """Every minibatch, equally likely."""
    if sampling == "with_replacement":
        return list(itertools.product(range(n), repeat=batch_size))
    return list(itertools.combinations(range(n), batch_size))


def _prove_covariances() -> None:
    """From all minibatches of 2 out of 4 gradients, and for any sizes from the correlation of two draws."""
    v = [sp.Matrix(sp.symbols(f"v_{i}_1:3")) for i in range(4)]
    for sampling, factor in (("with_replacement", 1), ("without_replacement", shrink(sp.Integer(4), 2))):
        drawn = [(v[i] + v[j]) / 2 for i, j in minibatches(4, 2, sampling)]
        require_zero(f"covariance {sampling}", covariance(drawn, 1) - factor * covariance(v, 2))
        require_zero("mean", sum(drawn, sp.zeros(2, 1)) / len(drawn) - sum(v, sp.zeros(2, 1)) / 4)
    n, b, correlation = sp.symbols("n b rho")

    def variance_of_mean(of):
        return (of + of * (of - 1) * correlation) / of**2

    no_variance = sp.solve(variance_of_mean(n), correlation)[0]
    require_zero("without replacement", variance_of_mean(b).subs(correlation, no_variance) - shrink(n, b) / b)


def _prove_ito(x: sp.Matrix) -> None:
    """The only drift and noise that agree with a step through h^2, for every test function."""
    loss, phi = sp.Function("L")(*x), sp.Function("phi")(*x)
    entries = [sp.Function(name)(*x) for name in ("Sigma_11", "Sigma_12", "Sigma_22")]
    unknown = [sp.Function(name)(*x) for name in ("b_1", "b_2", "c_1", "c_2", "S_11", "S_12", "S_22")]
    b0, b1 = sp.Matrix(unknown[:2]), sp.Matrix(unknown[2:4])
    Sigma, S = (sp.Matrix([[a, b], [b, c]]) for a, b, c in (entries, unknown[4:]))
    g = gradient(loss, x)

    draws = [sp.Matrix(sp.symbols(f"v_{i}_1:3")) for i in range(3)]
    slope, bend = gradient(phi, x), sp.hessian(phi, list(x))
    by_taylor = sum(phi - h * v.dot(slope) + h**2 / 2 * v.dot(bend * v) for v in draws) / 3
    mean = sum(draws, sp.zeros(2, 1)) / 3
    require_zero("mean over draws", by_taylor - mean_after_step(phi, x, mean, covariance(draws, 1)))

    def drifted(function):
        return b0.dot(gradient(function, x))

    noise = (S * sp.hessian(phi, list(x))).trace() / 2
    diffused = phi + h * drifted(phi) + h**2 * (b1.dot(gradient(phi, x)) + noise + drifted(drifted(phi)) / 2)
    off = sp.expand((diffused - mean_after_step(phi, x, g, Sigma)).doit())
    found = sp.solve([off.coeff(h, 1).coeff(phi.diff(each)) for each in x], list(b0), dict=True)[0]
    at_h2 = sp.expand(off.coeff(h, 2).subs(found).doit())
    kinds = [phi.diff(*each) for each in ((x[0],), (x[1],), (x[0], 2), (x[0], x[1]), (x[1], 2))]
    found |= sp.solve([at_h2.coeff(kind) for kind in kinds], unknown[2:], dict=True)[0]
    require_zero("nothing else at h, h^2", off.coeff(h, 0), off.coeff(h, 1).subs(found), at_h2.subs(found))
    require_zero("drift", (b0 + h * b1).subs(found) - ito_drift(loss, x))
    require_zero("noise", S.subs(found) - Sigma)

    a = sp.Symbol("a")  # h lambda
    of_diffusion = sp.series(sp.exp(ito_drift(a / h * x[0] ** 2 / 2, x)[0] / x[0] * h), a, 0, 4).removeO()
    require_zero("weak order 2 and no more", of_diffusion - (1 - a) - a**3 / 3)


def _prove_stratonovich(x: sp.Matrix, n: int = 3) -> None:
    """Both generators on an arbitrary test function, for n arbitrary losses of samples."""
    b, phi = sp.Symbol("b", positive=True), sp.Function("phi")(*x)
    losses = [sp.Function(f"l_{i}")(*x) for i in range(n)]
    loss = sum(losses) / n
    columns = [gradient(each - loss, x) for each in losses]
    Sigma = covariance([gradient(each, x) for each in losses], b)
    require_zero("columns of the noise", sum((c * c.T for c in columns), sp.zeros(2)) / (n * b) - Sigma)
    stratonovich = stratonovich_drift(loss, Sigma.trace(), x).dot(gradient(phi, x))
    for column in columns:
        along = column.dot(gradient(phi, x))
        stratonovich += h / (2 * n * b) * column.dot(gradient(along, x))
    ito = ito_drift(loss, x).dot(gradient(phi, x)) + h / 2 * (Sigma * sp.hessian(phi, list(x))).trace()
    require_zero("generators", sp.expand((stratonovich - ito).doit()))


def _prove_epoch(x: sp.Matrix, K: int = 3) -> None:
    """The mean over all orders of K batches against the flow of M over the time K h, through h^2."""
    batches = [sp.Function(f"L_{k}")(*x) for k in range(K)]
    gradients = [gradient(each, x) for each in batches]
    total = sp.zeros(2, 1)
    for order in itertools.permutations(range(K)):
        first, second = sp.zeros(2, 1), sp.zeros(2, 1)  # the way so far: h first + h^2 second
        for k in order:
            second -= gradients[k].jacobian(x) * first
            first -= gradients[k]
        total += h * first + h**2 * second
    v = -gradient(epoch_loss(batches, x), x)
    flowed = K * h * v + (K * h) ** 2 / 2 * v.jacobian(x) * v
    off = (total / sp.factorial(K) - flowed).applyfunc(lambda entry: sp.expand(entry.doit()))
    for power in range(3):
        require_zero(f"epoch at h^{power}", off.applyfunc(lambda entry: entry.coeff(h, power)))
    L = sum(batches) / K
    apart = [gradient(each - L, x) for each in batches]
    as_spread = L + h / 4 * (gradient(L, x).dot(gradient(L, x)) + sum(c.dot(c) for c in apart) / K)
    require_zero("|g|^2 and the spread of batches", epoch_loss(batches, x) - as_spread)


def _checks(x: sp.Matrix, n: int = 4, batch_size: int = 2) -> tuple:
    """Four samples of a transcendental loss, minibatches of two, learning rate 0.3."""
    rng, rate = np.random.default_rng(0), 0.3
    samples, point = rng.normal(size=(n, 2)), rng.normal(size=2)
    a, b = sp.symbols("a b")
    of_sample = sp.sin(a * x[0]) * x[1] + sp.exp(b * x[1] / 2) * x[0]
    on_samples = sp.lambdify([x, a, b], of_sample, modules="jax")

    def code_loss(params, data):
        return jnp.mean(on_samples(params, data[:, 0], data[:, 1]))

    losses = [of_sample.subs({a: sp.Float(row[0], 17), b: sp.Float(row[1], 17)}) for row in samples]
    batches = [(losses[i] + losses[j]) / batch_size for i, j in minibatches(n, batch_size, "without_replacement")]
    loss = sum(losses) / n
    g, Sigma = gradient(loss, x), covariance([gradient(each, x) for each in losses], batch_size)
    spread = {"with_replacement": Sigma.trace(), "without_replacement": shrink(n, batch_size) * Sigma.trace()}
    drifts = {2: stratonovich_drift(loss, Sigma.trace(), x), 1: -gradient(loss + h / 4 * Sigma.trace(), x)}
    params, data = jnp.asarray(point), jnp.asarray(samples)
    diffusion = {order: Diffusion(code_loss, batch_size, order, 1) for order in drifts}
    columns = jax.jit(jax.jacfwd(lambda dW: diffusion[2].noise(params, rate, dW, data)))(jnp.zeros(n))

    def at_point(expression):
        return np.squeeze(sp.lambdify([x, h], expression, cse=True)(point, rate)).astype(float)

    def moments(sampling):
        return jax.jit(lambda p: minibatch_moments(code_loss, batch_size, sampling, p, data))(params)

    return (
        *(
            compare(f"minibatch_moments {sampling}", at_point(sp.Matrix([g.dot(g), trace])), moments(sampling))
            for sampling, trace in spread.items()
        ),
        *(
            compare(f"Diffusion's drift of order {order}", at_point(h * drift), eqx.filter_jit(diffusion[order].drift)(params, rate, data))
            for order, drift in drifts.items()
        ),
        compare("its noise", at_point(h**2 * Sigma), columns @ columns.T),
        compare("MeanSGD", at_point(-gradient(epoch_loss(batches, x), x)), eqx.filter_jit(MeanSGD(code_loss, rate, batch_size))(params, data)[0]),
    )  # fmt: skip
