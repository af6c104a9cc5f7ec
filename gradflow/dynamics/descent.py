"""Discrete training: full-batch gradient descent, and minibatch SGD with and without replacement.

    params <- params - learning_rate * grad loss(params, minibatch)

Time is learning_rate * step, so that a descent lies over the gradient flow of the same loss: both return a `Trajectory`.
"""

import math
import time
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from gradflow.dynamics import progress
from gradflow.dynamics.times import log_steps
from gradflow.dynamics.trajectory import Cost, Trajectory, finite_part, stacked
from gradflow.dynamics.watch import Watch, as_arrays, not_finite, squared_norm
from gradflow.errors import require

Sampling = Literal["with_replacement", "without_replacement"]


def descend(
    loss: Callable,
    params: PyTree,
    *data: PyTree,
    learning_rate: float,
    steps: int,
    batch_size: int | None = None,
    sampling: Sampling = "without_replacement",
    key: PRNGKeyArray | None = None,
    step: Callable | None = None,
    save_steps: np.ndarray | None = None,
    save: Callable | None = None,
    invariants: Callable | None = None,
    show_progress: bool | None = None,
) -> Trajectory:
    """Train `params` on `loss(params, *data)` for `steps` steps of size `learning_rate`.

    batch_size  samples in a step, out of the first axis of every array in data[0]; None: all of them, plain gradient
                descent. SGD needs a `key`
    sampling    without_replacement: a fresh permutation each epoch (an incomplete last batch is left out);
                with_replacement: independent draws each step
    step        `step(state, learning_rate, *minibatch) -> (state, squared gradient norm of the weights)`, for a descent
                that is written in other variables than the weights. Default: (params - learning_rate grad, |grad|^2)
    save_steps  ascending steps at which to save, from 0; default: `log_steps(steps)`
    save, invariants   as in `gradient_flow`; both see the whole data

    `dissipated` is learning_rate * sum over steps of |grad|^2 of the minibatch loss. Returns a `Trajectory`; where training
    diverges its status says at which step, and it holds what was done. Raises `InputError` for unusable input.
    """
    require(math.isfinite(learning_rate) and learning_rate > 0, f"learning_rate must be positive, got {learning_rate}.")
    save_steps = log_steps(steps) if save_steps is None else np.asarray(save_steps)
    ascending = save_steps[0] == 0 and bool((np.diff(save_steps) > 0).all()) and save_steps[-1] == steps
    require(ascending, f"save_steps must ascend from 0 to steps = {steps}.")
    minibatches = _Minibatches.plan(data, batch_size, sampling, key)
    params, data = as_arrays(params), as_arrays(data)
    watch = Watch.begin(loss, save, invariants, params, data)
    one_step = _GradientStep(loss) if step is None else step

    began = time.perf_counter()
    observe = eqx.filter_jit(watch)
    training = _Training(
        params, jnp.zeros((), jnp.result_type(*jax.tree.leaves(params))), jnp.zeros((), int), jnp.array(True)
    )
    saved = [observe(training.params, training.dissipated, *data)]
    status = "complete"
    with progress.bar(
        int(save_steps[-1]), " steps", f"descent, rate {learning_rate:.3g}", show=show_progress
    ) as reports:
        try:
            for until in save_steps[1:]:
                training = _advance(
                    one_step, minibatches, training, data, jnp.asarray(learning_rate), jnp.asarray(until)
                )
                seen = observe(training.params, training.dissipated, *data)
                if not (bool(training.finite) and math.isfinite(seen.loss)):
                    step, names = int(training.step), not_finite(training.params) or "loss or gradient"
                    status = (
                        f"diverged at step {step} (t = {learning_rate * step:.6g}): {names}; "
                        f"try a smaller learning_rate than {learning_rate:.3g}"
                    )
                    break
                saved.append(seen)
                progress.report(
                    reports, int(until) - reports.n, time=learning_rate * until, steps=int(until), loss=saved[-1].loss
                )
        except KeyboardInterrupt:
            status = "interrupted"
    saved = finite_part(stacked([jax.tree.map(lambda leaf: leaf[None], each) for each in saved]))
    return Trajectory(
        times=learning_rate * save_steps[: len(saved.loss)],
        states=saved.state,
        loss=saved.loss,
        dissipated=saved.dissipated,
        drift=saved.drift,
        final=training.params,
        method=f"{minibatches.name}, learning_rate = {learning_rate:.3g}",
        cost=Cost(
            evaluations=int(training.step), accepted=int(training.step), rejected=0, seconds=time.perf_counter() - began
        ),
        status=status,
    )


class _Training(eqx.Module):
    """Where training is: the state between two steps."""

    params: PyTree
    dissipated: jax.Array
    step: jax.Array
    finite: jax.Array


class _GradientStep(eqx.Module):
    """params - learning_rate * grad loss, and |grad loss|^2."""

    loss: Callable

    def __call__(self, params, learning_rate, *data):
        gradient = jax.grad(self.loss)(params, *data)
        return jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient), squared_norm(gradient)


@eqx.filter_jit
def _advance(one_step, minibatches, training, data, learning_rate, until) -> _Training:
    """Train up to step `until`, or to the first step whose gradient is not finite."""

    def advanced(training):
        params, energy = one_step(training.params, learning_rate, *minibatches.at(training.step, data))
        return _Training(params, training.dissipated + learning_rate * energy, training.step + 1, jnp.isfinite(energy))

    return jax.lax.while_loop(lambda training: (training.step < until) & training.finite, advanced, training)


class _Minibatches(eqx.Module):
    """Which samples each step sees: a pure function of the step and a key."""

    size: int = eqx.field(static=True)
    of: int = eqx.field(static=True)
    sampling: str = eqx.field(static=True)
    key: PRNGKeyArray | None

    @classmethod
    def plan(cls, data: tuple, size: int | None, sampling: str, key: PRNGKeyArray | None) -> "_Minibatches":
        """Check that minibatches of this size can be had."""
        if size is None:
            return cls(0, 0, "all", None)
        require(bool(data), "Minibatches need data: loss(params, batch).")
        of = len(jax.tree.leaves(data[0])[0])
        require(1 <= size <= of, f"batch_size must be between 1 and the {of} samples, got {size}.")
        require(
            sampling in Sampling.__args__, f"Unknown sampling {sampling!r}; known are {', '.join(Sampling.__args__)}."
        )
        require(key is not None, "SGD draws minibatches: give it a key, such as jax.random.key(0).")
        return cls(size, of, sampling, key)

    @property
    def name(self) -> str:
        return "gradient descent" if self.sampling == "all" else f"SGD, batch_size = {self.size}, {self.sampling}"

    def at(self, step: jax.Array, data: tuple) -> tuple:
        """The data of one step."""
        if self.sampling == "all":
            return data
        if self.sampling == "with_replacement":
            chosen = jax.random.randint(jax.random.fold_in(self.key, step), (self.size,), 0, self.of)
        else:
            an_epoch = self.of // self.size
            order = jax.random.permutation(jax.random.fold_in(self.key, step // an_epoch), self.of)
            chosen = jax.lax.dynamic_slice_in_dim(order, (step % an_epoch) * self.size, self.size)
        return (jax.tree.map(lambda leaf: leaf[chosen], data[0]), *data[1:])
