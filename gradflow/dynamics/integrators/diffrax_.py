"""diffrax (Kidger 2021): adaptive Runge-Kutta solvers compiled as a whole. The package's default.

`tsit5` Tsitouras 5(4); `dopri8` Dormand-Prince 8(7), for tight tolerances; `kvaerno5` Kvaerno 5(4), L-stable and implicit, for
small stiff systems (it factors a dense Jacobian). Step sizes are chosen so that every leaf of the state meets the
tolerance on its own: with one norm over all numbers, the many that stand still would hide the errors of the few that move.
"""

from collections.abc import Iterator

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx

from gradflow.dynamics.integrators import Chunk, Problem, out_of_steps, stretches
from gradflow.dynamics.integrators.counting import EvaluationCounter

_SOLVERS = {"tsit5": diffrax.Tsit5, "dopri8": diffrax.Dopri8, "kvaerno5": diffrax.Kvaerno5}


def solve(problem: Problem, method: str) -> Iterator[Chunk]:
    """Yield the solution chunk by chunk; see `gradflow.dynamics.integrators`."""
    counter = EvaluationCounter() if method == "kvaerno5" else None
    state, t = problem.y0, problem.times[0]
    tolerances = jnp.asarray(problem.rtol), jnp.asarray(problem.atol)
    step = _first_step(problem, *tolerances)
    start = jax.tree.map(lambda leaf: leaf[None], eqx.filter_jit(problem.save)(state, *problem.data))
    yield Chunk(start, state, evaluations=1, accepted=0, rejected=0)
    for stretch in stretches(problem.times):
        saved, reached, stats = _stretch(
            problem.field, problem.save, method, problem.max_steps, counter, state, problem.data,
            jnp.asarray(t), jnp.asarray(stretch), jnp.asarray(step), *tolerances,
        )  # fmt: skip
        accepted, attempted = int(stats["num_accepted_steps"]), int(stats["num_steps"])
        evaluations = counter.take(reached) if counter else _explicit_evaluations(method, attempted)
        cost = dict(evaluations=evaluations, accepted=accepted, rejected=attempted - accepted)
        if attempted >= problem.max_steps:
            yield Chunk(None, state, **cost, failure=out_of_steps(problem.max_steps))
            return
        distinct = np.searchsorted(stretch, stretch[-1]) + 1
        yield Chunk(jax.tree.map(lambda leaf, kept=distinct: np.asarray(leaf)[:kept], saved), reached, **cost)
        step = _next_step(t, stretch[-1], accepted)
        state, t = reached, stretch[-1]


@eqx.filter_jit
def _stretch(field, save, method, max_steps, counter, state, data, t0, times, step, rtol, atol):
    def velocity(t, y, data):
        return counter.counted(field)(y, *data) if counter else field(y, *data)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        _SOLVERS[method](),
        t0=t0,
        t1=times[-1],
        dt0=step,
        y0=state,
        args=data,
        saveat=diffrax.SaveAt(
            subs=[diffrax.SubSaveAt(ts=times, fn=lambda t, y, data: save(y, *data)), diffrax.SubSaveAt(t1=True)]
        ),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, norm=_largest_leaf_rms),
        max_steps=max_steps,
        throw=False,
    )
    saved, last = solution.ys
    return saved, jax.tree.map(lambda leaf: leaf[0], last), solution.stats


def _largest_leaf_rms(y) -> jax.Array:
    """Root mean square of each leaf; the largest of them."""
    return jnp.stack([optx.rms_norm(leaf) for leaf in jax.tree.leaves(y)]).max()


@eqx.filter_jit
def _scales(field, y0, data, rtol, atol):
    """Sizes of the state and of its velocity, in units of the tolerance."""

    def in_tolerances(tree):
        return _largest_leaf_rms(jax.tree.map(lambda leaf, y: leaf / (atol + rtol * abs(y)), tree, y0))

    return in_tolerances(y0), in_tolerances(field(y0, *data))


def _first_step(problem: Problem, rtol: jax.Array, atol: jax.Array) -> float:
    """A hundredth of the time in which the state would change by its own size (Hairer, Norsett, Wanner II.4), or the whole span."""
    size, speed = map(float, _scales(problem.field, problem.y0, problem.data, rtol, atol))
    span = float(problem.times[-1] - problem.times[0])
    return min(0.01 * max(size, 1e-3) / speed, span) if speed > 0 else span


def _next_step(t0: float, t1: float, accepted: int) -> float:
    """The last step of a stretch, were its steps in geometric progression (or equal, from t <= 0)."""
    return float((t1 - t0) / accepted if t0 <= 0 else t1 * (1 - (t0 / t1) ** (1 / accepted)))


def _explicit_evaluations(method: str, attempted: int) -> int:
    """Evaluations of a stretch: both solvers reuse the last stage as the next step's first, after one at its start."""
    return {"tsit5": 6, "dopri8": 13}[method] * attempted + 1
