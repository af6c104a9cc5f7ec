"""Error certificate: how far gradient descent is from gradient flow, without running it, and which learning rate suffices.

Next to the flow dy/dt = f(y) runs the leading term eps of what descent of learning rate h adds to it,

    y_descent(t) - y_flow(t) = h eps(t) + O(h^2),    d eps/dt = f' eps + f2,    eps(0) = 0,

with f2 of the modified equation (`dynamics.modified`): in the weights d eps/dt = -H eps - (1/2) H g. It costs one
Hessian-vector product an evaluation. A rigorous bound, far larger: Elkabetz and Cohen (2021), arXiv 2107.06608.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gradflow.dynamics.flow import GradientField, gradient_flow
from gradflow.dynamics.modified import require_derivatives, require_pair
from gradflow.dynamics.sharpness import hessian_spectrum, largest_eigenvalue
from gradflow.dynamics.times import linear_times
from gradflow.dynamics.trajectory import Trajectory
from gradflow.dynamics.trees import along, as_arrays, plus, squared_norm
from gradflow.dynamics.watch import OfParams, require_real_loss
from gradflow.errors import require

# learning_rate * sharpness up to which the leading term is trusted: at 0.1 it is right within 5 % on logistic losses
TRUSTED = 0.1


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A gradient flow with what descent adds to it, per unit of learning rate.

    flow       the `Trajectory` of the flow; its states are what `save` keeps
    error      d states / d learning_rate along descent, at learning rate 0: the pytree of `flow.states`
    distance   (T,) |eps|: distance of the whole state from the flow's, per unit of learning rate
    sharpness  (T,) largest eigenvalue, in size, of the field's Jacobian (of the Hessian, in the weights)
    tolerance  the distance that was allowed
    """

    flow: Trajectory
    error: PyTree
    distance: Float[np.ndarray, " T"]
    sharpness: Float[np.ndarray, " T"]
    tolerance: float

    @property
    def rate_for_accuracy(self) -> float:
        """The learning rate at which the leading term reaches the tolerance somewhere along the flow; inf where it is 0."""
        largest = float(self.distance.max())
        return np.inf if largest == 0 else self.tolerance / largest

    @property
    def trusted_rate(self) -> float:
        """The learning rate up to which the leading term tells the distance within a few percent."""
        sharpest = float(self.sharpness.max())
        return np.inf if sharpest == 0 else TRUSTED / sharpest

    @property
    def learning_rate(self) -> float:
        """h*: the largest learning rate whose descent stays within the tolerance, to the leading term's few percent."""
        return min(self.rate_for_accuracy, self.trusted_rate)

    def predicted_distance(self, learning_rate: float) -> Float[np.ndarray, " T"]:
        """Distance of descent from the flow at each time, to first order in the learning rate."""
        return learning_rate * self.distance

    def corrected(self, states: PyTree, learning_rate: float) -> PyTree:
        """The flow's states extrapolated from descent's at the same times: states - learning_rate * error, O(h^2) off."""
        return jax.tree.map(lambda seen, error: np.asarray(seen) - learning_rate * error, states, self.error)

    def __str__(self) -> str:
        bound = "the tolerance" if self.rate_for_accuracy <= self.trusted_rate else "trust in the leading term"
        return (
            f"descent stays within {self.tolerance:.3g} of the flow up to t = {self.flow.times[-1]:.6g} "
            f"for learning rates up to {self.learning_rate:.3g} ({bound} binds; "
            f"rate x sharpness <= {self.learning_rate * float(self.sharpness.max()):.3g})"
            + ("" if self.flow.complete else f"; the flow {self.flow.status}")
        )


def certify(
    loss: Callable,
    params: PyTree,
    *data: PyTree,
    t_end: float | None = None,
    tolerance: float,
    times: np.ndarray | None = None,
    field: Callable | None = None,
    second_order: Callable | None = None,
    save: Callable | None = None,
    invariants: Callable | None = None,
    **options: Any,
) -> Certificate:
    """How far gradient descent on `loss(params, *data)` departs from gradient flow until `t_end`.

    tolerance     the largest distance |params of descent - params of flow| to be allowed at any time until then
    times         (T,) where to look, instead of 51 equally spaced times up to `t_end`
    field, second_order   as in `modified_flow`, for a descent written in other variables than the weights
    save          `save(state, *data)`: what `flow.states` and `error` are about; default: the whole state
    invariants    as in `gradient_flow`
    options       as in `gradient_flow`

    Raises `InputError` for input that cannot be used, among it a loss that cannot be differentiated twice.
    """
    require(tolerance > 0, f"tolerance must be a positive distance, got {tolerance}.")
    require((t_end is None) != (times is None), "Say either t_end or times.")
    require_pair(field, second_order)
    times = linear_times(t_end, 51) if times is None else times
    params, data = as_arrays(params), as_arrays(data)
    require_real_loss(loss, params, data)
    with_error = _WithErrorField(field or GradientField(loss), second_order)
    start = _WithError(params, jax.tree.map(jnp.zeros_like, params))
    require_derivatives(with_error, start, data, 2)
    run = gradient_flow(
        OfParams(loss), start, *data, times=times, field=with_error, save=_SaveBoth(loss, save, field),
        invariants=OfParams(invariants) if invariants else None, **options,
    )  # fmt: skip
    states, error, distance, sharp = run.states
    flow = dataclasses.replace(run, states=states, final=run.final.params)
    return Certificate(flow, error, distance, sharp, tolerance)


class _WithError(eqx.Module):
    """A state of the flow (its `params`), and eps."""

    params: PyTree
    error: PyTree


class _WithErrorField(eqx.Module):
    """Velocity of the pair. Since f2 = q - (1/2) f'f, eps moves with f' (eps - f/2) + q: one derivative."""

    field: Callable
    second_order: Callable | None

    def __call__(self, both: _WithError, *data: PyTree) -> tuple[_WithError, Float[Array, ""]]:
        velocity, energy_rate = self.field(both.params, *data)
        rate = along(lambda y: self.field(y, *data)[0], both.params, plus(both.error, -0.5, velocity))
        if self.second_order is not None:
            rate = plus(rate, 1, self.second_order(both.params, *data))
        return _WithError(velocity, rate), energy_rate


class _SaveBoth(eqx.Module):
    """What is kept of the pair: what `save` sees and how descent changes it, |eps|, and the sharpness."""

    loss: Callable
    save: Callable | None
    field: Callable | None

    def __call__(self, both, *data):
        seen, error = both.params, both.error
        if self.save is not None:
            seen, error = jax.jvp(lambda y: self.save(y, *data), (seen,), (error,))
        distance = jnp.sqrt(squared_norm(both.error))
        if self.field is not None:
            return seen, error, distance, largest_eigenvalue(self.field, both.params, *data)
        ends = hessian_spectrum(self.loss, both.params, *data, iterations=16).values
        return seen, error, distance, jnp.maximum(-ends[0], ends[-1])
