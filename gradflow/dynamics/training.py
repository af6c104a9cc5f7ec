"""The loop behind all discrete training: compiled steps, what is kept between them, and the ways in which it can end.

A rule makes a step, `rule(params, memory, learning_rate, *minibatch) -> (params, memory, work)`: its memory is what it
carries from step to step besides the parameters, its work by how much the loss falls to first order, -grad . step.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from gradflow.dynamics import progress
from gradflow.dynamics.checkpoint import Checkpoint, digest
from gradflow.dynamics.minibatches import Minibatches, Stream
from gradflow.dynamics.times import log_steps
from gradflow.dynamics.trajectory import Cost, Saved, Trajectory, finite_part, stacked
from gradflow.dynamics.trees import not_finite
from gradflow.dynamics.watch import Watch, require_finite_start
from gradflow.errors import require


def train(
    rule: Callable,
    memory: PyTree,
    loss: Callable,
    params: PyTree,
    data: tuple,
    *,
    minibatches: Minibatches | Stream,
    learning_rate: float,
    steps: int,
    save_steps: np.ndarray | None,
    save: Callable | None,
    invariants: Callable | None,
    checkpoint: Path | None,
    show_progress: bool | None,
    name: str,
) -> Trajectory:
    """Take `steps` steps of a rule; the rest as in `descend`. `params`, `memory` and `data` hold arrays."""
    require(math.isfinite(learning_rate) and learning_rate > 0, f"learning_rate must be positive, got {learning_rate}.")
    save_steps = log_steps(steps) if save_steps is None else np.asarray(save_steps)
    whole = save_steps.size >= 2 and bool((save_steps == np.round(save_steps)).all())
    ascending = whole and save_steps[0] == 0 and bool((np.diff(save_steps) > 0).all()) and save_steps[-1] == steps
    require(ascending, f"save_steps must be whole numbers that ascend from 0 to steps = {steps}.")
    save_steps = save_steps.astype(int)
    watch = Watch.begin(loss, save, invariants, params, minibatches.seen(jnp.zeros((), int), data))

    began = time.perf_counter()
    dtype = jnp.result_type(*jax.tree.leaves(params))
    rate, no_work = jnp.asarray(learning_rate, dtype), jnp.zeros((), dtype)
    state = _Training(params, memory, no_work, jnp.zeros((), int), jnp.array(True))
    kept = state, [_observe(watch, minibatches, state, data)]
    require_finite_start(kept[1][0].loss, params)
    file = None
    if checkpoint is not None:
        file = Checkpoint(Path(checkpoint), digest(learning_rate, save_steps, state, data, minibatches, rule, watch))
        kept = _resumed(file, *kept)
    state, status = kept[0], "complete"
    with progress.bar(int(steps), " steps", f"descent, rate {learning_rate:.3g}", show=show_progress) as reports:
        reports.update(int(state.step))
        try:
            for until in save_steps[len(kept[1]) :]:
                state = _advance(rule, minibatches, state, data, rate, jnp.asarray(until))
                seen = _observe(watch, minibatches, state, data)
                if not (bool(state.finite) and math.isfinite(seen.loss)):
                    step, names = int(state.step), not_finite(state.params) or "loss or gradient"
                    status = (
                        f"diverged at step {step} (t = {learning_rate * step:.6g}): {names}; "
                        f"try a smaller learning_rate than {learning_rate:.3g}"
                    )
                    break
                kept = state, [*kept[1], seen]  # at once: an interruption finds a state and what was saved until then
                if file is not None and file.is_due:
                    file.write((state, _joined(kept[1])))
                progress.report(
                    reports, int(until) - reports.n, time=learning_rate * until, steps=int(until), loss=seen.loss
                )
        except KeyboardInterrupt:
            state, status = kept[0], "interrupted"
    saved = _joined(kept[1])
    if file is not None:
        file.write((kept[0], saved))
    saved = finite_part(saved)
    taken = int(state.step)
    return Trajectory(
        times=learning_rate * save_steps[: len(saved.loss)],
        states=saved.state,
        loss=saved.loss,
        dissipated=saved.dissipated,
        drift=saved.drift,
        final=state.params,
        method=f"{name}, learning_rate = {learning_rate:.3g}",
        cost=Cost(evaluations=taken, accepted=taken, rejected=0, seconds=time.perf_counter() - began),
        status=status,
    )


class _Training(eqx.Module):
    """Where training is: the state between two steps."""

    params: PyTree
    memory: PyTree
    dissipated: jax.Array
    step: jax.Array
    finite: jax.Array


@eqx.filter_jit
def _observe(watch, minibatches, state, data) -> Saved:
    """What is kept of the run where it is."""
    return watch(state.params, state.dissipated, *minibatches.seen(state.step, data))


def _joined(saved: list[Saved]) -> Saved:
    """Save points as one, along a leading axis."""
    return stacked([jax.tree.map(lambda leaf: np.asarray(leaf)[None], each) for each in saved])


def _resumed(file: Checkpoint, state: _Training, saved: list[Saved]) -> tuple[_Training, list[Saved]]:
    """Where a checkpoint says that the run is; where it begins, if there is none."""
    if (written := file.load((state, saved[0]))) is None:
        return state, saved
    state, rows = jax.tree.map(jnp.asarray, written[0]), written[1]
    return state, [jax.tree.map(lambda leaf, at=at: leaf[at], rows) for at in range(len(rows.loss))]


@eqx.filter_jit
def _advance(rule, minibatches, state, data, learning_rate, until) -> _Training:
    """Train up to step `until`, or to the first step whose work is not finite."""

    def one_step(state):
        minibatch = minibatches.at(state.step, data)
        params, memory, work = rule(state.params, state.memory, learning_rate, *minibatch)
        return _Training(params, memory, state.dissipated + work, state.step + 1, jnp.isfinite(work))

    return jax.lax.while_loop(lambda state: (state.step < until) & state.finite, one_step, state)
