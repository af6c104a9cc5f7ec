"""The flow that gradient descent follows: its modified equation to third order, and the equation of the error certificate.

A step maps y to y + h f(y) + h^2 q(y). A prime is a derivative: f'v is that of f along v.
"""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import sympy as sp

from derivations._proof import Derivation, compare, equation, require_zero
from gradflow.dynamics.certificate import certify
from gradflow.dynamics.flow import GradientField
from gradflow.dynamics.modified import ModifiedEquation
from gradflow.models import cooccurrence, coupled
from gradflow.tasks.cooccurrence import Batch

h = sp.Symbol("h", positive=True)


def along(field: sp.Matrix, y: sp.Matrix, direction: sp.Matrix) -> sp.Matrix:
    """f'v of a column f of functions of y."""
    return field.jacobian(y) * direction


def second(f: sp.Matrix, y: sp.Matrix, q: sp.Matrix | None = None) -> sp.Matrix:
    """f2 = q - f'f / 2."""
    half = -along(f, y, f) / 2
    return half if q is None else q + half


def third(f: sp.Matrix, y: sp.Matrix, q: sp.Matrix | None = None) -> sp.Matrix:
    """f3 = -(f2'f + f'f2) / 2 - (f'f)'f / 6."""
    f2 = second(f, y, q)
    return -(along(f2, y, f) + along(f, y, f2)) / 2 - along(along(f, y, f), y, f) / 6


def gradient(loss: sp.Expr, y: sp.Matrix) -> sp.Matrix:
    """grad L as a column."""
    return sp.Matrix([loss]).jacobian(y).T


def rotation_of_third(loss: sp.Expr, y: sp.Matrix) -> sp.Matrix:
    """-(H T - T H) / 6 with T = D^3 L(g): the Jacobian of f3 minus its transpose, under gradient descent."""
    g, H = gradient(loss, y), sp.hessian(loss, list(y))
    T = H.applyfunc(lambda entry: along(sp.Matrix([entry]), y, g)[0])
    return -(H * T - T * H) / 6


def error_in_one_variable(f: sp.Expr, y: sp.Symbol, start: sp.Expr) -> sp.Expr:
    """eps = -f(y) ln(f(y) / f(start)) / 2 where the flow of dy/dt = f(y) from `start` has come to y."""
    return -f * sp.log(f / f.subs(y, start)) / 2


def derive() -> Derivation:
    """Symbolically for arbitrary fields of two variables and losses of three, then against the code that flows and certifies."""
    y = sp.Matrix(sp.symbols("y_1:4", real=True))
    _prove_modified_equation(y[:2, :])
    loss = sp.Function("L")(*y)
    g, H = gradient(loss, y), sp.hessian(loss, list(y))
    T_gg = H.applyfunc(lambda entry: along(sp.Matrix([entry]), y, g)[0]) * g
    require_zero("f2 of gradient descent", second(-g, y) + H * g / 2, second(-g, y) + gradient(g.dot(g) / 4, y))
    f3 = -H * H * g / 3 - T_gg / 12
    require_zero("f3 of gradient descent", third(-g, y) - f3)
    require_zero("f3 apart from a gradient", f3 + gradient(g.dot(H * g) / 12, y) + H * H * g / 6)
    plane, flat = y[:2, :], sp.Function("L")(*y[:2])
    J = third(-gradient(flat, plane), plane).jacobian(plane)
    require_zero("rotation of f3", J - J.T - rotation_of_third(flat, plane))
    example = y[0] ** 2 / 2 + y[0] ** 2 * y[1]
    rotation = sp.factor(rotation_of_third(example, plane)[0, 1])
    at_example = third(-gradient(example, plane), plane).jacobian(plane)
    require_zero("rotation of the example", at_example[0, 1] - at_example[1, 0] - rotation)
    if rotation == 0:
        raise ArithmeticError("The example's f3 is a gradient and shows nothing.")
    _prove_other_variables(plane)
    _prove_certificate(plane)
    return Derivation(
        "Modified equations of gradient descent",
        "Hairer, Lubich, Wanner (2006), IX.1; Barrett and Dherin (2021), arXiv 2009.11162",
        (
            r"Let $y(t)$ solve $\dot y = F(y) = f + h a + h^2 b$ with $a$, $b$ to be found. By the chain rule $\ddot y = F'F$ and $\dddot y = (F'F)'F$, so",
            equation(r"y(h)", r"y + hF + \tfrac{h^2}{2} F'F + \tfrac{h^3}{6} (F'F)'F + O(h^4)."),
            r"This is to be the step $y + hf + h^2 q$. The powers $h^2$ and $h^3$, solved for $a$ and $b$ with arbitrary functions $f, q$ of two variables, leave",
            equation(r"a = f_2", r"q - \tfrac12 f'f, \qquad b = f_3 = -\tfrac12 (f_2'f + f'f_2) - \tfrac16 (f'f)'f."),
            r"Gradient descent has $q = 0$, $f = -g$ with $g = \nabla L$, so $f'v = -Hv$, and for an arbitrary $L$ of three variables",
            equation(
                r"f_2", r"-\tfrac12 Hg = -\nabla \tfrac14 |g|^2, \qquad f_3 = -\tfrac13 H^2 g - \tfrac1{12} D^3L(g, g)."
            ),
            r"Since $\nabla(g^\top H g) = 2H^2 g + D^3L(g, g)$, also $f_3 = -\nabla \tfrac1{12} g^\top H g - \tfrac16 H^2 g$. The last term is no gradient: "
            r"with $T = D^3L(g)$, a symmetric matrix, and an arbitrary $L$ of two variables,",
            equation(r"\partial f_3 - (\partial f_3)^\top", r"-\tfrac16 (HT - TH),"),
            r"so $f_3$ is a gradient exactly if the Hessian commutes everywhere with its own change $-T$ along the flow, as it does in one variable and on quadratic losses. "
            rf"For $L = {sp.latex(example)}$ the entry (1, 2) is ${sp.latex(rotation)}$.",
            r"In other variables $x = \varphi(y)$, $\varphi$ quadratic, the same descent is $x + h f_x + h^2 q_x$ with $f_x = \varphi'f$, "
            r"$q_x = \tfrac12 \varphi''(f, f) + \varphi'q$; with $q = 0$, its $f_2$ and $f_3$ are $\varphi'f_2$ and $\varphi'f_3$: the same flow. The coupled system is the case in point.",
            r"Certificate: put $y_k = Y(kh) + h\,\varepsilon(kh) + O(h^2)$ with $\dot Y = f(Y)$ into the step. At $h^2$,",
            equation(r"\dot\varepsilon", r"f'\varepsilon + q - \tfrac12 f'f = f'\varepsilon + f_2, \qquad \varepsilon(0) = 0;"),
            r"in the weights $\dot\varepsilon = -H\varepsilon - \tfrac12 Hg$. In one variable it is solved by "
            r"$\varepsilon = -\tfrac12 f(y) \ln (f(y) / f(y_0))$, since $\tfrac{d}{dt} \ln f = f'$. For $L = \lambda y^2 / 2$ that is "
            r"$-\tfrac12 \lambda^2 t\, e^{-\lambda t} y_0$, the derivative of $(1 - h\lambda)^{t/h} y_0$ at $h = 0$.",
        ),
        (*_checks_in_weights(y), *_checks_in_coupled_variables(), _check_of_certificate()),
    )  # fmt: skip


def _prove_modified_equation(y: sp.Matrix) -> None:
    """a and b from the powers of h, for arbitrary f and q."""
    f, q, a, b = (sp.Matrix([sp.Function(f"{name}_{i}")(*y) for i in range(len(y))]) for name in "fqab")
    F = f + h * a + h**2 * b
    F_F = along(F, y, F)
    flowed = y + h * F + h**2 / 2 * F_F + h**3 / 6 * along(F_F, y, F)
    off = (flowed - y - h * f - h**2 * q).applyfunc(lambda entry: sp.expand(entry.doit()))
    require_zero("orders below h^2", off.applyfunc(lambda entry: entry.coeff(h, 0) + h * entry.coeff(h, 1)))
    at_h2 = off.applyfunc(lambda entry: entry.coeff(h, 2))
    found_a = sp.solve(list(at_h2), list(a), dict=True)[0]
    f2 = a.subs(found_a)
    require_zero("f2", f2 - second(f, y, q))
    at_h3 = off.applyfunc(lambda entry: entry.coeff(h, 3).subs(found_a).doit())
    f3 = b.subs(sp.solve(list(at_h3), list(b), dict=True)[0])
    require_zero("f3", f3 - third(f, y, q))


def _prove_other_variables(y: sp.Matrix) -> None:
    """Pulled back to y, f_x'v is the derivative of f_x(phi(y)) along a w with v = phi'w; phi is any quadratic polynomial."""
    f = sp.Matrix([sp.Function(f"f_{i}")(*y) for i in range(2)])
    u, v = y
    phi = sp.Matrix([sp.Matrix(sp.symbols("c_1:6")).dot(sp.Matrix([u, v, u**2, u * v, v**2]))])
    stepped = phi.subs(dict(zip(y, y + h * f, strict=True)), simultaneous=True)[0].expand()
    require_zero("no h^3 in the step", sp.Matrix([stepped.coeff(h, 3)]))
    f_x, q_x = along(phi, y, f), sp.Matrix([stepped.coeff(h, 2)])
    f2, f3 = second(f, y), third(f, y)
    f2_x = q_x - along(f_x, y, f) / 2
    require_zero("f2 in other variables", f2_x - along(phi, y, f2))
    f3_x = -(along(f2_x, y, f) + along(f_x, y, f2)) / 2 - along(along(f_x, y, f), y, f) / 6
    require_zero("f3 in other variables", f3_x - along(phi, y, f3))


def _prove_certificate(y: sp.Matrix) -> None:
    """At a point of the flow: Y(t + h) + h eps(t + h) against the step from Y + h eps, through h^2."""
    f, q = (sp.Matrix([sp.Function(f"{name}_{i}")(*y) for i in range(2)]) for name in "fq")
    eps, rate = (sp.Matrix(sp.symbols(f"{name}_1:3")) for name in ("epsilon", "r"))
    later = y + h * f + h**2 / 2 * along(f, y, f) + h * (eps + h * rate)
    stepped = y + h * eps + h * (f + h * along(f, y, eps)) + h**2 * q
    off = (later - stepped).applyfunc(lambda entry: entry.expand().coeff(h, 2))
    found = rate.subs(sp.solve(list(off), list(rate), dict=True)[0])
    require_zero("certificate", found - along(f, y, eps) - second(f, y, q))

    z, z0, t = sp.symbols("z z_0 t", positive=True)
    f = sp.Function("f", positive=True)(z)
    eps = error_in_one_variable(f, z, z0)
    require_zero("in one variable", eps.diff(z) * f - f.diff(z) * eps + f.diff(z) * f / 2, eps.subs(z, z0))
    rate = sp.Symbol("lambda", positive=True)
    decayed = z0 * sp.exp(-rate * t)
    told = error_in_one_variable(-rate * z, z, z0).subs(z, decayed)
    descended = sp.exp(t / h * sp.series(sp.log(1 - h * rate), h, 0, 3).removeO()) * z0
    require_zero("powers of 1 - h lambda", sp.limit(descended.expand().diff(h), h, 0) - sp.expand_log(told))


def _checks_in_weights(y: sp.Matrix) -> tuple:
    """f2 and f3 of a transcendental loss: differences of the code's velocities of neighbouring orders, at h = 1."""
    loss = sp.sin(y[0]) * y[1] + y[0] ** 2 * y[2] / 3 + y[1] ** 3 / 5 + sp.exp(y[2] / 2) * y[0]
    f = -gradient(loss, y)
    code = sp.lambdify([y], loss, modules="jax")
    point = np.random.default_rng(0).normal(size=3)
    terms = _terms_of_code(code, GradientField(code), None, jnp.asarray(point))
    derived = [sp.lambdify([y], term)(point).ravel() for term in (second(f, y), third(f, y))]
    names = ("f2 of ModifiedEquation", "f3 of ModifiedEquation")
    return tuple(compare(*each) for each in zip(names, derived, terms, strict=True))


def _terms_of_code(loss, field, second_order, state, *data) -> list:
    @jax.jit
    def velocities(state):
        equations = [ModifiedEquation(loss, 1.0, order, field, second_order) for order in (1, 2, 3)]
        return [jax.flatten_util.ravel_pytree(equation(state, *data)[0])[0] for equation in equations]

    one, two, three = velocities(state)
    return [two - one, three - two]


def _checks_in_coupled_variables() -> tuple:
    """f2 and f3 of the smallest transformer's weights, carried over to the coupled state, against `coupled`'s own pair.

    One sentence of two words, one channel, two neurons; attention to two words is logistic. Third derivatives of eight variables
    are many, so that f2 and f3 are put together from grad(v.g) = Hv and grad(v.Hv) = D^3L(v, v) for any v.
    """
    y, v = (sp.Matrix(sp.symbols(names)) for names in ("W_1:3 V_1:3 K_1:3 Q_1:3", "v_1:9"))
    (W, V, K, Q), s = (sp.Matrix(y[2 * i : 2 * i + 2]) for i in range(4)), sp.Symbol("s")
    u = W[0] - W[1]
    G, A = V * u, K * Q.T
    state = sp.Matrix([*G, u**2, *(V * V.T), *A, *(K * K.T), *(Q * Q.T)])
    loss = sp.log(1 + sp.exp(-sum(G[1] + (G[0] - G[1]) / (1 + sp.exp(A[1, q] - A[0, q])) for q in (0, 1))))
    along_v = loss.subs(dict(zip(y, y + s * v, strict=True)), simultaneous=True).diff(s)
    rows = [gradient(each, y).T for each in (loss, along_v.subs(s, 0), along_v.diff(s).subs(s, 0))]
    of_loss = sp.lambdify([y, v], rows, cse=True)
    point = np.random.default_rng(1).normal(size=8)
    _, Hg, T_gg = np.vstack(of_loss(point, np.vstack(of_loss(point, point))[0]))
    HHg = np.vstack(of_loss(point, Hg))[1]
    to_state = sp.lambdify([y], state.jacobian(y))(point)

    weights = cooccurrence.Weights(
        *map(jnp.asarray, (point[:2, None], *point[2:].reshape(3, 1, 2))), a=jnp.array([1.0, -1.0])
    )
    batch = Batch(jnp.array([[0, 1]]), jnp.ones(1), jnp.zeros(1, int))
    data = (coupled.reduce(weights), batch, coupled.width_of(weights))
    made = _terms_of_code(coupled.loss, coupled.field, coupled.second_order, *data)
    return (
        compare("f2 of the coupled system", to_state @ (-Hg / 2), made[0]),
        compare("f3 of the coupled system", to_state @ (-HHg / 3 - T_gg / 12), made[1]),
    )


def _check_of_certificate():
    """u^4/4 + e^v in turned coordinates, which descent does not notice: both flows are known, and so is eps."""
    z, z0, t = sp.symbols("z z_0 t")
    errors = {-(z**3): 1 / sp.sqrt(1 / z0**2 + 2 * t), -sp.exp(z): -sp.log(t + sp.exp(-z0))}
    starts, times = (1.3, 0.4), np.linspace(0.0, 2.0, 6)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    for f, flowed in errors.items():
        require_zero("flow in one variable", (flowed.diff(t) - f.subs(z, flowed)).subs(z0, sp.Rational(13, 10)))
    along_axes = [
        sp.lambdify([t, z0], error_in_one_variable(f, z, z0).subs(z, flowed))(times, start)
        for (f, flowed), start in zip(errors.items(), starts, strict=True)
    ]

    def loss(y):
        u, v = turn.T @ y
        return u**4 / 4 + jnp.exp(v)

    certificate = certify(loss, turn @ np.array(starts), times=times, tolerance=1.0, method="dopri8", rtol=1e-13)
    return compare("the certificate's error", (turn @ np.array(along_axes)).T, certificate.error)
