"""Modified equations against closed forms, explicit derivatives, and gradient descent itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import InputError, descend
from gradflow.dynamics.flow import GradientField
from gradflow.dynamics.modified import ModifiedEquation, modified_flow
from gradflow.models import cooccurrence, coupled
from tests.cases import away, slope

RATE = 0.1


def valley(params):
    """Smooth, with third derivatives in every direction."""
    x, y, z = params
    return jnp.sin(x) * y + 0.3 * x**2 * z + 0.2 * y**3 + jnp.exp(0.5 * z) * x


def test_the_terms_are_those_of_the_explicit_hessian_and_third_derivative():
    at = jnp.array([0.4, -0.7, 0.9])
    g, H, T = (np.asarray(f(at)) for f in (jax.grad(valley), jax.hessian(valley), jax.jacfwd(jax.hessian(valley))))
    f2 = -H @ g / 2
    f3 = -H @ H @ g / 3 - np.einsum("ijk,j,k->i", T, g, g) / 12
    expected = {1: -g, 2: -g + RATE * f2, 3: -g + RATE * f2 + RATE**2 * f3}
    for order, velocity in expected.items():
        equation = ModifiedEquation(valley, RATE, order, GradientField(valley))
        got, energy_rate = equation(at)
        np.testing.assert_allclose(got, velocity, rtol=1e-13)  # rounding
        assert float(energy_rate) == pytest.approx(-g @ velocity, rel=1e-13)
    assert np.abs(np.einsum("ijk,j,k->i", T, g, g)).min() > 1e-2  # the third derivative was seen


def bent_step(y):
    """One step of descent on y^2/2 in the variable x = y^2: x (1 - h)^2 = x - 2 h x + h^2 x."""
    return -2 * y, y


@pytest.mark.parametrize(("order", "terms"), [(1, 1), (2, 2), (3, 3)])
def test_in_other_variables_the_modified_equation_is_the_same_flow(order, terms):
    """x = y^2 follows dx/dt = 2 x log(1 - h) / h, as y follows y log(1 - h) / h."""
    equation = ModifiedEquation(
        lambda x: x / 2, RATE, order, lambda x: (bent_step(x)[0], 0.0), lambda x: bent_step(x)[1]
    )
    rate = -sum(RATE ** (k - 1) / k for k in range(1, terms + 1))  # log(1 - h) / h, cut off
    assert float(equation(jnp.asarray(1.3))[0]) == pytest.approx(2 * rate * 1.3, rel=1e-14)


# --------------------------------------------------------------------------------- against descent, rates over a decade

T_END, STEPS = 5.0, (400, 800, 1600, 4000)
IN_WEIGHTS, REDUCED = "weights", "coupled"
ORDERS = {IN_WEIGHTS: (2, 3), REDUCED: (2,)}  # order 1 is the flow's own: test_descent.py


@pytest.fixture(scope="module")
def distances(batch, weights):
    """|descent - modified flow| at t = 5, by system, order and learning rate."""
    state, width = coupled.reduce(weights), coupled.width_of(weights)
    systems = {
        IN_WEIGHTS: ((cooccurrence.loss, weights, batch), {}, {}),
        REDUCED: (
            (coupled.loss, state, batch, width),
            {"step": coupled.step},
            {"field": coupled.field, "second_order": coupled.second_order},
        ),
    }
    found = {}
    for name, (start, stepping, flowing) in systems.items():
        for steps in STEPS:
            rate = T_END / steps
            trained = descend(*start, learning_rate=rate, steps=steps, save_steps=[0, steps], **stepping).final
            for order in ORDERS[name]:
                run = modified_flow(
                    *start, learning_rate=rate, order=order, times=[0, T_END], rtol=1e-12, method="dopri8", **flowing
                )
                assert run.complete
                assert np.abs(run.energy_residual).max() < 1e-10  # of an L of 0.7, at rtol 1e-12
                found.setdefault((name, order), {})[rate] = away(trained, run.final)
    return found


@pytest.mark.parametrize(("system", "order"), [(system, order) for system in ORDERS for order in ORDERS[system]])
def test_descent_is_off_the_modified_flow_by_its_order(distances, system, order):
    """learning_rate * sharpness is 0.016 to 0.16 (see test_descent); the next order adds a few percent at the largest."""
    by_rate = distances[system, order]
    assert slope(by_rate) == pytest.approx(order, abs=0.05)
    assert min(by_rate.values()) > 1e-10  # well above the flow's own error and rounding


# ------------------------------------------------------------------------------------------------------------- refusals


def quadratic(params):
    return jnp.sum(params**2)


def test_a_rate_beyond_stability_is_refused_with_the_largest_that_is_not():
    with pytest.raises(InputError, match=r"beyond stability: times the sharpness 2 it is 2.2, .* below 1"):
        modified_flow(quadratic, jnp.ones(3), learning_rate=1.1, times=[0, 1])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"order": 4}, "order must be 1, 2 or 3, got 4"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
    ],
)
def test_orders_and_rates_that_cannot_be_used_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        modified_flow(quadratic, jnp.ones(3), **({"learning_rate": 0.1, "times": [0, 1]} | options))


def test_a_loss_without_curvature_allows_every_rate():
    flow = modified_flow(lambda p: jnp.sum(p), jnp.ones(2), learning_rate=10.0, order=3, times=[0, 1])
    np.testing.assert_allclose(flow.final, 0, atol=1e-12)


@jax.custom_vjp
def once(params):
    """Differentiable once: its gradient comes from outside JAX."""
    return jnp.sum(params**2)


def outside(params, cotangent):
    return (cotangent * jax.pure_callback(lambda p: 2 * p, params, params),)


once.defvjp(lambda params: (once(params), params), outside)


@pytest.mark.parametrize("loss", [once, lambda params: params, jnp.argmax])
def test_a_loss_without_the_derivatives_is_refused(loss):
    with pytest.raises(InputError, match="smooth scalar function, 2 times differentiable: "):
        modified_flow(loss, jnp.ones(3), learning_rate=0.1, times=[0, 1])
