"""The claims on a comparison: right orders hold, wrong ones fail, and too few rates cannot tell."""

import numpy as np
import pytest
import xarray as xr

from gradflow.theory.discretisation import claims

RATES = np.array([0.2, 0.1, 0.05, 0.02])


def comparison(rates=RATES, orders=(1, 2, 3), drift_order=2, excess=0.01, of_linear=1e-15):
    """What `observe.comparison.compare` gives, made of exact powers."""
    dims = ("learning_rate", "time")
    of_rate = np.repeat(rates[:, None], 3, axis=1)
    return xr.Dataset(
        {
            "distance_from_order": (("learning_rate", "order"), np.stack([rates**k for k in orders], axis=1)),
            "distance": (dims, of_rate * (1 + excess)),
            "predicted_distance": (dims, of_rate),
            "drift": (("quantity", *dims), np.stack([of_rate, of_linear * of_rate])),
            "predicted_drift": (("quantity", *dims), np.stack([of_rate, 1e-16 * of_rate])),
            "drift_residual": (("quantity", *dims), np.stack([of_rate**drift_order, 1e-15 * of_rate])),
            "sharpness": (("time",), np.array([1.0, 0.5, 0.2])),
        },
        {"learning_rate": rates, "order": [1, 2, 3], "time": [0.0, 1.0, 2.0], "quantity": ["C", "K"]},
    )


def verdicts(data):
    return {claim.name: claim.holds for claim in claims(data)}


def test_exact_powers_hold():
    assert set(verdicts(comparison()).values()) == {True} and len(verdicts(comparison())) == 7


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_distance_of_another_order_fails(order):
    wrong = tuple(k + 0.1 * (k == order) for k in (1, 2, 3))
    failed = [name for name, holds in verdicts(comparison(orders=wrong)).items() if not holds]
    assert failed == [f"slope of |descent - flow of order {order}| in the rate"]


def test_a_drift_that_is_told_to_lower_order_fails():
    failed = [name for name, holds in verdicts(comparison(drift_order=1.8)).items() if not holds]
    assert failed == ["slope of what the predicted drift of C leaves"]


def test_a_drift_that_should_be_none_fails():
    failed = [name for name, holds in verdicts(comparison(of_linear=1e-6)).items() if not holds]
    assert failed == ["drift of K under descent, relative to the largest"]


def test_a_distance_that_is_told_badly_fails():
    assert not verdicts(comparison(excess=0.06))["measured / predicted distance, largest over time"]
    assert not verdicts(comparison(excess=-0.03))["measured / predicted distance, least over time"]


def test_less_than_a_decade_of_resolved_rates_cannot_tell_a_slope():
    for rates in (RATES[:3], RATES * 3):  # too few; or most beyond learning_rate x sharpness = 0.2
        told = verdicts(comparison(rates=rates))
        assert [told[f"slope of |descent - flow of order {k}| in the rate"] for k in (1, 2, 3)] == [None] * 3
