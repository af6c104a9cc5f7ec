"""Implicit midpoint: quadratic invariants to round-off, order two, Cayley's transform on linear flows, and when it gives up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import InputError, gradient_flow, linear_times
from gradflow.models import cooccurrence
from gradflow.theory import conservation

# ------------------------------------------------------------------------------------------- what gradient flow conserves


def in_steps_of(step, weights, batch):
    """The co-occurrence model to t = 50, past Phase 1."""
    return gradient_flow(
        cooccurrence.loss, weights, batch, times=linear_times(50.0, 26), method="implicit_midpoint", step=step,
        invariants=conservation.of_weights,
    )  # fmt: skip


@pytest.fixture(scope="module")
def long_steps(weights, batch):
    return in_steps_of(0.4, weights, batch)


def test_conserved_quantities_stay_to_round_off_in_steps_of_two_fifths(long_steps):
    """125 steps, each off by a few units of round-off, 2e-16."""
    assert long_steps.complete and long_steps.cost.accepted == 125 and long_steps.cost.rejected == 0
    assert long_steps.loss[-1] < 0.01 * long_steps.loss[0]
    for name in ("C1", "C2", "C2a", "W off a", "K1"):
        assert long_steps.drift[name].max() <= 1e-12, name


def test_the_energy_identity_which_is_no_quadratic_form_holds_to_second_order(long_steps, weights, batch):
    halved = in_steps_of(0.2, weights, batch)
    ratio = np.abs(long_steps.energy_residual).max() / np.abs(halved.energy_residual).max()
    assert ratio == pytest.approx(4, rel=0.1)  # up to terms of order four in steps of 0.4, at rates up to one


def test_the_block_of_trust_names_the_step_and_the_products(long_steps):
    assert "implicit_midpoint (diffrax), step = 0.4\n" in long_steps.trust()
    assert f"{long_steps.cost.jvps} Jacobian-vector products" in long_steps.trust()


# ------------------------------------------------------------------------------------------------------- linear flows

_AXES = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
HESSIAN = _AXES @ np.diag([-0.1, 0.3, 1.0, 20.0, 5000.0]) @ _AXES.T  # a saddle, and stiff
START = np.array([1.0, -2.0, 0.5, 1.5, 1.0])
counted = []


def quadratic(x, hessian):
    return 0.5 * x @ hessian @ x


def counting_field(x, hessian):
    """Each evaluation, and each product with the Jacobian, leaves a mark in `counted`."""
    jax.debug.callback(lambda: counted.append(1))
    gradient = hessian @ x
    return -gradient, gradient @ gradient


def follow(times, **options):
    jax.effects_barrier()
    counted.clear()
    flow = gradient_flow(
        quadratic, jnp.array(START), jnp.array(HESSIAN), times=times, method="implicit_midpoint", field=counting_field,
        **options,
    )  # fmt: skip
    jax.effects_barrier()
    return flow, len(counted)


def cayley(h):
    """What one step does to a linear flow."""
    return np.linalg.solve(np.eye(5) + h / 2 * HESSIAN, np.eye(5) - h / 2 * HESSIAN)


def test_a_stiff_linear_flow_takes_cayley_s_steps():
    """h lambda up to 2500. Round-off: 2e-16, times the 40 of the field's own, h |H x|, and a few steps."""
    flow, marks = follow(linear_times(4.0, 9), step=0.5)
    assert flow.complete and flow.cost.accepted == 8
    exact = np.stack([np.linalg.matrix_power(cayley(0.5), k) @ START for k in range(9)])
    np.testing.assert_allclose(flow.states, exact, rtol=0, atol=1e-11)
    assert flow.cost.evaluations + flow.cost.jvps == marks


def test_steps_are_shortened_evenly_to_meet_the_times():
    """One unit of time in three steps of at most 0.4, a quarter in one, exactly."""
    flow, marks = follow(np.array([0.0, 1.0, 1.25]), step=0.4)
    assert flow.complete and flow.cost.accepted == 4
    after_one = np.linalg.matrix_power(cayley(1 / 3), 3) @ START
    np.testing.assert_allclose(flow.states[1:], [after_one, cayley(0.25) @ after_one], rtol=0, atol=1e-11)
    assert flow.cost.evaluations + flow.cost.jvps == marks


def test_running_out_of_steps_is_reported():
    flow, _ = follow(linear_times(4.0, 9), step=0.5 / 7, max_steps=6)
    assert not flow.complete and "max_steps = 6" in flow.status and len(flow.loss) == 1


# -------------------------------------------------------------------------------------------------- order, and the end


def logistic(x):
    return jnp.logaddexp(0.0, -x)


def exact_margin(t):
    """x of x + e^x = t + 1, by Newton's method: the flow of `logistic` from 0."""
    x = np.log(t + 1)
    for _ in range(50):
        x = x - (x + np.exp(x) - t - 1) / (1 + np.exp(x))
    return x


def test_the_rule_is_of_order_two():
    errors = []
    for step in (0.4, 0.2, 0.1):
        flow = gradient_flow(logistic, jnp.array(0.0), times=[0.0, 2.0, 8.0], method="implicit_midpoint", step=step)
        errors.append(np.abs(flow.states - exact_margin(flow.times))[1:])
    slopes = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    np.testing.assert_allclose(slopes, 2, atol=0.02)  # what the error has of order four, next to its second


def kinked(x):
    """|x| has no slope at its minimum: no midpoint solves the equation of a step across it."""
    return jnp.abs(x)


def test_a_step_whose_equation_has_no_solution_ends_the_run_and_what_was_before_is_kept():
    flow = gradient_flow(kinked, jnp.array(1.03), times=linear_times(2.4, 13), method="implicit_midpoint", step=0.2)
    assert not flow.complete
    assert flow.status == "stopped after t = 1: a step of 0.2 left its equation unsolved; take a smaller step"
    np.testing.assert_allclose(flow.states, 1.03 - flow.times, rtol=0, atol=1e-13)


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"method": "implicit_midpoint"},
            r"^implicit_midpoint takes fixed steps: give their size, such as step=0.1\.$",
        ),
        ({"method": "implicit_midpoint", "step": 0.0}, r"^step must be a positive time, got 0\.0\.$"),
        ({"method": "implicit_midpoint", "step": -0.1}, r"^step must be a positive time, got -0\.1\.$"),
        ({"method": "implicit_midpoint", "step": np.inf}, r"^step must be a positive time, got inf\.$"),
        ({"method": "implicit_midpoint", "step": np.nan}, r"^step must be a positive time, got nan\.$"),
        (
            {"method": "rkc2", "step": 0.1},
            r"^step is the size of implicit_midpoint's fixed steps; rkc2 chooses its own\.$",
        ),
        ({"step": 0.1}, r"^step is the size of implicit_midpoint's fixed steps; tsit5 chooses its own\.$"),
    ],
)
def test_a_step_that_cannot_be_used_is_refused_in_one_line(options, says):
    with pytest.raises(InputError, match=says):
        gradient_flow(quadratic, jnp.array(START), jnp.array(HESSIAN), times=[0.0, 1.0], **options)
