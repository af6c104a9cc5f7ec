"""Discrete training: full-batch gradient descent, minibatch SGD with and without replacement, fresh data, any optax optimizer.

    params <- params - learning_rate * grad loss(params, minibatch)

Time is learning_rate * step, so that a descent lies over the gradient flow of the same loss: both return a `Trajectory`.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray, PyTree

from gradflow.dynamics.minibatches import Minibatches, Sampling, Stream
from gradflow.dynamics.training import train
from gradflow.dynamics.trajectory import Trajectory
from gradflow.dynamics.trees import as_arrays, inner, squared_norm
from gradflow.dynamics.watch import require_real_loss
from gradflow.errors import InputError, first_line, require


def descend(
    loss: Callable,
    params: PyTree,
    *data: PyTree,
    learning_rate: float,
    steps: int,
    batch_size: int | None = None,
    sampling: Sampling = "without_replacement",
    key: PRNGKeyArray | None = None,
    stream: Callable | None = None,
    held_out: Callable | None = None,
    optimizer: Callable | None = None,
    step: Callable | None = None,
    save_steps: np.ndarray | None = None,
    save: Callable | None = None,
    invariants: Callable | None = None,
    checkpoint: Path | None = None,
    show_progress: bool | None = None,
) -> Trajectory:
    """Train `params` on `loss(params, *data)` for `steps` steps of size `learning_rate`.

    batch_size  samples in a step, out of the first axis of every array in data[0]; None: all of them, plain gradient
                descent. SGD needs a `key`
    sampling    without_replacement: a fresh permutation each epoch (an incomplete last batch is left out);
                with_replacement: independent draws each step
    stream      `stream(step) -> (batch, ...)`, fresh arguments of the loss for each step, made inside the compiled loop
    held_out    the same for each save point, in place of `data`: what the loss is measured on, and what `save` and
                `invariants` see
    optimizer   learning_rate -> optax optimizer, such as `optax.adam`, `functools.partial(optax.adam, b1=0.95)` or one of
                `gradflow.dynamics.optimizers`; None: plain descent. It is called with a traced learning rate, so that
                another rate needs no new compilation; another function object does, so reuse a partial or a lambda
    step        `step(state, learning_rate, *minibatch) -> (state, squared gradient norm of the weights)`, for plain descent
                that is written in other variables than the weights, such as `models.coupled.step`
    save_steps  ascending steps at which to save, from 0; default: `log_steps(steps)`
    save, invariants   as in `gradient_flow`; both see the whole data
    checkpoint  a file (.npz) that holds the run at its latest save point, written about every half minute, and when the run ends or is
                interrupted. If it is there, the run goes on from it, to the numbers it would have had

    `dissipated` is the sum over steps of -grad . step, with the gradient of the minibatch loss: the fall of the loss to
    first order, learning_rate * |grad|^2 a step in plain descent. Returns a `Trajectory`; where training diverges its status
    says at which step, and it holds what was done. Raises `InputError` for unusable input.
    """
    require(
        optimizer is None or step is None, "Say either optimizer or step: a step in other variables is plain descent."
    )
    require(stream is None or batch_size is None, "Say either batch_size or stream: a stream makes its own batches.")
    require(held_out is None or not data, "Say either data or held_out: the loss is measured on one of them.")
    require(held_out is None or stream is not None, "Training needs data: say stream, too, where held_out is said.")
    require(
        stream is None or held_out is not None or bool(data), "Say data or held_out, too: what the loss is measured on."
    )
    minibatches = Stream(stream, held_out) if stream else Minibatches.plan(data, batch_size, sampling, key)
    params, data = as_arrays(params), as_arrays(data)
    require_real_loss(loss, params, minibatches.seen(jnp.zeros((), int), data))
    if optimizer is None:
        rule, memory, name = _Plain(step or _GradientStep(loss)), None, minibatches.name
    else:
        rule, memory = _Optax(loss, optimizer), _start(optimizer, learning_rate, params)
        name = f"{minibatches.name}, {optimizer_name(optimizer)}"
    return train(
        rule, memory, loss, params, data, minibatches=minibatches, learning_rate=learning_rate, steps=steps,
        save_steps=save_steps, save=save, invariants=invariants, checkpoint=checkpoint, show_progress=show_progress,
        name=name,
    )  # fmt: skip


class _GradientStep(eqx.Module):
    """params - learning_rate * grad loss, and |grad loss|^2."""

    loss: Callable

    def __call__(self, params, learning_rate, *data):
        gradient = jax.grad(self.loss)(params, *data)
        moved = jax.tree.map(lambda p, g: (p - learning_rate * g).astype(p.dtype), params, gradient)
        return moved, squared_norm(gradient)


class _Plain(eqx.Module):
    """A step of plain descent as a rule of `train`, which remembers nothing."""

    step: Callable

    def __call__(self, params, memory, learning_rate, *data):
        params, squared_gradient = self.step(params, learning_rate, *data)
        return params, None, learning_rate * squared_gradient


class _Optax(eqx.Module):
    """A step of an optax optimizer as a rule of `train`, whose memory is the optimizer's state."""

    loss: Callable
    optimizer: Callable

    def __call__(self, params, memory, learning_rate, *data):
        gradient = jax.grad(self.loss)(params, *data)
        updates, memory = self.optimizer(learning_rate).update(gradient, memory, params)
        return optax.apply_updates(params, updates), memory, -inner(gradient, updates)


def _start(optimizer: Callable, learning_rate: float, params: PyTree) -> PyTree:
    """The optimizer's state at the start; checks that it takes these parameters and gives back what it took."""
    wanted = "optimizer must be a function learning_rate -> optax optimizer, such as optax.adam"
    require(callable(optimizer), f"{wanted}, got {type(optimizer).__name__}.")

    def update(rate, params, memory):
        updates, memory = optimizer(rate).update(params, memory, params)
        return optax.apply_updates(params, updates), memory

    try:
        memory = as_arrays(optimizer(learning_rate).init(params))
        after = jax.eval_shape(update, jnp.asarray(learning_rate), params, memory)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{wanted}; {optimizer_name(optimizer)} fails: {first_line(error)}") from error
    same = jax.eval_shape(lambda *pair: pair, params, memory) == after
    require(same, f"{wanted}; {optimizer_name(optimizer)} does not keep the shapes and types of its state.")
    return memory


def optimizer_name(optimizer: Callable) -> str:
    """An optimizer's name, with what was bound to it."""
    if isinstance(optimizer, functools.partial):
        bound = [*map(str, optimizer.args), *(f"{k}={v}" for k, v in optimizer.keywords.items())]
        return f"{optimizer.func.__name__}({', '.join(bound)})"
    return getattr(optimizer, "__name__", str(optimizer))
