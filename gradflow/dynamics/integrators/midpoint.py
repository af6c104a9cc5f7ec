"""Implicit midpoint rule with fixed steps: y1 = y0 + h f(Y), Y = (y0 + y1) / 2, which keeps every quadratic invariant.

The one-stage Gauss method (Hairer, Lubich, Wanner 2006, IV.2.1): where y.M f(y) = 0 for a symmetric M, y1.M y1 - y0.M y0 =
2 h Y.M f(Y) = 0. So what gradient flow conserves stays as it was at any step, if Y is solved to round-off: by Newton's
method, whose equations (1 - h/2 J) x = r are solved by BiCGStab (van der Vorst 1992) from products with the Jacobian alone.
"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from gradflow.dynamics.integrators.counting import Work

_NEWTON, _KRYLOV = 20, 200  # most iterations: of Newton's method, and for one of its equations
_FORCING = 1e-4  # how far one iteration of Newton's method reduces the residual, while that is far


class ImplicitMidpoint(diffrax.AbstractSolver):
    """The rule as a diffrax solver; a stage equation that is not solved to round-off ends the run. The state counts `work`."""

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def order(self, terms) -> int:
        return 2

    def init(self, terms, t0, t1, y0, args) -> "State":
        return State(ravel_pytree(terms.vf(t0, y0, args))[0], Work(jnp.ones((), int), jnp.zeros((), int)))

    def step(self, terms, t0, t1, y0, args, solver_state: "State", made_jump):
        h = t1 - t0
        y, unflat = ravel_pytree(y0)

        def field(Y):
            return ravel_pytree(terms.vf(t0 + h / 2, unflat(Y), args))[0]

        slope, solved, work = _slope_at_midpoint(field, h, y, solver_state)
        y1 = unflat(y + h * slope)
        result = diffrax.RESULTS.where(solved, diffrax.RESULTS.successful, diffrax.RESULTS.nonlinear_max_steps_reached)
        return y1, None, dict(y0=y0, y1=y1), State(slope, work), result

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)


class State(NamedTuple):
    """The slope of the step before, where Newton's method starts, and what all was worth."""

    slope: Float[Array, " p"]
    work: Work


class EvenSteps(diffrax.AbstractStepSizeController):
    """Steps that meet every one of `times`: as many equal ones to the next of them as `dt0` at most allows."""

    times: Float[Array, " T"]

    def wrap(self, direction):
        return EvenSteps(self.times * direction)

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        return self._next(t0, dt0), dt0

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state):
        return True, t1, self._next(t1, controller_state), False, controller_state, diffrax.RESULTS.successful

    def _next(self, t, dt0):
        target = self.times[jnp.minimum(jnp.searchsorted(self.times, t, side="right"), self.times.size - 1)]
        left = jnp.ceil((target - t) / dt0 * (1 - 1e-6))  # multiples of dt0 take no extra step for their round-off
        return jnp.where(left > 1, t + (target - t) / left, target)


def _slope_at_midpoint(field, h, y, state) -> tuple[Float[Array, " p"], Array, Work]:
    """f(Y) for Y = y + h/2 f(Y); whether that holds to round-off."""
    rounding = jnp.finfo(y.dtype).eps * jnp.linalg.norm(y)

    def goes_on(carry):
        *_, size, enough, iterations, _ = carry
        return ~enough & jnp.isfinite(size) & (iterations < _NEWTON)

    def newton(carry):
        Y, _, before, _, iterations, work = carry
        slope = field(Y)
        residual = y + h / 2 * slope - Y
        size = jnp.linalg.norm(residual)
        stagnates = (size <= 1000 * rounding) & (size > before / 2)
        enough = (size <= 4 * rounding) | stagnates

        def matrix_times(v):
            return v - h / 2 * jax.jvp(field, (Y,), (v,))[1]

        correction, products = _bicgstab(matrix_times, jnp.where(enough, 0, residual), _FORCING)
        work = Work(work.evaluations + 1, work.jvps + products)
        return Y + correction, slope, size, enough, iterations + 1, work

    far = jnp.full_like(rounding, jnp.finfo(y.dtype).max)
    start = y + h / 2 * state.slope, state.slope, far, jnp.zeros((), bool), jnp.zeros((), int), state.work
    _, slope, _, enough, _, work = jax.lax.while_loop(goes_on, newton, start)
    return slope, enough, work


def _bicgstab(
    times: Callable[[Array], Array], right: Float[Array, " p"], tolerance: float
) -> tuple[Float[Array, " p"], Int[Array, ""]]:
    """x with `times(x)` = `right` but for `tolerance` of its norm, and the products taken; less exact where that takes too many."""

    def goes_on(carry):
        _, r, _, _, iterations = carry
        return (jnp.linalg.norm(r) > tolerance * jnp.linalg.norm(right)) & (iterations < _KRYLOV)

    def iterate(carry):
        x, r, p, rho, iterations = carry
        image_p = times(p)
        alpha = rho / (right @ image_p)
        half = r - alpha * image_p
        image_half = times(half)
        omega = (image_half @ half) / jnp.maximum(image_half @ image_half, jnp.finfo(r.dtype).tiny)
        r = half - omega * image_half
        rho_after = right @ r
        p_after = r + (rho_after / rho) * (alpha / omega) * (p - omega * image_p)
        return x + alpha * p + omega * half, r, p_after, rho_after, iterations + 1

    start = jnp.zeros_like(right), right, right, right @ right, jnp.zeros((), int)
    x, *_, iterations = jax.lax.while_loop(goes_on, iterate, start)
    return x, 2 * iterations
