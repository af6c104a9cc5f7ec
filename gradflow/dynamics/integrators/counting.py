"""Counting what a compiled solve does, for libraries that do not tell.

A function is counted by a callback on the host. What a diffrax solver did in a step can be read off its state before and
after, but that of a rejected step is lost, as diffrax goes back; `Told` and `Tally` carry the counts past, in the step's
error estimate.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


class EvaluationCounter:
    """Counts on the host, by a callback from the compiled program (tens of microseconds an evaluation)."""

    def __init__(self):
        self._count = 0

    def counted(self, function: Callable) -> Callable:
        """The same function, counted."""

        def counting(*args):
            jax.debug.callback(self._increment)
            return function(*args)

        return counting

    def take(self, result) -> int:
        """Evaluations since the last `take`, once `result` (and all callbacks before it) is there."""
        jax.block_until_ready(result)
        jax.effects_barrier()
        count, self._count = self._count, 0
        return count

    def _increment(self):
        self._count += 1


class Work(NamedTuple):
    """Evaluations of the field, and products of its Jacobian with a vector."""

    evaluations: Int[Array, ""]
    jvps: Int[Array, ""]


def by_state(before, after) -> Work:
    """The work of a step of a solver whose state has the `work` so far."""
    return jax.tree.map(jnp.subtract, after.work, before.work)


class Told(diffrax.AbstractWrappedSolver):
    """A solver that hands a `Tally` each step's work, `work_of(state before, state after)`, next to the error estimate."""

    solver: diffrax.AbstractSolver
    work_of: Callable[[Any, Any], Work]

    @property
    def term_structure(self):
        return self.solver.term_structure

    @property
    def interpolation_cls(self):
        return self.solver.interpolation_cls

    def order(self, terms):
        return self.solver.order(terms)

    def error_order(self, terms):
        return self.solver.error_order(terms)

    def init(self, terms, t0, t1, y0, args):
        return self.solver.init(terms, t0, t1, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        y1, error, dense, after, result = self.solver.step(terms, t0, t1, y0, args, solver_state, made_jump)
        return y1, (error, self.work_of(solver_state, after)), dense, after, result

    def func(self, terms, t0, y0, args):
        return self.solver.func(terms, t0, y0, args)


class Tally(diffrax.AbstractStepSizeController):
    """A step size controller that adds up the work of all steps, rejected ones too, in its state (inner state, `Work`)."""

    controller: diffrax.AbstractStepSizeController

    def wrap(self, direction):
        return Tally(self.controller.wrap(direction))

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order) -> tuple[Any, tuple[Any, Work]]:
        t1, inner = self.controller.init(terms, t0, t1, y0, dt0, args, func, error_order)
        return t1, (inner, Work(jnp.zeros((), int), jnp.zeros((), int)))

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state):
        (error, work), (inner, total) = y_error, controller_state
        total = jax.tree.map(lambda all, step: all + step.astype(int), total, work)
        *decision, inner, result = self.controller.adapt_step_size(
            t0, t1, y0, y1_candidate, args, error, error_order, inner
        )
        return *decision, (inner, total), result
