"""Gradient flow: d params / dt = -grad loss(params), solved as an ordinary differential equation.

Next to the parameters the solve carries one more variable, the dissipated energy int |grad loss|^2 dt, which must equal the
fall of the loss: an error estimate that no integrator makes for itself. Conserved quantities are watched at each save point.
"""

import math
import time
import warnings
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gradflow.dynamics import progress
from gradflow.dynamics.integrators import Chunk, Problem, require_room, require_step, solver_of
from gradflow.dynamics.trajectory import Cost, Trajectory, finite_part, stacked
from gradflow.dynamics.trees import as_arrays, not_finite, squared_norm
from gradflow.dynamics.watch import Watch, require_finite_start, require_real_loss
from gradflow.errors import require


def gradient_flow(
    loss: Callable,
    params: PyTree,
    *data: PyTree,
    times: np.ndarray,
    method: str = "tsit5",
    rtol: float = 1e-6,
    atol: float | None = None,
    field: Callable | None = None,
    save: Callable | None = None,
    invariants: Callable | None = None,
    max_steps: int = 100_000,
    step: float | None = None,
    show_progress: bool | None = None,
) -> Trajectory:
    """Follow the gradient flow of `loss(params, *data)` from `params` through `times`.

    loss        smooth scalar function of a pytree of arrays; reuse one function object and it is compiled once per shape
    times       (T,) ascending, where to save; the first is the start. See `linear_times` and `log_times`
    method      tsit5, dopri8, kvaerno5 (diffrax); RK45, DOP853, LSODA, BDF, Radau (scipy); odeint (jax); rkc2, explicit
                and for stiff flows of any size; implicit_midpoint, which keeps quadratic invariants to round-off; auto,
                which takes tsit5 where accuracy limits its steps and rkc2 where stability would
    rtol, atol  tolerances of the integrator's error in one step; atol is rtol / 1000 unless given
    field       `field(state, *data) -> (velocity, -dLoss/dt)`, for a flow that is written in other variables than the
                weights, or that is no plain gradient flow. Default: (-grad loss, |grad loss|^2)
    save        `save(state, *data)` is kept at each time, as `states`; default: the state itself
    invariants  `invariants(state, *data) -> {name: array}` that should stay constant; their drift is reported
    max_steps   most steps between two progress reports (about a twelfth of the run)
    step        size of the fixed steps of implicit_midpoint, shortened evenly where they would miss a time; the other
                methods choose their own

    Returns a `Trajectory`; look at its `status`. Interrupted (Ctrl-C), out of steps or out of the finite range, it holds
    what was done until then. Raises `InputError` for times, tolerances or methods that cannot be used.
    """
    library, solve = solver_of(method)
    require_step(method, step)
    times = np.asarray(times, float)
    require(times.ndim == 1 and times.size >= 2, "times must hold at least a start and an end.")
    require(bool(np.isfinite(times).all() and (np.diff(times) > 0).all()), "times must ascend and be finite.")
    params, data = as_arrays(params), as_arrays(data)
    require_real_loss(loss, params, data)
    atol = rtol / 1000 if atol is None else atol
    _check_tolerances(params, rtol, atol)

    velocity = _Velocity(field or GradientField(loss))
    watch = Watch.begin(loss, save, invariants, params, data)
    start = (params, jnp.zeros((), jnp.result_type(*jax.tree.leaves(params))))
    require_room(method, sum(leaf.size for leaf in jax.tree.leaves(start)))
    problem = Problem(velocity, _OnPair(watch), start, data, times, rtol, atol, max_steps, step)

    began = time.perf_counter()
    chunks: list[Chunk] = []
    status = "complete"
    with progress.bar(times.size, " saves", f"flow, {method}", show=show_progress) as reports:
        try:
            for chunk in solve(problem, method):
                if not chunks:
                    require_finite_start(chunk.saved.loss[0], params)
                chunks.append(chunk)
                done = sum(len(each.saved.loss) for each in chunks if each.saved)
                status = _failure(chunks, times[done - 1], rtol) or status
                if status != "complete":
                    break
                progress.report(
                    reports,
                    len(chunk.saved.loss),
                    time=times[done - 1],
                    steps=_total(chunks, "accepted"),
                    loss=chunk.saved.loss[-1],
                )
        except KeyboardInterrupt:
            require(bool(chunks), "Interrupted before anything was computed.")
            status = "interrupted"
    saved = finite_part(stacked([chunk.saved for chunk in chunks if chunk.saved]))
    return Trajectory(
        times=times[: len(saved.loss)],
        states=saved.state,
        loss=saved.loss,
        dissipated=saved.dissipated,
        drift=saved.drift,
        final=chunks[-1].state[0],
        method=_in_words(method, library, chunks, problem),
        cost=Cost(
            evaluations=_total(chunks, "evaluations"),
            accepted=_total(chunks, "accepted"),
            rejected=_total(chunks, "rejected"),
            jacobians=_total(chunks, "jacobians"),
            jvps=_total(chunks, "jvps"),
            seconds=time.perf_counter() - began,
        ),
        status=status,
    )


class GradientField(eqx.Module):
    """The field of a plain gradient flow: -grad loss and |grad loss|^2."""

    loss: Callable

    def __call__(self, params: PyTree, *data: PyTree) -> tuple[PyTree, Float[Array, ""]]:
        gradient = jax.grad(self.loss)(params, *data)
        return jax.tree.map(jnp.negative, gradient), squared_norm(gradient)


class _Velocity(eqx.Module):
    """Velocity of the pair (params, dissipated energy)."""

    field: Callable

    def __call__(self, pair, *data):
        return self.field(pair[0], *data)


class _OnPair(eqx.Module):
    """A `Watch` that takes the pair (params, dissipated energy)."""

    watch: Watch

    def __call__(self, pair, *data):
        return self.watch(*pair, *data)


def _check_tolerances(params: PyTree, rtol: float, atol: float) -> None:
    """Refuse what the numbers cannot hold; warn where atol would hide the start."""
    dtype = jnp.result_type(*jax.tree.leaves(params))
    least = float(f"{200 * float(jnp.finfo(dtype).eps):.0e}")  # as it is printed
    hint = " Call gradflow.enable_x64() before making the parameters." if dtype != jnp.float64 else ""
    require(
        math.isfinite(rtol) and rtol >= least,
        f"rtol must be at least {least:.1g}, which is what {dtype} can hold, got {rtol}.{hint}",
    )
    require(math.isfinite(atol) and atol >= 0, f"atol must be >= 0, got {atol}.")
    sizes = [float(np.sqrt(np.mean(np.square(leaf)))) for leaf in jax.tree.leaves(params)]
    smallest = min([size for size in sizes if size > 0], default=np.inf)
    if atol > 1e-3 * smallest:
        warnings.warn(
            f"atol = {atol:.1g} is not far below the smallest initial scale {smallest:.1g}: times at which a plateau is left will be off.",
            stacklevel=3,
        )


def _in_words(method: str, library: str, chunks: list[Chunk], problem: Problem) -> str:
    """How a run was solved: by which method, to which tolerances or in which steps, and why so where it was chosen."""
    choices = " ".join(chunk.choice for chunk in chunks if chunk.choice)
    by = f"{method}: {choices}" if choices else f"{method} ({library})"
    if problem.step is not None:
        return f"{by}, step = {problem.step:g}"
    return f"{by}, rtol = {problem.rtol:.1g}, atol = {problem.atol:.1g}"


def _failure(chunks: list[Chunk], t: float, rtol: float) -> str | None:
    """Why the run cannot go on after its latest chunk; None if it can."""
    latest = chunks[-1]
    if latest.failure:
        return f"stopped after t = {t:.6g}: {latest.failure}"
    if not (np.isfinite(latest.saved.loss).all() and np.isfinite(latest.saved.dissipated).all()):
        names = not_finite(latest.state[0]) or "loss"
        return f"left the finite range before t = {t:.6g}: {names}; the integrator failed, try a smaller rtol or another method"
    # a loss may rise by the energy that was put into it, which is none in a gradient flow
    initial, put_in = float(chunks[0].saved.loss[0]), np.maximum(-latest.saved.dissipated, 0)
    allowed = initial + put_in + max(1e3 * rtol, 1e-6) * np.abs(initial + put_in)
    if (latest.saved.loss > allowed).any():
        highest = float(np.max(latest.saved.loss))
        return f"not a gradient flow at t = {t:.6g}: the loss rose from {initial:.6g} to {highest:.6g}; the integrator failed, try a smaller rtol or another method"
    return None


def _total(chunks: list[Chunk], count: str) -> int | None:
    """Sum of a count over the chunks; None where the library does not tell it."""
    counts = [getattr(chunk, count) for chunk in chunks]
    return None if None in counts else sum(counts)
