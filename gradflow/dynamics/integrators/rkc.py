"""Runge-Kutta-Chebyshev of order 2: explicit, and stable on a stretch of the negative real axis that grows as stages squared.

Sommeijer, Shampine, Verwer (1998), J. Comput. Appl. Math. 88, 315-326, whose names are kept. With s stages, T_j the Chebyshev
polynomial of degree j and a little damping, a step h takes y' = lambda y to P_s(h lambda) y,

    P_s(z) = a_s + b_s T_s(w0 + w1 z),    w0 = 1 + (2/13) / s^2,        w1 = T_s'(w0) / T_s''(w0),
    a_j = 1 - b_j T_j(w0),                b_j = T_j''(w0) / T_j'(w0)^2,  b_0 = b_1 = b_2,

and |P_s| <= 1 for -0.65 (s^2 - 1) <= z <= 0. So a step h of any size takes about sqrt(1.54 h rho) evaluations of the field,
rho being the spectral radius of its Jacobian, where tsit5 takes h rho / 3.5 steps of six. Gradient flow is made for it: the
Jacobian is minus the Hessian, its eigenvalues are real, and near a minimum none is positive.
"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from gradflow.dynamics.integrators.counting import Work
from gradflow.dynamics.sharpness import spectral_radius

DAMPING = 2 / 13
SAFETY = 1.1  # the power iteration ends below the spectral radius, and the Jacobian changes until it is measured again
_MEASURE_AFTER = 20  # evaluations since the last time: measuring, mostly one product worth two of them, adds a tenth


class RKC2(diffrax.AbstractAdaptiveSolver):
    """The method as a diffrax solver, for fields without jumps.

    Stages are chosen anew each step. A step that needs more than `max_stages` is refused before it is made, by an infinite
    error estimate: the step size controller then tries a shorter one. The state's `work` counts what accepted steps took.
    """

    max_stages: int = 1000  # round-off grows as stages squared: here to 1e-10
    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation

    def order(self, terms) -> int:
        return 2

    def error_order(self, terms) -> int:
        return 3

    def init(self, terms, t0, t1, y0, args) -> "State":
        y, field = _flat(terms, y0, args)
        rho, vector, jvps = _leading(field, t0, y, jnp.zeros_like(y), jnp.inf, 1e-3)
        return State(field(t0, y), vector, rho, jnp.zeros((), int), Work(jnp.ones((), int), jvps))

    def resume(self, terms, t0, y0, args, earlier: "State") -> "State":
        """As `init`, but from an earlier state's eigenvector, which takes fewer products."""
        y, field = _flat(terms, y0, args)
        rho, vector, jvps = _leading(field, t0, y, earlier.vector, earlier.rho, 1e-2)
        return State(field(t0, y), vector, rho, jnp.zeros((), int), Work(jnp.ones((), int), jvps))

    def step(self, terms, t0, t1, y0, args, solver_state: "State", made_jump):
        h, state = t1 - t0, solver_state
        y, field = _flat(terms, y0, args)
        unflat = ravel_pytree(y0)[1]

        due = state.since >= _MEASURE_AFTER
        rho, vector, jvps = jax.lax.cond(
            due,
            lambda: _leading(field, t0, y, state.vector, state.rho, 1e-2),
            lambda: (state.rho, state.vector, jnp.zeros((), int)),
        )
        s, possible = stages(h * SAFETY * rho, self.max_stages)
        y1, slope = _step(field, t0, h, y, state.slope, s)
        error = jnp.where(possible, 0.8 * (y - y1) + 0.4 * h * (state.slope + slope), jnp.inf)
        y1, error = unflat(y1), unflat(error)
        dense = dict(y0=y0, y1=y1, k0=unflat(h * state.slope), k1=unflat(h * slope))
        since = jnp.where(due, 0, state.since) + s
        work = Work(state.work.evaluations + s, state.work.jvps + jvps)
        return y1, error, dense, State(slope, vector, rho, since, work), diffrax.RESULTS.successful

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)


class State(NamedTuple):
    """What a step hands to the next: the slope at its end, the latest eigenvector and spectral radius of the field's Jacobian,
    the evaluations since those were measured, and what all was worth."""

    slope: Float[Array, " p"]
    vector: Float[Array, " p"]
    rho: Float[Array, ""]
    since: Int[Array, ""]
    work: Work


def stages(z: Float[Array, ""], max_stages: int) -> tuple[Int[Array, ""], Array]:
    """The least s that is stable for h rho = z, and whether it may be had; 0 stages where not."""
    s = jnp.maximum(2, 1 + jnp.floor(jnp.sqrt(1 + 1.54 * z)))
    possible = s <= max_stages  # false where z is not a number
    return jnp.where(possible, s, 0).astype(int), possible


def _step(field, t0, h, y0, slope, s):
    """(y, field) at t0 + h, by s stages (and y0 itself by none). The last evaluation is the next step's first."""
    w0 = 1 + DAMPING / jnp.maximum(s, 2) ** 2
    _, (_, dT, d2T) = jax.lax.fori_loop(2, s + 1, lambda _, pair: _next(w0, *pair), _first(w0))
    w1 = dT / d2T

    def stage(j, carry):
        chebyshev, (b_before, b), a, (c_before, c), (y_before, y), _ = carry
        slope_j = field(t0 + c * h, y)
        chebyshev = _next(w0, *chebyshev)
        T, dT, d2T = chebyshev[1]
        b_after = d2T / dT**2
        mu, nu, mu_slope = 2 * b_after * w0 / b, -b_after / b_before, 2 * b_after * w1 / b
        y_after = (1 - mu - nu) * y0 + mu * y + nu * y_before + mu_slope * h * (slope_j - a * slope)
        c_after = mu * c + nu * c_before + mu_slope * (1 - a)
        return chebyshev, (b, b_after), 1 - b_after * T, (c, c_after), (y, y_after), slope_j

    b = 1 / (4 * w0**2)
    first = y0 + b * w1 * h * slope
    start = _first(w0), (b, b), 1 - b * w0, (jnp.zeros_like(b), b * w1), (y0, first), slope
    *_, (y1, _), slope_1 = jax.lax.fori_loop(1, s + 1, stage, start)
    return y1, slope_1


def _first(w0):
    """(T_0, T_1) at w0, each with its first and second derivative."""
    zero, one = jnp.zeros_like(w0), jnp.ones_like(w0)
    return (one, zero, zero), (w0, one, zero)


def _next(w0, before, now):
    """(T_j, T_j+1) from (T_j-1, T_j), with derivatives, by the three-term recurrence."""
    after = (
        2 * w0 * now[0] - before[0],
        2 * w0 * now[1] + 2 * now[0] - before[1],
        2 * w0 * now[2] + 4 * now[1] - before[2],
    )
    return now, after


def _flat(terms, y0: PyTree, args) -> tuple[Float[Array, " p"], Callable]:
    """The state as one vector, and the field on such vectors."""
    y, unflat = ravel_pytree(y0)
    return y, lambda t, y: ravel_pytree(terms.vf(t, unflat(y), args))[0]


def _leading(field, t, y, vector, guess, tolerance):
    """`spectral_radius` of the field's Jacobian at y, from a vector and a thousandth of noise: an eigenvector that takes the
    lead must not be missing from the start."""
    noise = 1e-3 * jax.random.normal(jax.random.key(0), y.shape, y.dtype) / jnp.sqrt(y.size)
    return spectral_radius(lambda v: jax.jvp(lambda y: field(t, y), (y,), (v,))[1], vector + noise, guess, tolerance)
