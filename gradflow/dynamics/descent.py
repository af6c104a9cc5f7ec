"""Discrete training: full-batch gradient descent, and minibatch SGD with and without replacement.

    params <- params - learning_rate * grad loss(params, minibatch)

or the step that an optax optimizer makes of that gradient. Time is learning_rate * step, so that a descent lies over the gradient flow of the same loss: both return a `Trajectory`.
"""

import functools
import math
import textwrap
import time
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray, PyTree

from gradflow.dynamics import progress
from gradflow.dynamics.times import log_steps
from gradflow.dynamics.trajectory import Cost, Trajectory, finite_part, stacked
from gradflow.dynamics.watch import Watch, as_arrays, inner, not_finite, squared_norm
from gradflow.errors import InputError, require

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
    optimizer: Callable | None = None,
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
    optimizer   learning_rate -> optax optimizer, such as `optax.adam`, `functools.partial(optax.adam, b1=0.95)` or one of
                `gradflow.dynamics.optimizers`; None: plain descent. It is called with a traced learning rate, so that
                another rate needs no new compilation; another function object does, so reuse a partial or a lambda
    save_steps  ascending steps at which to save, from 0; default: `log_steps(steps)`
    save, invariants   as in `gradient_flow`; both see the whole data

    `dissipated` is the sum over steps of -grad.step, with the gradient of the minibatch loss: the fall of the loss to first
    order in the step, whatever the optimizer, and learning_rate * |grad|^2 a step in plain descent. Returns a `Trajectory`; where training
    diverges its status says at which step, and it holds what was done. Raises `InputError` for unusable input.
    """
    require(math.isfinite(learning_rate) and learning_rate > 0, f"learning_rate must be positive, got {learning_rate}.")
    save_steps = log_steps(steps) if save_steps is None else np.asarray(save_steps)
    ascending = save_steps[0] == 0 and bool((np.diff(save_steps) > 0).all()) and save_steps[-1] == steps
    require(ascending, f"save_steps must ascend from 0 to steps = {steps}.")
    minibatches = _Minibatches.plan(data, batch_size, sampling, key)
    params, data = as_arrays(params), as_arrays(data)
    rule, memory = _Rule.plan(optimizer, learning_rate, params)
    watch = Watch.begin(loss, save, invariants, params, data)

    began = time.perf_counter()
    observe = eqx.filter_jit(watch)
    training = _Training(
        params, jnp.zeros((), jnp.result_type(*jax.tree.leaves(params))), jnp.zeros((), int), jnp.array(True), memory
    )
    saved = [observe(training.params, training.dissipated, *data)]
    status = "complete"
    with progress.bar(
        int(save_steps[-1]), " steps", f"descent, rate {learning_rate:.3g}", show=show_progress
    ) as reports:
        try:
            for until in save_steps[1:]:
                training = _advance(
                    loss, minibatches, rule, training, data, jnp.asarray(learning_rate), jnp.asarray(until)
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
        method=f"{minibatches.name}{rule.name}, learning_rate = {learning_rate:.3g}",
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
    memory: PyTree


@eqx.filter_jit
def _advance(loss, minibatches, rule, training, data, learning_rate, until) -> _Training:
    """Train up to step `until`, or to the first step whose gradient is not finite."""

    def one_step(training):
        minibatch = minibatches.at(training.step, data)
        gradient = jax.grad(loss)(training.params, *minibatch)
        energy = squared_norm(gradient)
        params, memory, work = rule.step(training.params, training.memory, gradient, learning_rate)
        return _Training(params, training.dissipated + work, training.step + 1, jnp.isfinite(energy), memory)

    return jax.lax.while_loop(lambda training: (training.step < until) & training.finite, one_step, training)


class _Rule(eqx.Module):
    """How a gradient becomes a step: plain descent, or an optax optimizer with what it remembers."""

    optimizer: Callable | None

    @classmethod
    def plan(cls, optimizer: Callable | None, learning_rate: float, params: PyTree) -> tuple["_Rule", PyTree]:
        """The rule and its memory at the start; check that the optimizer takes these parameters."""
        rule = cls(optimizer)
        if optimizer is None:
            return rule, None
        wanted = "optimizer must be a function learning_rate -> optax optimizer, such as optax.adam"
        require(callable(optimizer), f"{wanted}, got {type(optimizer).__name__}.")

        def one_step(rate, params, memory):
            return jax.lax.while_loop(
                lambda _: jnp.array(True), lambda pair: rule.step(*pair, params, rate)[:2], (params, memory)
            )

        try:
            memory = as_arrays(optimizer(learning_rate).init(params))
            jax.eval_shape(one_step, jnp.asarray(learning_rate), params, memory)
        except (AttributeError, TypeError, ValueError) as error:
            why = textwrap.shorten(str(error), 240)
            raise InputError(f"{wanted};{rule.name.removeprefix(',')} fails: {why}") from error
        return rule, memory

    @property
    def name(self) -> str:
        """ ", " and the optimizer's name, with what was bound to it; "" for plain descent."""
        if self.optimizer is None:
            return ""
        if isinstance(self.optimizer, functools.partial):
            bound = [*map(str, self.optimizer.args), *(f"{k}={v}" for k, v in self.optimizer.keywords.items())]
            return f", {self.optimizer.func.__name__}({', '.join(bound)})"
        return f", {getattr(self.optimizer, '__name__', self.optimizer)}"

    def step(self, params: PyTree, memory: PyTree, gradient: PyTree, learning_rate: jax.Array) -> tuple:
        """The next parameters and memory, and the work -grad.step."""
        if self.optimizer is None:
            params = jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient)
            return params, None, learning_rate * squared_norm(gradient)
        updates, memory = self.optimizer(learning_rate).update(gradient, memory, params)
        return optax.apply_updates(params, updates), memory, -inner(gradient, updates)


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
