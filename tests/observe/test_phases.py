"""Events on curves whose events are known: found within the accuracy that is stated, and not found where there are none."""

import numpy as np
import pytest

from gradflow.dynamics import linear_times, log_times
from gradflow.observe import phases

GRIDS = {"log": log_times(1e-3, 1e3, 160), "linear": linear_times(20.0, 161)}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("t0", [0.37, 2.0, 13.1])
def test_a_crossing_is_located_within_its_stated_error(grid, t0):
    t = GRIDS[grid]
    event = phases.first_upward_crossing(t, np.arctan(t - t0) * np.exp(-t / 30), 0.0)
    assert abs(event.time - t0) <= event.error < 2e-2 * t0


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("t0", [0.61, 3.0, 9.7])
def test_a_peak_is_located_within_its_stated_error(grid, t0):
    t = GRIDS[grid]
    event = phases.peak(t, t / t0 * np.exp(-t / t0))
    assert abs(event.time - t0) <= event.error < 2e-2 * t0


def test_the_stated_error_falls_when_the_grid_is_refined():
    errors = []
    for count in (60, 120, 240):
        t = log_times(1e-2, 1e2, count)
        errors.append(phases.first_upward_crossing(t, np.tanh(np.log(np.maximum(t, 1e-9) / 2.3))).error)
    assert errors[1] < errors[0] / 3 and errors[2] < errors[1] / 3  # at least second order


def test_all_positive_waits_for_the_last_column_and_is_not_fooled_by_kinks():
    t = GRIDS["log"]
    onsets = np.array([0.5, 4.4, 4.5, 2.0])
    values = np.log(np.maximum(t, 1e-12))[:, None] - np.log(onsets)
    event = phases.all_positive_from(t, values)
    assert abs(event.time - 4.5) <= max(event.error, 1e-9)
    assert event.error < 1e-6  # each column is smooth: a kinked minimum would give 1e-3


def test_what_does_not_happen_is_never():
    t = GRIDS["log"]
    assert not phases.first_upward_crossing(t, -np.ones_like(t)).happened
    assert not phases.peak(t, -t).happened and not phases.peak(t, t).happened
    assert not phases.all_positive_from(t, np.stack([t, -t - 1], axis=1)).happened


def test_what_is_there_from_the_start_happens_at_the_start():
    t = GRIDS["log"]
    assert phases.first_upward_crossing(t, 1 + t) == (0.0, 0.0)
    assert phases.all_positive_from(t, 1 + t[:, None]) == (0.0, 0.0)
