"""Grids of save points start at 0, end at the end and have the spacing that their name says."""

import numpy as np
import pytest

from gradflow import InputError, linear_times, log_times
from gradflow.dynamics.times import log_steps, together


@pytest.mark.parametrize(("t_end", "count"), [(1.0, 2), (3.0, 7), (1e-3, 13), (50.0, 201)])
def test_linear_times_are_evenly_spaced_from_0_to_the_end(t_end, count):
    times = linear_times(t_end, count)
    assert len(times) == count
    np.testing.assert_allclose(times, [t_end * k / (count - 1) for k in range(count)], rtol=1e-14)  # rounding
    assert times[-1] == t_end


@pytest.mark.parametrize(("t_first", "t_end", "count"), [(0.1, 10.0, 3), (1e-3, 1e12, 38), (2.0, 2.5, 14)])
def test_log_times_are_0_and_then_a_geometric_progression(t_first, t_end, count):
    times = log_times(t_first, t_end, count)
    assert len(times) == count
    ratio = (t_end / t_first) ** (1 / (count - 2))
    np.testing.assert_allclose(times, [0] + [t_first * ratio**k for k in range(count - 1)], rtol=1e-12)  # 37 roundings
    assert times[1] == t_first and times[-1] == t_end


@pytest.mark.parametrize("steps", [1, 2, 7, 13, 200, 201, 30_000])
@pytest.mark.parametrize("count", [2, 5, 201])
def test_log_steps_are_distinct_whole_steps_from_0_to_the_last(steps, count):
    saved = log_steps(steps, count)
    assert saved.dtype.kind == "i"
    assert saved[0] == 0 and saved[-1] == steps and (np.diff(saved) > 0).all()
    assert len(saved) <= count + 1  # the last step is always kept
    assert steps < 3 or count < 3 or 1 in saved


def test_log_steps_have_a_constant_ratio_where_steps_are_many():
    saved = log_steps(10**6, 25).astype(float)
    large = saved[saved > 100]
    np.testing.assert_allclose(large[1:] / large[:-1], 10 ** (6 / 23), rtol=0.01)  # rounding to whole steps above 100


def test_together_keeps_every_exact_time_and_the_others_that_are_not_close_to_one():
    times, exact = np.array([0.0, 0.1, 0.11, 1.0, 100.0, 200.0]), np.array([0.0, 0.1, 99.0])
    # 100 lies within 2 % of 99, and 0.11 not within 2 % of 0.1, though nearer
    np.testing.assert_array_equal(together(times, exact), [0.0, 0.1, 0.11, 1.0, 99.0, 200.0])
    np.testing.assert_array_equal(together(times, exact, closest=0.005), [0.0, 0.1, 0.11, 1.0, 99.0, 100.0, 200.0])


def test_two_hundred_and_one_save_points_are_the_default():
    assert len(linear_times(1.0)) == 201 and len(log_times(0.1, 1.0)) == 201
    # the first of 200 steps in geometric progression to 10^9 coincide when rounded
    assert set(log_steps(10**9)) == {0} | {round(10 ** (9 * k / 199)) for k in range(200)}


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        (lambda: linear_times(0.0), "t_end must be a positive time, got 0.0"),
        (lambda: linear_times(float("inf")), "t_end must be a positive time, got inf"),
        (lambda: linear_times(1.0, 1), "At least two save times .*got 1"),
        (lambda: log_times(0.1, -1.0), "t_end must be a positive time, got -1.0"),
        (lambda: log_times(0.0, 1.0), r"must lie in \(0, t_end = 1.0\), got 0.0"),
        (lambda: log_times(1.0, 1.0), r"must lie in \(0, t_end = 1.0\), got 1.0"),
        (lambda: log_times(0.1, 1.0, 2), "At least three save times .*got 2"),
        (lambda: log_times(0.1, float("nan")), "t_end must be a positive time, got nan"),
        (lambda: log_steps(0), "steps must be a positive whole number, got 0"),
    ],
)
def test_impossible_grids_are_refused(grid, says):
    with pytest.raises(InputError, match=says):
        grid()
