"""Modified equations: the flows that gradient descent follows to second and third order in the learning rate.

A step of descent maps a state y to y + h f(y) + h^2 q(y), where f is the velocity of gradient flow, and q is 0 in the
weights themselves (in other variables it is not, see `models.coupled.second_order`). Its modified equation is the flow

    dy/dt = f + h f2 + h^2 f3,    f2 = q - (1/2) f'f,    f3 = -(1/2) (f2'f + f'f2) - (1/6) (f'f)'f

whose solution at time h is that step up to O(h^4), found by comparing powers of h (Hairer, Lubich, Wanner 2006, IX.1).
Leaving out f3 gives order 2, leaving out f2 as well gives the gradient flow: descent is O(h^order) away. In the weights
f2 = -(1/2) H g, so that order 2 is the gradient flow of L + (h/4) |g|^2 (Barrett and Dherin 2021, arXiv 2009.11162), and

    f3 = -(1/3) H^2 g - (1/12) D^3L(g, g)

which is no gradient. A prime is a derivative, f'v that along v: forward over reverse mode, and no Hessian is formed.
"""

import dataclasses
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gradflow.dynamics.flow import GradientField, gradient_flow
from gradflow.dynamics.sharpness import largest_eigenvalue, sharpness
from gradflow.dynamics.trajectory import Trajectory
from gradflow.dynamics.trees import along, as_arrays, inner, plus
from gradflow.errors import InputError, first_line, require


def modified_flow(
    loss: Callable,
    params: PyTree,
    *data: PyTree,
    learning_rate: float,
    order: int = 2,
    times: np.ndarray,
    field: Callable | None = None,
    second_order: Callable | None = None,
    **options,
) -> Trajectory:
    """Follow the modified equation of gradient descent on `loss(params, *data)`: `gradient_flow`, of higher order.

    order         1 (the gradient flow itself), 2 or 3
    field, second_order   f and q, for a descent written in other variables than the weights: `field` as in `gradient_flow`,
                  `second_order(state, *data) -> state`, such as those of `models.coupled`
    options       as in `gradient_flow`

    `dissipated` is the integral of -dL/dt along this flow. Raises `InputError` for input that `gradient_flow` cannot use, a
    loss that cannot be differentiated often enough, or a learning rate beyond stability (learning_rate * sharpness >= 2
    at the start), where no flow describes descent.
    """
    require(order in (1, 2, 3), f"order must be 1, 2 or 3, got {order}.")
    require_pair(field, second_order)
    equation = ModifiedEquation(loss, learning_rate, order, field or GradientField(loss), second_order)
    require_derivatives(equation, params, data, order)
    require_stable(loss, params, data, learning_rate, field)
    run = gradient_flow(loss, params, *data, times=times, field=equation, **options)
    return dataclasses.replace(run, method=f"order {order} in learning_rate = {learning_rate:.3g}: {run.method}")


class ModifiedEquation(eqx.Module):
    """The vector field f + h f2 + h^2 f3 up to `order`, in the form that `gradient_flow(field=...)` takes."""

    loss: Callable
    learning_rate: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    order: int = eqx.field(static=True)
    field: Callable
    second_order: Callable | None = None

    def __call__(self, state: PyTree, *data: PyTree) -> tuple[PyTree, Float[Array, ""]]:
        def f(y):
            return self.field(y, *data)[0]

        def f_f(y):
            return along(f, y, f(y))

        def f2(y):
            half = jax.tree.map(lambda leaf: -leaf / 2, f_f(y))
            return half if self.second_order is None else plus(half, 1, self.second_order(y, *data))

        velocity = f(state)
        if self.order >= 3:
            f_f2_f2_f = plus(along(f2, state, velocity), 1, along(f, state, f2(state)))
            f3 = jax.tree.map(lambda a, b: -a / 2 - b / 6, f_f2_f2_f, along(f_f, state, velocity))
            velocity = plus(velocity, self.learning_rate**2, f3)
        if self.order >= 2:
            velocity = plus(velocity, self.learning_rate, f2(state))
        return velocity, -inner(jax.grad(self.loss)(state, *data), velocity)


def require_stable(
    loss: Callable, params: PyTree, data: tuple, learning_rate: float, field: Callable | None = None
) -> None:
    """Refuse learning rates at which descent does not follow any flow, not even at the start."""
    require(math.isfinite(learning_rate) and learning_rate > 0, f"learning_rate must be positive, got {learning_rate}.")
    sharp = float(sharpness(loss, params, *data) if field is None else largest_eigenvalue(field, params, *data))
    if learning_rate * sharp >= 2:
        raise InputError(
            f"learning_rate = {learning_rate:.3g} is beyond stability: times the sharpness {sharp:.3g} it is "
            f"{learning_rate * sharp:.3g}, and only below 2 does a flow describe descent; use `descend`, or a rate below {2 / sharp:.3g}."
        )


def require_pair(field: Callable | None, second_order: Callable | None) -> None:
    """Refuse a second-order term without the field that it belongs to: in the weights there is none."""
    require(second_order is None or field is not None, "second_order belongs to a field in other variables: give both.")


def require_derivatives(field: Callable, state: PyTree, data: tuple, count: int) -> None:
    """Refuse a loss that JAX cannot differentiate as often as `field(state, *data)` does, before anything is compiled."""
    try:
        jax.eval_shape(field, as_arrays(state), *as_arrays(data))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The loss must be a smooth scalar function, {count} times differentiable: {first_line(error)}"
        ) from error
