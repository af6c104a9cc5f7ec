"""The loop behind all discrete training: compiled steps, what is kept between them, and the ways in which it can end.

A rule makes a step, `rule(params, memory, learning_rate, *minibatch) -> (params, memory, work)`: its memory is what it
carries from step to step besides the parameters, its work by how much the loss falls to first order, -grad . step.

One compiled call takes a stretch: the steps to several save points, and what is kept at each. A stretch is as long as it may be
without keeping whoever waits: progress, checkpoints and interruptions come between stretches. No number depends on its length.
"""

import dataclasses
import functools
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
from gradflow.dynamics.trees import as_arrays, not_finite
from gradflow.dynamics.watch import Watch, require_finite_start
from gradflow.errors import require

STRETCH = 32  # most save points in a stretch
PATIENCE = 0.5  # seconds that a stretch of several save points should last at most
ROOM = 2**25  # bytes that a stretch of several save points may fill with what it keeps


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
    start = state = _Training(params, memory, no_work, jnp.zeros((), int), jnp.array(True))
    advance = functools.partial(_stretch, rule, watch, minibatches, data, rate)
    state, rows = advance(state, save_steps[:1])  # takes no step, but looks at the start
    require_finite_start(rows.loss[0], params)
    kept, lost = (state, [rows]), []
    file = None
    if checkpoint is not None:
        file = Checkpoint(Path(checkpoint), digest(learning_rate, save_steps, start, data, minibatches, rule, watch))
        kept = _resumed(file, *kept)
    state, status, count = kept[0], "complete", 1
    with progress.bar(int(steps), " steps", f"descent, rate {learning_rate:.3g}", show=show_progress) as reports:
        reports.update(int(state.step))
        try:
            while (ahead := save_steps[save_steps > int(state.step)]).size:
                left, clock = int(state.step), time.perf_counter()
                state, rows = advance(state, ahead[:count])
                step = int(state.step)
                if not bool(state.finite):
                    names, lost = not_finite(state.params) or "loss or gradient", [rows]
                    status = (
                        f"diverged at step {step} (t = {learning_rate * step:.6g}): {names}; "
                        f"try a smaller learning_rate than {learning_rate:.3g}"
                    )
                    break
                kept = state, [*kept[1], rows]  # at once: an interruption finds a state and what was saved until then
                if file is not None and file.is_due:
                    file.write((state, stacked(kept[1])))
                # as many times the steps, and the save points, of this stretch as there is patience for
                longer, seen = PATIENCE / (time.perf_counter() - clock), len(rows.loss)
                in_time = int((ahead[seen:] <= step + longer * (step - left)).sum())
                count = max(1, min(STRETCH, in_time, int(longer * seen)))
                progress.report(
                    reports, step - reports.n, time=learning_rate * step, steps=step, loss=float(rows.loss[-1])
                )
        except KeyboardInterrupt:
            state, status = kept[0], "interrupted"
    saved = stacked(kept[1])
    if file is not None:
        file.write((kept[0], saved))
    saved = finite_part(stacked([saved, *lost]))  # of a stretch that diverged, what is before
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


def _resumed(file: Checkpoint, state: _Training, saved: list[Saved]) -> tuple[_Training, list[Saved]]:
    """Where a checkpoint says that the run is; where it begins, if there is none."""
    if (written := file.load((state, saved[0]))) is None:
        return state, saved
    return jax.tree.map(jnp.asarray, written[0]), [written[1]]


def _stretch(rule, watch, minibatches, data, learning_rate, state, ahead) -> tuple[_Training, Saved]:
    """`_advance` to the save points `ahead`, and what was kept as numpy arrays."""
    untils, count = jnp.asarray(np.resize(ahead, STRETCH)), jnp.asarray(len(ahead))
    state, rows, seen = _advance(rule, watch, minibatches, state, data, learning_rate, untils, count)
    return state, jax.tree.map(lambda leaf: np.asarray(leaf)[: int(seen)].copy(), rows)


@eqx.filter_jit
def _advance(rule, watch, minibatches, state, data, learning_rate, untils, count) -> tuple[_Training, Saved, jax.Array]:
    """Train up to each of the first `count` steps of `untils` and look there, or up to where the work or the loss is not finite.

    Returns the state, what was kept, padded, and at how many save points: less than `count` where there is no room for all.
    """

    def one_step(state):
        minibatch = minibatches.at(state.step, data)
        params, memory, work = rule(state.params, state.memory, learning_rate, *minibatch)
        return _Training(params, memory, state.dissipated + work, state.step + 1, jnp.isfinite(work))

    def look(state):
        return as_arrays(watch(state.params, state.dissipated, *minibatches.seen(state.step, data)))

    def one_save_point(at):
        seen, state, rows = at
        state = jax.lax.while_loop(lambda state: (state.step < untils[seen]) & state.finite, one_step, state)
        row = look(state)
        rows = jax.tree.map(lambda leaf, now: leaf.at[seen].set(now), rows, row)
        return seen + 1, dataclasses.replace(state, finite=state.finite & jnp.isfinite(row.loss)), rows

    row = jax.eval_shape(look, state)
    room = min(len(untils), max(1, ROOM // sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(row))))
    rows = jax.tree.map(lambda leaf: jnp.zeros((room, *leaf.shape), leaf.dtype), row)
    count = jnp.minimum(count, room)
    seen, state, rows = jax.lax.while_loop(
        lambda at: (at[0] < count) & at[1].finite, one_save_point, (jnp.zeros_like(count), state, rows)
    )
    return state, rows, seen
