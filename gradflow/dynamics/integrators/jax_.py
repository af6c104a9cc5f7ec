"""jax.experimental.ode.odeint: Dormand-Prince 5(4), as a second witness and never the only one.

It tells neither its steps nor its failures: past its step limit, or where it meets a singularity, it returns numbers as if
nothing had happened. So evaluations are counted by a callback, its step limit is compared with that count, and the caller
checks that the numbers are finite and that the loss never rises.
"""

from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.ode import odeint

from gradflow.dynamics.integrators import Chunk, Problem, out_of_steps, stretches
from gradflow.dynamics.integrators.counting import EvaluationCounter

_EVALUATIONS_A_STEP = 6


def solve(problem: Problem, method: str) -> Iterator[Chunk]:
    """Yield the solution chunk by chunk; see `gradflow.dynamics.integrators`."""
    counter = EvaluationCounter()
    state, t = problem.y0, problem.times[0]
    start = jax.tree.map(lambda leaf: leaf[None], eqx.filter_jit(problem.save)(state, *problem.data))
    yield Chunk(start, state, evaluations=0, accepted=None, rejected=None)
    for stretch in stretches(problem.times):
        stretch = np.unique(stretch)
        times = jnp.concatenate([jnp.array([t]), jnp.asarray(stretch)])
        saved, reached = _stretch(
            problem.field, problem.save, counter, state, problem.data, times, problem.rtol, problem.atol, problem.max_steps
        )  # fmt: skip
        evaluations = counter.take(reached)
        if evaluations >= _EVALUATIONS_A_STEP * problem.max_steps:
            yield Chunk(None, state, evaluations, None, None, failure=out_of_steps(problem.max_steps))
            return
        yield Chunk(saved, reached, evaluations, accepted=None, rejected=None)
        state, t = reached, stretch[-1]


@eqx.filter_jit
def _stretch(field, save, counter, state, data, times, rtol, atol, max_steps):
    def velocity(y, t, data):
        return counter.counted(field)(y, *data)

    states = odeint(velocity, state, times, data, rtol=rtol, atol=atol, mxstep=max_steps)
    saved = jax.lax.map(lambda y: save(y, *data), jax.tree.map(lambda leaf: leaf[1:], states))
    return saved, jax.tree.map(lambda leaf: leaf[-1], states)
