"""The four-point flow, held to the published and derived numbers of the leading-order theory."""

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from gradflow.dynamics import log_times
from gradflow.observe import phases
from gradflow.theory import four_point


@pytest.fixture(scope="module")
def flow():
    return four_point.flow(log_times(1e-2, 1e7, 601))


def test_the_one_signal_loss_peaks_at_0_80257_when_tau_is_3_5647(flow):
    losses = np.asarray(four_point.class_losses(flow.states))
    event = phases.peak(flow.times, losses[:, 1])
    assert abs(losses[:, 1].max() - four_point.ONE_SIGNAL_PEAK_LOSS) < 1e-5  # the digits that are quoted
    assert abs(event.time - four_point.ONE_SIGNAL_PEAK_TAU) < 5e-5 and event.error < 5e-5


def test_the_peak_is_exactly_where_R_crosses_1(flow):
    losses = np.asarray(four_point.class_losses(flow.states))
    crossing = phases.first_upward_crossing(flow.times, np.asarray(four_point.gradient_ratio(flow.states)), 1.0)
    top = phases.peak(flow.times, losses[:, 1])
    assert abs(crossing.time - top.time) <= crossing.error + top.error


def test_every_class_is_right_from_tau_12_979_on_with_G_0_996_and_loss_0_4406(flow):
    event = phases.all_positive_from(flow.times, np.asarray(four_point.class_margins(flow.states)))
    assert abs(event.time - four_point.ALL_RIGHT_TAU) < 5e-4
    at_event = four_point.flow(np.array([0.0, event.time]))
    np.testing.assert_allclose(at_event.states[-1], [0.996, 0.996, -0.996], atol=5e-4)
    assert abs(at_event.loss[-1] - 0.4406) < 5e-5
    assert event.error < 1e-6
    assert abs(np.asarray(four_point.class_margins(at_event.states[-1])).min()) < 1e-6


def test_R_tends_to_three_halves_and_loss_times_tau_to_17(flow):
    assert abs(float(four_point.gradient_ratio(flow.states[-1])) - four_point.LIMIT_R) < 1e-4
    assert abs(flow.loss[-1] * flow.times[-1] - four_point.LIMIT_LOSS_TIMES_TAU) < 0.005


def test_the_flow_equals_the_class_sums_of_the_paper(flow):
    """dG1 = sbar1 - sbar2, dG2 = sbar1 - sbar3, dG3 = sbar1 - sbar2 - sbar3 - sbar4, by differences of the solution."""
    t = np.array([0.0, 4.999, 5.0, 5.001])
    G = np.asarray(four_point.flow(t).states)
    F = np.array([G[2].sum(), G[2][0] + G[2][2], G[2][1] + G[2][2], G[2][2]])
    sbar = np.array([3, 1, 1, 1]) / 6 / (1 + np.exp(np.array([1, -1, -1, -1]) * F))
    expected = [sbar[0] - sbar[1], sbar[0] - sbar[2], sbar[0] - sbar[1:].sum()]
    np.testing.assert_allclose((G[3] - G[1]) / (t[3] - t[1]), expected, rtol=1e-6)  # central difference, step 1e-3


def test_the_max_margin_direction_solves_the_hard_margin_problem_by_a_general_solver():
    signed = four_point.LABELS[:, None] * four_point.POINTS
    constraint = {"type": "ineq", "fun": lambda w: signed @ w - 1}
    found = minimize(
        lambda w: w @ w, np.array([3.0, 3.0, -4.0]), constraints=constraint, method="SLSQP", options={"ftol": 1e-14}
    )
    np.testing.assert_allclose(found.x, four_point.MAX_MARGIN_DIRECTION, atol=1e-6)


def test_the_duals_are_the_only_ones_that_build_the_direction():
    """w = sum alpha_i y_i x_i with alpha >= 0, and alpha_i = 0 where the margin is not tight (class I4)."""
    signed = four_point.LABELS[:, None] * four_point.POINTS
    np.testing.assert_array_equal(signed.T @ four_point.DUALS, four_point.MAX_MARGIN_DIRECTION)
    np.testing.assert_array_equal(signed @ four_point.MAX_MARGIN_DIRECTION, [1, 1, 1, 3])
    for sign in (1, -1):  # the extreme values of each dual coincide: they are unique
        for k in range(3):
            cost = np.zeros(4)
            cost[k] = sign
            best = linprog(cost, A_eq=signed.T, b_eq=four_point.MAX_MARGIN_DIRECTION, bounds=[(0, None)] * 3 + [(0, 0)])
            assert best.x[k] == pytest.approx(four_point.DUALS[k], abs=1e-9)
