"""Momentum, RMSProp, Adam and sign descent in continuous time: flows of the parameters and of the moments an optimizer keeps.

With time t = learning_rate * step and decays b1 = exp(-a learning_rate), b2 = exp(-b learning_rate), each optimizer of
optax tends to a flow as the learning rate falls at fixed a and b (g = grad loss; squares and roots are elementwise):

    HeavyBall   theta' = -m                                       (1/a) theta'' + theta' = -grad loss, from rest
    RMSProp     theta' = -g / (sqrt(v) + eps)
    Adam        theta' = -(m/c1) / (sqrt(v/c2) + eps)             at t = 0: m/c1 = g, v/c2 = g^2
    Sign        theta' = -sign(g)

    m' = a (g - m),   v' = b (g^2 - v),   c1' = a (1 - c1),   c2' = b (1 - c2),   m(0) = c1(0) = c2(0) = 0

The bias corrections c1 = 1 - e^{-at}, c2 = 1 - e^{-bt} are variables, so that the flows are autonomous. An exponential decay
stays below 1 at any rate and makes them equal optax's 1 - b1^step at every step; b1 = 1 - a learning_rate has the same
limit. The flow of a run with given b1 has a = -log(b1) / learning_rate.

Heavy ball: Polyak 1964. Kovachki and Stuart (2021), JMLR 22(17): at fixed b1 the limit is plain gradient flow, here that of
a -> infinity. Adam: Barakat and Bianchi (2021), arXiv 1810.02263, the non-autonomous form of the above. RMSProp, Adam and
their limit sign descent (a, b -> infinity): Ma, Wu, E (2020), arXiv 2009.06125; Adam: Kingma and Ba, arXiv 1412.6980.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from gradflow.dynamics.flow import gradient_flow
from gradflow.dynamics.trajectory import Trajectory
from gradflow.dynamics.trees import as_arrays, inner, squared_norm
from gradflow.dynamics.watch import OfParams, require_real_loss
from gradflow.errors import require


class State(NamedTuple):
    """Parameters, the moments and the bias corrections that an optimizer keeps; None where it keeps none."""

    params: PyTree
    m: PyTree = None
    v: PyTree = None
    c1: jax.Array | None = None
    c2: jax.Array | None = None


class HeavyBall(eqx.Module):
    """Momentum that forgets at rate `a` (1/time): an oscillator where a is below 4 times the curvature.

    The energy loss + |m|^2 / (2 a) falls at the rate |m|^2; the loss itself may rise.
    """

    a: float

    def __check_init__(self):
        _require_positive(self)

    def __call__(self, learning_rate: float) -> optax.GradientTransformation:
        """optax's trace is m / (1 - b1), and its rate learning_rate * (1 - b1)."""
        forgotten = -jnp.expm1(-self.a * learning_rate)
        return optax.sgd(learning_rate * forgotten, momentum=1 - forgotten)

    def begin(self, params: PyTree) -> State:
        return State(params, m=_zeros(params))

    def velocity(self, state: State, gradient: PyTree) -> State:
        return State(jax.tree.map(jnp.negative, state.m), m=_relaxation(self.a, state.m, gradient))


class RMSProp(eqx.Module):
    """Second moment that forgets at rate `b` (1/time), from v = `initial_scale` (squared gradient) at the start.

    From optax's own default, v = 0, the flow would start as sign(g) / sqrt(b t), and descent would approach it as the square
    root of the learning rate only. `eps` (gradient) stands outside the root, as in PyTorch; optax's default is inside.
    """

    b: float
    eps: float = 1e-8
    initial_scale: float = 1.0

    def __check_init__(self):
        _require_positive(self)

    def __call__(self, learning_rate: float) -> optax.GradientTransformation:
        decay = jnp.exp(-self.b * learning_rate)
        return optax.rmsprop(learning_rate, decay, self.eps, self.initial_scale, eps_in_sqrt=False)

    def begin(self, params: PyTree) -> State:
        return State(params, v=jax.tree.map(lambda p: jnp.full_like(p, self.initial_scale), params))

    def velocity(self, state: State, gradient: PyTree) -> State:
        velocity = jax.tree.map(lambda g, v: -g / (_root(v) + self.eps), gradient, state.v)
        return State(velocity, v=_relaxation(self.b, state.v, _squared(gradient)))


class Adam(eqx.Module):
    """Moments that forget at rates `a` and `b` (1/time), bias corrected; `eps` (gradient) stands outside the root.

    It begins as sign descent (with speed |g| / (|g| + eps)): descent is within first order of the flow once its learning
    rate is well below the time at which a component of the gradient first crosses zero.
    """

    a: float
    b: float
    eps: float = 1e-8

    def __check_init__(self):
        _require_positive(self)

    def __call__(self, learning_rate: float) -> optax.GradientTransformation:
        return optax.adam(learning_rate, jnp.exp(-self.a * learning_rate), jnp.exp(-self.b * learning_rate), self.eps)

    def begin(self, params: PyTree) -> State:
        zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
        return State(params, m=_zeros(params), v=_zeros(params), c1=zero, c2=zero)

    def velocity(self, state: State, gradient: PyTree) -> State:
        def of_leaf(g, m, v):
            return -_corrected(m, state.c1, g) / (_root(_corrected(v, state.c2, g**2)) + self.eps)

        return State(
            jax.tree.map(of_leaf, gradient, state.m, state.v),
            m=_relaxation(self.a, state.m, gradient),
            v=_relaxation(self.b, state.v, _squared(gradient)),
            c1=self.a * (1 - state.c1),
            c2=self.b * (1 - state.c2),
        )


class Sign(eqx.Module):
    """Every parameter moves at speed 1, against the sign of its gradient; it has no moments.

    The flow is smooth only until a component of the gradient crosses zero. A crossing costs the integrator a few rejected
    steps. Where the velocity on both sides points back to zero, the flow slides along it and no integrator can follow (it
    runs out of steps or its energy residual grows); descent rattles within a learning rate of the sliding flow.
    """

    def __call__(self, learning_rate: float) -> optax.GradientTransformation:
        return optax.sign_sgd(learning_rate)

    def begin(self, params: PyTree) -> State:
        return State(params)

    def velocity(self, state: State, gradient: PyTree) -> State:
        return State(jax.tree.map(lambda g: -jnp.sign(g), gradient))


Optimizer = HeavyBall | RMSProp | Adam | Sign


def optimizer_flow(
    loss: Callable,
    params: PyTree,
    *data: PyTree,
    optimizer: Optimizer,
    times: np.ndarray,
    rtol: float = 1e-6,
    atol: float | None = None,
    save: Callable | None = None,
    invariants: Callable | None = None,
    **options,
) -> Trajectory:
    """Follow the continuous-time limit of an optimizer on `loss(params, *data)` from `params` through `times`.

    optimizer   HeavyBall(a), RMSProp(b), Adam(a, b) or Sign(), which `descend(..., optimizer=)` takes as well
    rtol, atol  as in `gradient_flow`; v is a squared gradient, so atol is by default rtol / 1000 times the mean square of
                the gradient at the start, where that is below 1
    save, invariants   of (params, *data), as in `gradient_flow`; `states` are the parameters by default
    options     further ones of `gradient_flow`

    Returns a `Trajectory` whose `final` is the whole `State`, with the moments. Its loss may rise again where momentum carries
    it uphill. Raises `InputError` for an optimizer without a known flow.
    """
    known = get_args(Optimizer)
    require(
        optimizer not in known, f"Give {getattr(optimizer, '__name__', '')} its constants, such as HeavyBall(a=10.0)."
    )
    require(
        isinstance(optimizer, known),
        f"No flow is known of {getattr(optimizer, '__name__', repr(optimizer))}; "
        f"known are {', '.join(each.__name__ for each in known)} of gradflow.dynamics.optimizers.",
    )
    params, data = as_arrays(params), as_arrays(data)
    require_real_loss(loss, params, data)
    if atol is None:
        atol = rtol / 1000 * min(1.0, float(_mean_squared_gradient(loss, params, data)) or 1.0)
    constants = jax.tree.map(jnp.asarray, optimizer)  # traced: other constants need no new compilation
    flow = gradient_flow(
        OfParams(loss), constants.begin(params), *data, times=times, rtol=rtol, atol=atol,
        field=_Field(loss, constants), save=OfParams(save or _params),
        invariants=OfParams(invariants) if invariants else None, **options,
    )  # fmt: skip
    return dataclasses.replace(flow, method=f"{optimizer}, {flow.method}")


class _Field(eqx.Module):
    """The velocity of parameters and moments, and the rate at which the loss falls."""

    loss: Callable
    optimizer: Optimizer

    def __call__(self, state, *data):
        gradient = jax.grad(self.loss)(state.params, *data)
        velocity = self.optimizer.velocity(state, gradient)
        return velocity, -inner(gradient, velocity.params)


def _params(params, *data):
    return params


@eqx.filter_jit
def _mean_squared_gradient(loss, params, data):
    gradient = jax.grad(loss)(params, *data)
    return squared_norm(gradient) / sum(leaf.size for leaf in jax.tree.leaves(gradient))


def _require_positive(optimizer: Optimizer) -> None:
    """Refuse constants with which the flow has no limit, or divides by zero where a gradient vanishes."""
    for name, value in vars(optimizer).items():
        require(
            math.isfinite(value) and value > 0,
            f"{name} of {type(optimizer).__name__} must be positive and finite, got {value}.",
        )


def _zeros(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.zeros_like, tree)


def _squared(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.square, tree)


def _relaxation(rate: jax.Array, moment: PyTree, target: PyTree) -> PyTree:
    """The velocity of a moment that forgets at a rate (1/time) what it averages."""
    return jax.tree.map(lambda m, g: rate * (g - m), moment, target)


def _corrected(moment: jax.Array, correction: jax.Array, limit: jax.Array) -> jax.Array:
    """moment / correction, and its limit at the start, where both vanish."""
    begun = correction > 0
    return jnp.where(begun, moment / jnp.where(begun, correction, 1), limit)


def _root(v: jax.Array) -> jax.Array:
    """Square root, 0 with slope 0 where v is not positive: a gradient that is zero, or an integrator's stage near it."""
    positive = v > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, v, 1)), 0)
