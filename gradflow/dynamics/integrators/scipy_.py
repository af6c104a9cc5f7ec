"""scipy.integrate: RK45, DOP853, LSODA, BDF and Radau, the solvers behind `solve_ivp`, stepped one by one.

Stepping them here instead of calling `solve_ivp` takes the same steps and adds what a long run needs: progress, an
interrupt that keeps what is done, and true counts (scipy's `nfev` leaves out the evaluations behind finite differences).
"""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
import scipy.integrate
from jax.flatten_util import ravel_pytree

from gradflow.dynamics.integrators import IMPLICIT, Chunk, Problem, out_of_steps, stretches

_LARGEST_EXACT_JACOBIAN = 2000  # variables; beyond, scipy takes finite differences


def solve(problem: Problem, method: str) -> Iterator[Chunk]:
    """Yield the solution chunk by chunk; see `gradflow.dynamics.integrators`."""
    y0, unravel = ravel_pytree(problem.y0)
    counts = {"evaluations": 0, "jacobians": 0}
    field, field_jacobian = _flat_field(problem, unravel)
    save = eqx.filter_jit(lambda y, data: problem.save(unravel(y), *data))

    def fun(t, y):
        counts["evaluations"] += 1
        return np.asarray(field(y, problem.data))

    def jacobian(t, y):
        counts["jacobians"] += 1
        return np.asarray(field_jacobian(y, problem.data))

    options = {"jac": jacobian} if method in IMPLICIT and y0.size <= _LARGEST_EXACT_JACOBIAN else {}
    yield Chunk(_stack([save(y0, problem.data)]), problem.y0, evaluations=0, accepted=0, rejected=None)
    stepper = getattr(scipy.integrate, method)(
        fun, problem.times[0], np.asarray(y0), problem.times[-1], rtol=problem.rtol, atol=problem.atol, **options
    )
    y = np.asarray(y0)
    for stretch in stretches(problem.times):
        saved, steps, failure = [], 0, None
        for t in np.unique(stretch):
            while stepper.t < t and failure is None:
                failure = _step(stepper, method) if steps < problem.max_steps else out_of_steps(problem.max_steps)
                steps += failure is None
            if failure is not None:
                break
            y_at_t = stepper.dense_output()(t)
            saved.append(save(y_at_t, problem.data))
        cost = dict(counts, accepted=steps, rejected=None)
        counts.update(evaluations=0, jacobians=0)
        if failure is not None:
            yield Chunk(None, unravel(jax.numpy.asarray(y)), **cost, failure=failure)
            return
        y = y_at_t
        yield Chunk(_stack(saved), unravel(jax.numpy.asarray(y)), **cost)


def _flat_field(problem: Problem, unravel: Callable) -> tuple[Callable, Callable]:
    """The field on flat vectors, and its Jacobian, both compiled."""

    def field(y, data):
        return ravel_pytree(problem.field(unravel(y), *data))[0]

    return eqx.filter_jit(field), eqx.filter_jit(jax.jacfwd(field))


def _step(stepper: scipy.integrate.OdeSolver, method: str) -> str | None:
    """Take one step; why it could not be taken, if so."""
    try:
        message = stepper.step()
    except (ValueError, np.linalg.LinAlgError) as error:  # what BDF and Radau raise on numbers that are not finite
        return f"{method} gave up: {error}"
    return f"{method} gave up: {message}" if stepper.status == "failed" else None


def _stack(saved: list) -> Any:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *saved)
