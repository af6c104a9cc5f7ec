"""scipy.integrate: RK45, DOP853, LSODA, BDF and Radau, the solvers behind `solve_ivp`, stepped one by one.

Stepping them here instead of calling `solve_ivp` takes the same steps and adds what a long run needs: progress, an
interrupt that keeps what is done, and true counts (scipy's `nfev` leaves out the evaluations behind finite differences).
"""

from collections.abc import Iterator

import equinox as eqx
import jax
import numpy as np
import scipy.integrate
from jax.flatten_util import ravel_pytree

from gradflow.dynamics.integrators import Chunk, Problem, stretches
from gradflow.errors import require

_IMPLICIT = ("LSODA", "BDF", "Radau")
_LARGEST_DENSE_JACOBIAN = 2000


def solve(problem: Problem, method: str) -> Iterator[Chunk]:
    """Yield the solution chunk by chunk; see `gradflow.dynamics.integrators`."""
    y0, unravel = ravel_pytree(problem.y0)
    require(
        method not in _IMPLICIT or y0.size <= 20 * _LARGEST_DENSE_JACOBIAN,
        f"{method} needs a dense Jacobian, which {y0.size} variables do not allow; use tsit5 or DOP853.",
    )
    flat_field = eqx.filter_jit(lambda y, data: ravel_pytree(problem.field(unravel(y), *data))[0])
    save = eqx.filter_jit(lambda y, data: problem.save(unravel(y), *data))
    counts = {"evaluations": 0, "jacobians": 0}

    def fun(t, y):
        counts["evaluations"] += 1
        return np.asarray(flat_field(y, problem.data))

    options = {}
    if method in _IMPLICIT and y0.size <= _LARGEST_DENSE_JACOBIAN:
        flat_jacobian = eqx.filter_jit(jax.jacfwd(lambda y, data: ravel_pytree(problem.field(unravel(y), *data))[0]))

        def jacobian(t, y):
            counts["jacobians"] += 1
            return np.asarray(flat_jacobian(y, problem.data))

        options["jac"] = jacobian
    stepper = getattr(scipy.integrate, method)(
        fun, problem.times[0], np.asarray(y0), problem.times[-1], rtol=problem.rtol, atol=problem.atol, **options
    )

    yield _chunk([save(y0, problem.data)], problem.y0, {"evaluations": 0, "jacobians": 0}, counts, 0)
    steps_before, counts_before = 0, dict(counts)
    steps, interpolant = 0, None
    for stretch in stretches(problem.times):
        saved = []
        for t in np.unique(stretch):
            while stepper.t < t and stepper.status == "running":
                message = stepper.step()
                steps += 1
                interpolant = None
                if steps - steps_before > problem.max_steps:
                    message, stepper.status = f"more than max_steps = {problem.max_steps} steps in one stretch", "failed"
            if stepper.status == "failed":
                break
            interpolant = interpolant or stepper.dense_output()
            saved.append(save(interpolant(t), problem.data))
        failure = None
        if stepper.status == "failed":
            failure = f"{method} gave up: {message}"
        state = unravel(jax.numpy.asarray(stepper.y))
        if not saved:
            saved = [save(stepper.y, problem.data)]
        yield _chunk(saved, state, counts_before, counts, steps - steps_before, failure)
        steps_before, counts_before = steps, dict(counts)


def _chunk(saved, state, before, now, accepted, failure=None) -> Chunk:
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *saved)
    return Chunk(
        stacked,
        state,
        evaluations=now["evaluations"] - before["evaluations"],
        accepted=accepted,
        rejected=None,
        jacobians=now["jacobians"] - before["jacobians"],
        failure=failure,
    )
