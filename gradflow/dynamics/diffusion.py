"""SGD in continuous time: the stochastic differential equation whose averages follow those of minibatch training.

With minibatches of b out of n samples drawn with replacement, g_B the gradient of one and Sigma its covariance (Li, Tai, E
2017, arXiv 1511.06251; 2019, arXiv 1811.01558), in Ito's sense,

    dX = -grad L dt + sqrt(h Sigma) dW                       weak error O(h)      order 1
    dX = -grad(L + (h/4) |grad L|^2) dt + sqrt(h Sigma) dW   weak error O(h^2)    order 2

Two identities keep this cheap. The noise is the gradient of a loss with random weights, so that no (P, P) matrix is formed:
sqrt(Sigma) dW = sum_i w_i grad l_i with w_i = (dW_i - mean dW) / sqrt(n b) and n independent dW_i. And what turns the Ito
integral into Stratonovich's, which the solver takes, is a drift -(h/4) grad tr Sigma, so that order 2 becomes

    dX = -grad(L + (h/4) E|g_B|^2) dt + sqrt(h Sigma) o dW,   E|g_B|^2 = |grad L|^2 + tr Sigma.

Without replacement, where b divides n, the noise of an epoch cancels up to O(h^2), and what remains on average is the gradient
flow of the same L + (h/4) E|g_B|^2 (Smith, Dherin, Barrett, De 2021, arXiv 2101.12176), tr Sigma smaller by (n - b) / (n - 1).
"""

import dataclasses
import itertools
from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gradflow.dynamics.minibatches import Minibatches, Sampling, sample_count
from gradflow.dynamics.modified import require_stable
from gradflow.dynamics.training import train
from gradflow.dynamics.trajectory import Trajectory
from gradflow.dynamics.trees import as_arrays, inner, squared_norm
from gradflow.dynamics.watch import require_finite_start, require_real_loss
from gradflow.errors import require


def diffuse(
    loss: Callable,
    params: PyTree,
    *data: PyTree,
    learning_rate: float,
    steps: int,
    batch_size: int,
    key: PRNGKeyArray,
    order: int = 2,
    substeps: int = 2,
    save_steps: np.ndarray | None = None,
    save: Callable | None = None,
    invariants: Callable | None = None,
    show_progress: bool | None = None,
) -> Trajectory:
    """One path of the stochastic differential equation of SGD on `loss(params, *data)`, over the time of `steps` steps.

    loss        the mean over the samples that data[0] holds along its leading axis
    batch_size  samples in a minibatch, drawn with replacement
    order       weak order in the learning rate, 1 or 2
    substeps    steps of the solver (Heun's method of diffrax) for one of SGD
    the rest    as in `descend`

    `dissipated` is the integral of E|g_B|^2 dt. Returns a `Trajectory`. Raises `InputError` for unusable input, among it a
    loss that is no mean over samples, or a learning rate beyond stability.
    """
    require(order in (1, 2), f"order must be 1 or 2, got {order}.")
    require(isinstance(substeps, int) and substeps >= 1, f"substeps must be a positive whole number, got {substeps}.")
    minibatches = Minibatches.plan(data, batch_size, "with_replacement", key)
    params, data = as_arrays(params), as_arrays(data)
    require_real_loss(loss, params, data)
    require_mean_over_samples(loss, params, data)
    require_stable(loss, params, data, learning_rate)
    rule = Diffusion(loss, batch_size, order, substeps)
    run = train(
        rule, key, loss, params, data, minibatches=Minibatches.plan(data, None, "all", None), learning_rate=learning_rate,
        steps=steps, save_steps=save_steps, save=save, invariants=invariants, checkpoint=None, show_progress=show_progress,
        name=f"diffusion of order {order} of {minibatches.name}",
    )  # fmt: skip
    taken = substeps * run.cost.accepted
    return dataclasses.replace(run, cost=dataclasses.replace(run.cost, evaluations=2 * taken, accepted=taken))


class MeanSGD(eqx.Module):
    """The flow of L + (h/4) E|g_B|^2, for `gradient_flow(field=...)`: where SGD without replacement goes on average, by epochs.

    data[0] holds the n samples along the leading axis of its arrays; the loss is their mean, and batch_size divides n.
    """

    loss: Callable
    learning_rate: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    batch_size: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        require(self.learning_rate >= 0, f"learning_rate must not be negative, got {self.learning_rate}.")
        require(self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}.")

    def __call__(self, params: PyTree, *data: PyTree) -> tuple[PyTree, Float[Array, ""]]:
        def energy(p):
            gradient, noise = minibatch_moments(self.loss, self.batch_size, "without_replacement", p, *data)
            return self.loss(p, *data) + self.learning_rate / 4 * (gradient + noise)

        velocity = jax.tree.map(jnp.negative, jax.grad(energy)(params))
        return velocity, -inner(jax.grad(self.loss)(params, *data), velocity)


def minibatch_moments(
    loss: Callable, batch_size: float | Array, sampling: Sampling, params: PyTree, *data: PyTree
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """|grad L|^2 and tr Sigma: the squared mean and the total variance of the gradient of a minibatch."""
    of_sample = jax.vmap(jax.grad(_loss_of_sample(loss, *data)), in_axes=(None, 0))(params, data[0])
    mean = jax.tree.map(lambda leaf: leaf.mean(axis=0), of_sample)
    n = sample_count(data)
    variance = squared_norm(jax.tree.map(lambda leaf, m: leaf - m, of_sample, mean)) / n
    shrink = 1 if sampling == "with_replacement" else (n - batch_size) / max(n - 1, 1)
    return squared_norm(mean), variance * shrink / batch_size


class Diffusion(eqx.Module):
    """One learning rate's worth of the stochastic differential equation of SGD with replacement, for `train`.

    The memory between steps is a random key. Each step is `substeps` steps of Heun's method, whose limit is Stratonovich's.
    """

    loss: Callable
    batch_size: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    order: int = eqx.field(static=True)
    substeps: int = eqx.field(static=True)

    def __call__(
        self, params: PyTree, key: PRNGKeyArray, learning_rate: Float[Array, ""], *data: PyTree
    ) -> tuple[PyTree, PRNGKeyArray, Float[Array, ""]]:
        path, key = self.brownian(key, sample_count(data), jnp.result_type(*jax.tree.leaves(params)))
        normals = jax.ShapeDtypeStruct(path.shape.shape, path.shape.dtype)

        def drift(t, y, data):
            return self.drift(y, learning_rate, *data)

        def noise(t, y, data):
            return lx.FunctionLinearOperator(lambda dW: self.noise(y, learning_rate, dW, *data), normals)

        # time runs from 0 to 1 within the step; drift and noise carry the learning rate
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(noise, path))
        solver, moved = diffrax.Heun(), params
        times = [k / self.substeps for k in range(self.substeps + 1)]
        state = solver.init(terms, *times[:2], moved, data)
        for t0, t1 in itertools.pairwise(times):
            moved, _, _, state, _ = solver.step(terms, t0, t1, moved, data, state, made_jump=False)
        gradient, spread = minibatch_moments(self.loss, self.batch_size, "with_replacement", params, *data)
        return moved, key, learning_rate * (gradient + spread)

    def brownian(self, key: PRNGKeyArray, n: int, dtype=float) -> tuple[diffrax.UnsafeBrownianPath, PRNGKeyArray]:
        """The Brownian motion of a step, in n dimensions over the time from 0 to 1, and the key of the next step."""
        key, key_path = jax.random.split(key)
        return diffrax.UnsafeBrownianPath(jax.ShapeDtypeStruct((n,), dtype), key_path), key

    def drift(self, params: PyTree, learning_rate: Float[Array, ""], *data: PyTree) -> PyTree:
        """Stratonovich's drift, times the learning rate."""

        def energy(p):
            gradient, noise = minibatch_moments(self.loss, self.batch_size, "with_replacement", p, *data)
            return self.loss(p, *data) + learning_rate / 4 * (noise + (gradient if self.order == 2 else 0))

        return jax.tree.map(lambda g: -learning_rate * g, jax.grad(energy)(params))

    def noise(self, params: PyTree, learning_rate: Float[Array, ""], dW: Float[Array, " n"], *data: PyTree) -> PyTree:
        """learning_rate sqrt(Sigma) dW, of covariance learning_rate^2 Sigma for standard normal dW."""
        weight = (dW - dW.mean()) / jnp.sqrt(dW.size * self.batch_size)

        def weighted(p):
            return weight @ jax.vmap(_loss_of_sample(self.loss, *data), in_axes=(None, 0))(p, data[0])

        return jax.tree.map(lambda g: learning_rate * g, jax.grad(weighted)(params))


def require_mean_over_samples(loss: Callable, params: PyTree, data: tuple) -> None:
    """Refuse a loss that is not the mean of the losses of batches of one."""
    whole, each = loss(params, *data), jax.vmap(_loss_of_sample(loss, *data), in_axes=(None, 0))(params, data[0])
    require_finite_start(whole, params)
    mean, rounding = each.mean(), 1e3 * jnp.finfo(each.dtype).eps * jnp.abs(each).max()
    require(
        abs(mean - whole) <= rounding,
        f"SGD needs a loss that is the mean over samples: this one is {whole:.6g}, and its samples' mean {mean:.6g}.",
    )


def _loss_of_sample(loss: Callable, samples: PyTree, *others: PyTree) -> Callable:
    """(params, sample) -> its loss: that of a batch of one."""
    return lambda params, sample: loss(params, jax.tree.map(lambda leaf: leaf[None], sample), *others)
