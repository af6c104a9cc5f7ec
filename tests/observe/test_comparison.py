"""Descent against flow on two scalars, where every number of the dataset can be had by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import InputError
from gradflow.observe.comparison import compare
from gradflow.theory import discretisation

START = np.array([1.2, 0.4])
PRODUCTS, T_END, SAVES = (0.08, 0.04, 0.02, 0.007), 3.0, 5


def loss(params):
    """Two layers of one neuron: (w v - 1)^2 / 2; w^2 - v^2 is conserved."""
    return 0.5 * (params[0] * params[1] - 1) ** 2


def invariants(params):
    return {"w^2 - v^2": params[0] ** 2 - params[1] ** 2, "one": jnp.ones(2)}


@pytest.fixture(scope="module")
def comparison():
    return compare(
        loss,
        jnp.array(START),
        rate_times_sharpness=PRODUCTS,
        t_end=T_END,
        tolerance=1e-3,
        invariants=invariants,
        saves=SAVES,
    )


def descent(rate):
    w, states = START.copy(), [START.copy()]
    for _ in range(round(T_END / rate)):
        w = w - rate * (w[0] * w[1] - 1) * w[::-1]
        states.append(w.copy())
    return np.array(states)


def test_rates_are_the_next_below_that_fit_the_saves(comparison):
    data, certificate = comparison
    w, v = certificate.flow.states.T
    hessians = np.array([[v**2, 2 * w * v - 1], [2 * w * v - 1, w**2]]).transpose(2, 0, 1)
    sharpest = np.abs(np.linalg.eigvalsh(hessians)).max()
    for rate, product in zip(data["learning_rate"].values, PRODUCTS, strict=True):
        saves_apart = T_END / SAVES / rate
        assert saves_apart == pytest.approx(round(saves_apart), abs=1e-9)
        assert rate <= product / sharpest * (1 + 1e-5) < T_END / SAVES / (saves_apart - 1)


def test_distances_are_between_descent_and_a_flow_that_a_fine_descent_confirms(comparison):
    data, certificate = comparison
    fine = descent(1e-5)[:: round(T_END / SAVES / 1e-5)]
    np.testing.assert_allclose(certificate.flow.states, fine, atol=1e-5)  # the fine descent's own error
    for rate, distance in zip(data["learning_rate"].values, data["distance"].values, strict=True):
        states = descent(rate)[:: round(T_END / SAVES / rate)]
        expected = np.linalg.norm(states - certificate.flow.states, axis=1)
        np.testing.assert_allclose(distance, expected, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(distance[1:], data["predicted_distance"].sel(learning_rate=rate)[1:], rtol=0.05)


def test_the_drift_is_that_of_every_step_and_is_told_to_first_order(comparison):
    """A step multiplies w^2 - v^2 by 1 - h^2 (w v - 1)^2, exactly."""
    data, _ = comparison
    for rate in data["learning_rate"].values:
        states = descent(rate)
        kept = np.cumprod(1 - rate**2 * (states[:-1].prod(axis=1) - 1) ** 2)
        change = (START[0] ** 2 - START[1] ** 2) * (
            1 - kept[round(T_END / SAVES / rate) - 1 :: round(T_END / SAVES / rate)]
        )
        got = data.sel(quantity="w^2 - v^2").sel(learning_rate=rate, method="nearest")
        np.testing.assert_allclose(got["drift"][1:], change, rtol=1e-9)
        np.testing.assert_allclose(got["predicted_drift"][1:], change, rtol=0.05)
    assert not data["drift"].sel(quantity="one").any()


def test_its_claims_hold(comparison):
    held = {claim.name: claim for claim in discretisation.claims(comparison[0])}
    assert len(held) == 7 and all(claim.holds for claim in held.values())
    assert held["drift of one under descent, relative to the largest"].measured == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rate_times_sharpness": []}, "At least one learning rate"),
        ({"rate_times_sharpness": [0.5, 0.51]}, "learning rates must differ in their steps"),
        ({"rate_times_sharpness": [0.0]}, "Learning rates must be positive"),
        ({"rate_times_sharpness": [3.0], "t_end": 30.0}, "beyond stability"),
    ],
)
def test_what_cannot_be_compared_is_refused(options, says):
    usual = dict(rate_times_sharpness=[0.1], t_end=T_END, tolerance=1e-3)
    with pytest.raises(InputError, match=says):
        compare(loss, jnp.array(START), **(usual | options))
