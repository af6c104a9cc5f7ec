"""diffrax (Kidger 2021): Runge-Kutta solvers compiled as a whole. The package's default.

`tsit5` Tsitouras 5(4); `dopri8` Dormand-Prince 8(7), for tight tolerances; `kvaerno5` Kvaerno 5(4), L-stable and implicit, for
small stiff systems (it factors a dense Jacobian); `rkc2`, explicit, for stiff systems of any size, and `implicit_midpoint`,
with fixed steps, both this package's own. Step sizes are chosen so that every leaf of the state meets the tolerance on its
own: with one norm over all numbers, the many that stand still would hide the errors of the few that move.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx

from gradflow.dynamics.integrators import Chunk, Problem, out_of_steps, stretches
from gradflow.dynamics.integrators.counting import EvaluationCounter, Tally, Told, Work, by_state
from gradflow.dynamics.integrators.midpoint import EvenSteps, ImplicitMidpoint
from gradflow.dynamics.integrators.rkc import RKC2

_SOLVERS = {
    "tsit5": diffrax.Tsit5,
    "dopri8": diffrax.Dopri8,
    "kvaerno5": diffrax.Kvaerno5,
    "rkc2": RKC2,
    "implicit_midpoint": ImplicitMidpoint,
}
_COUNT_THEMSELVES = ("rkc2", "implicit_midpoint")


class Place(NamedTuple):
    """Where a solve stands: time, state, the step to try next, and the solver's own state where that lasts."""

    t: np.float64
    state: Any
    step: float
    memory: Any = None


def solve(problem: Problem, method: str) -> Iterator[Chunk]:
    """Yield the solution chunk by chunk; see `gradflow.dynamics.integrators`."""
    counter = EvaluationCounter() if method == "kvaerno5" else None
    chunk, place = begin(problem, method)
    yield chunk
    for stretch in stretches(problem.times):
        chunk, place = advance(problem, method, place, stretch, counter)
        yield chunk
        if chunk.failure:
            return


def begin(problem: Problem, method: str) -> tuple[Chunk, Place]:
    """The chunk that is the start alone, and the place of the start."""
    y0, t0 = problem.y0, problem.times[0]
    start = jax.tree.map(lambda leaf: leaf[None], eqx.filter_jit(problem.save)(y0, *problem.data))
    if method == "implicit_midpoint":
        place, evaluations, jvps = Place(t0, y0, problem.step), 0, 0
    else:
        place, evaluations, jvps = Place(t0, y0, _first_step(problem)), 1, 0
    if method in _COUNT_THEMSELVES:
        place = with_memory(problem, method, place)
        evaluations, jvps = evaluations + int(place.memory.work.evaluations), int(place.memory.work.jvps)
    return Chunk(start, y0, evaluations, accepted=0, rejected=0, jvps=jvps), place


def advance(
    problem: Problem, method: str, place: Place, stretch: np.ndarray, counter: EvaluationCounter | None = None
) -> tuple[Chunk, Place]:
    """The chunk of one stretch of save times, and the place at its end."""
    memory = place.memory if method in _COUNT_THEMSELVES else None
    saved, reached, stats, memory, work, solved = _stretch(
        problem.field, problem.save, method, problem.max_steps, counter, place.state, problem.data, memory,
        jnp.asarray(place.t), jnp.asarray(stretch), jnp.asarray(place.step), jnp.asarray(problem.rtol), jnp.asarray(problem.atol),
    )  # fmt: skip
    accepted, attempted = int(stats["num_accepted_steps"]), int(stats["num_steps"])
    cost = dict(accepted=accepted, rejected=attempted - accepted)
    if counter:
        cost |= dict(evaluations=counter.take(reached))
    else:
        cost |= dict(evaluations=int(work.evaluations), jvps=int(work.jvps))
    if not bool(solved):
        failure = f"a step of {place.step:g} left its equation unsolved; take a smaller step"
        return Chunk(None, place.state, **cost, failure=failure), place
    if attempted >= problem.max_steps:
        return Chunk(None, place.state, **cost, failure=out_of_steps(problem.max_steps)), place
    t = stretch[-1]
    step = place.step if method == "implicit_midpoint" else _next_step(place.t, t, accepted)
    distinct = np.searchsorted(stretch, t) + 1
    kept = jax.tree.map(lambda leaf: np.asarray(leaf)[:distinct], saved)
    return Chunk(kept, reached, **cost), Place(t, reached, step, memory or place.memory)


@eqx.filter_jit
def _stretch(field, save, method, max_steps, counter, state, data, memory, t0, times, step, rtol, atol):
    def velocity(t, y, data):
        return counter.counted(field)(y, *data) if counter else field(y, *data)

    remembers = method in _COUNT_THEMSELVES
    solver, controller = _SOLVERS[method](), diffrax.PIDController(rtol=rtol, atol=atol, norm=_largest_leaf_rms)
    if method == "implicit_midpoint":
        controller = EvenSteps(times)
    if not counter:
        solver = Told(solver, by_state if remembers else partial(_work_of_step, method))
        controller = Tally(controller)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        solver,
        t0=t0,
        t1=times[-1],
        dt0=step,
        y0=state,
        args=data,
        saveat=diffrax.SaveAt(
            subs=[diffrax.SubSaveAt(ts=times, fn=lambda t, y, data: save(y, *data)), diffrax.SubSaveAt(t1=True)],
            solver_state=remembers,
            controller_state=not counter,
        ),
        stepsize_controller=controller,
        max_steps=max_steps,
        throw=False,
        solver_state=memory,
    )
    saved, last = solution.ys
    work = None if counter else solution.controller_state[1]
    solved = solution.result != diffrax.RESULTS.nonlinear_max_steps_reached
    return saved, jax.tree.map(lambda leaf: leaf[0], last), solution.stats, solution.solver_state, work, solved


def with_memory(problem: Problem, method: str, place: Place) -> Place:
    """The place with what a solver that counts for itself, in `memory.work`, has to know before it starts there."""
    memory = _memory(problem.field, method, jnp.asarray(place.t), place.state, problem.data, place.memory)
    return place._replace(memory=memory)


@eqx.filter_jit
def _memory(field, method, t, y, data, earlier):
    y = jax.tree.map(lambda leaf: leaf.astype(jnp.result_type(leaf, t)), y)  # as diffrax will have it
    solver, term = _SOLVERS[method](), diffrax.ODETerm(lambda t, y, data: field(y, *data))
    return solver.init(term, t, t, y, data) if earlier is None else solver.resume(term, t, y, data, earlier)


def _largest_leaf_rms(y) -> jax.Array:
    """Root mean square of each leaf; the largest of them."""
    return jnp.stack([optx.rms_norm(leaf) for leaf in jax.tree.leaves(y)]).max()


@eqx.filter_jit
def _scales(field, y0, data, rtol, atol):
    """Sizes of the state and of its velocity, in units of the tolerance."""

    def in_tolerances(tree):
        return _largest_leaf_rms(jax.tree.map(lambda leaf, y: leaf / (atol + rtol * abs(y)), tree, y0))

    return in_tolerances(y0), in_tolerances(field(y0, *data))


def _first_step(problem: Problem) -> float:
    """A hundredth of the time in which the state would change by its own size (Hairer, Norsett, Wanner II.4), or the whole span."""
    size, speed = map(
        float, _scales(problem.field, problem.y0, problem.data, jnp.asarray(problem.rtol), jnp.asarray(problem.atol))
    )
    span = float(problem.times[-1] - problem.times[0])
    return min(0.01 * max(size, 1e-3) / speed, span) if speed > 0 else span


def _next_step(t0: float, t1: float, accepted: int) -> float:
    """The last step of a stretch, were its steps in geometric progression (or equal, from t <= 0)."""
    return float((t1 - t0) / accepted if t0 <= 0 else t1 * (1 - (t0 / t1) ** (1 / accepted)))


def _work_of_step(method: str, before, after) -> Work:
    """Both explicit solvers reuse the last stage as the next step's first, once a step of the stretch was accepted."""
    stages = {"tsit5": 6, "dopri8": 13}[method]
    return Work(stages + before[0], jnp.zeros((), int))
