"""The claims on wide networks and many samples: an exponent with its confidence, from data where both are known."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from gradflow import log_times
from gradflow.observe.large_n import diagram
from gradflow.theory.large_n import _late, exponent

WIDTHS = np.array([10.0, 100.0, 1000.0])


def distances(slopes):
    return xr.DataArray(3 * WIDTHS[:, None] ** slopes, {"width": WIDTHS, "seed": np.arange(len(slopes))})


def test_the_exponent_is_the_mean_over_seeds_with_students_interval():
    slopes = np.array([-0.4, -0.5, -0.7, -0.45])
    found, error = exponent(distances(slopes), 0.99)
    interval = stats.ttest_1samp(slopes, 0).confidence_interval(0.99)
    assert found == pytest.approx(slopes.mean())
    assert (found - error, found + error) == pytest.approx((interval.low, interval.high))


def test_the_interval_holds_the_true_exponent_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        noisy = distances(np.full(5, -0.5)) * np.exp(rng.normal(size=(3, 5)))
        found, error = exponent(noisy, 0.9)
        held += abs(found + 0.5) <= error
    assert held / 400 == pytest.approx(0.9, abs=3 * (0.9 * 0.1 / 400) ** 0.5)


@pytest.mark.parametrize(("m", "m1", "told"), [(1024, 1, True), (128, 1, None), (1024, 128, None)])
def test_the_late_limits_are_claimed_only_where_attention_rests(m, m1, told):
    """At m = 128 scores move, at m m1 = 131072 with m1 = 128 they and the clock: R and T1 are off their limits, as they should be."""
    found = _late(diagram(samples=[12, 6_000_000], lengths=[3, 100], m=m, m1=m1, times=log_times(0.1, 3e7, 91)))
    assert [claim.holds for claim in found] == 4 * [told]
    if told is None:
        assert found[0].measured > 2e-3
