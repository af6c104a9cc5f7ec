"""An ensemble is its members' flows, each in its own unit of time."""

import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import InputError
from gradflow.dynamics import gradient_flow, linear_times
from gradflow.dynamics.ensemble import ensemble_flow


def loss(y, target):
    return jnp.sum((jnp.tanh(y) - target) ** 2)


STARTS, TARGETS, UNITS = np.array([[0.1, 2.0], [-1.0, 0.3], [0.5, 0.5]]), np.array([0.2, 0.9, -0.4]), np.array([1.0, 30.0, 0.2])  # fmt: skip
TIMES = linear_times(2.0, 5)


def test_each_member_is_its_own_flow_in_its_own_unit_of_time():
    together = ensemble_flow(loss, STARTS, TARGETS, units=UNITS, times=TIMES, rtol=1e-9, show_progress=False)
    total = 0
    for k, (start, target, unit) in enumerate(zip(STARTS, TARGETS, UNITS, strict=True)):
        alone = gradient_flow(loss, start, target, times=unit * TIMES, rtol=1e-11, method="dopri8", show_progress=False)
        np.testing.assert_allclose(together.states[:, k], alone.states, atol=1e-8)  # ten tolerances
        total = total + alone.loss
    np.testing.assert_allclose(together.loss, total, atol=1e-8)
    assert np.abs(together.energy_residual).max() < 1e-7
    assert "3 members" in together.method


def test_a_restless_member_among_many_that_stand_still_meets_the_tolerance():
    starts = np.zeros((400, 1))
    starts[7] = 3.0

    def decay(y, rate):
        return 0.5 * rate * jnp.sum(y**2)

    options = dict(times=TIMES, rtol=1e-6, show_progress=False)
    run = ensemble_flow(decay, starts, np.full(400, 2.0), units=np.ones(400), **options)
    alone = gradient_flow(decay, starts[7], 2.0, **options)
    assert run.cost.accepted >= alone.cost.accepted  # no longer steps than if it were alone
    np.testing.assert_allclose(run.states[:, 7], alone.states, rtol=1e-5)
    assert np.abs(run.states[:, 8]).max() == 0


def test_members_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="leading axis of 2 members"):
        ensemble_flow(loss, STARTS, TARGETS, units=UNITS[:2], times=TIMES)
