"""Exponents and their intervals, from data where both are known."""

import numpy as np
import pytest
from scipy.stats import t as student

from gradflow.theory.exponents import exponent


def test_the_exponent_is_the_slope_and_its_interval_covers_it_as_often_as_it_says():
    rng, x = np.random.default_rng(1), np.array([1.0, 4.0, 16.0, 64.0])
    exact = exponent(x, np.array([3 * x**-1.5, 5 * x**-1.5, x**-1.5]))
    assert exact == pytest.approx((-1.5, -1.5, -1.5), abs=1e-12)
    found = [exponent(x, 2 * x**0.7 * np.exp(rng.normal(0, 0.3, (10, 4)))) for _ in range(400)]
    covered = np.mean([each.low <= 0.7 <= each.high for each in found])
    assert abs(covered - 0.95) < 3 * (0.95 * 0.05 / 400) ** 0.5


def test_the_interval_is_students():
    slopes = np.array([-1.1, -1.0, -0.7, -1.3])
    x = np.array([1.0, np.e])
    found = exponent(x, np.exp(np.outer(slopes, np.log(x))))
    half = student.ppf(0.975, 3) * slopes.std(ddof=1) / 2
    assert found == pytest.approx((slopes.mean(), slopes.mean() - half, slopes.mean() + half))
