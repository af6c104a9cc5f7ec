"""`gradient_flow`: what it keeps, how far it can be trusted, what it refuses, and how it ends when it cannot go on."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

from gradflow import InputError, descend, gradient_flow, linear_times
from gradflow.dynamics import progress
from gradflow.dynamics.integrators import METHODS
from gradflow.models import cooccurrence
from gradflow.theory import conservation

_AXES = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
HESSIAN = _AXES @ np.diag([0.2, 1.0, 2.0]) @ _AXES.T
START = np.array([1.0, -2.0, 0.5])
TIMES = linear_times(3.0, 25)
EXACT = np.stack([scipy.linalg.expm(-HESSIAN * t) @ START for t in TIMES])


def quadratic(params, hessian):
    return 0.5 * params @ hessian @ params


def follow(**options):
    """The flow of the quadratic loss; every run shares one compiled solve as long as it has the same hooks."""
    arguments = {"times": TIMES, "rtol": 1e-8} | options
    return gradient_flow(quadratic, jnp.array(START), jnp.array(HESSIAN), **arguments)


@functools.cache
def plain_run():
    return follow()


# --------------------------------------------------------------------------------------------------- what a flow keeps


def test_states_are_kept_at_the_times_asked_for():
    flow = plain_run()
    assert flow.complete and flow.status == "complete"
    np.testing.assert_array_equal(flow.times, TIMES)
    np.testing.assert_allclose(flow.states, EXACT, rtol=0, atol=1e-6)  # a hundred tolerances
    np.testing.assert_array_equal(flow.states[0], START)
    # the interpolant at its right end, give or take a rounding
    np.testing.assert_allclose(flow.final, flow.states[-1], rtol=0, atol=1e-14)
    assert "tsit5 (diffrax), rtol = 1e-08, atol = 1e-11" in flow.method


def gradient_and_first(params, hessian):
    return {"gradient": hessian @ params, "first": params[0]}


def test_save_is_kept_in_the_place_of_the_states():
    flow = follow(save=gradient_and_first, method="RK45")
    np.testing.assert_allclose(flow.states["gradient"], EXACT @ HESSIAN, rtol=0, atol=1e-6)  # a hundred tolerances
    np.testing.assert_allclose(flow.states["first"], EXACT[:, 0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(flow.final, EXACT[-1], rtol=0, atol=1e-6)  # the whole state, whatever was saved


def three_quantities(params, hessian):
    return {"moving": params, "zero at first": params - START, "constant": jnp.trace(hessian)}


def test_drift_is_relative_to_the_initial_size_and_absolute_where_that_is_zero():
    flow = follow(invariants=three_quantities)
    moved = np.linalg.norm(EXACT - START, axis=1)
    np.testing.assert_allclose(flow.drift["moving"], moved / np.linalg.norm(START), rtol=0, atol=1e-6)
    np.testing.assert_allclose(flow.drift["zero at first"], moved, rtol=0, atol=1e-6)
    assert not flow.drift["constant"].any()
    np.testing.assert_allclose(flow.states, EXACT, rtol=0, atol=1e-6)


def twisted_field(params, hessian):
    """The flow in coordinates that move half as fast; the speed is made up, so that it can be recognised."""
    return -0.5 * hessian @ params, jnp.asarray(7.0)


def test_a_given_field_takes_the_place_of_the_gradient():
    flow = follow(field=twisted_field, method="RK45")
    halfway = np.stack([scipy.linalg.expm(-HESSIAN * t / 2) @ START for t in TIMES])
    np.testing.assert_allclose(flow.states, halfway, rtol=0, atol=1e-6)
    np.testing.assert_allclose(flow.dissipated, 7.0 * TIMES, rtol=1e-12)  # a constant is integrated exactly
    np.testing.assert_allclose(flow.loss, 0.5 * np.einsum("ti,ij,tj->t", halfway, HESSIAN, halfway), rtol=0, atol=1e-6)


def test_parameters_and_data_may_be_plain_numbers_and_any_pytree():
    def loss(params, data):
        return 0.5 * data["rate"] * (params["a"][0] ** 2 + params["a"][1] ** 2)

    flow = gradient_flow(loss, {"a": (1.0, -2.0)}, {"rate": 2}, times=linear_times(1.0, 3), rtol=1e-8, method="RK45")
    np.testing.assert_allclose(flow.states["a"][0], np.exp([0.0, -1.0, -2.0]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(flow.states["a"][1], -2 * np.exp([0.0, -1.0, -2.0]), rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------- energy


def test_the_dissipated_energy_is_the_integral_of_the_squared_gradient():
    """Against Simpson's rule on the exact |grad|^2, whose error h^4 / 180 times its fourth derivative is below 2e-7."""
    flow, dense = plain_run(), linear_times(3.0, 241)
    gradients = np.stack([HESSIAN @ scipy.linalg.expm(-HESSIAN * t) @ START for t in dense])
    by_quadrature = scipy.integrate.cumulative_simpson((gradients**2).sum(axis=1), x=dense, initial=0)
    np.testing.assert_allclose(flow.dissipated, by_quadrature[::10], rtol=0, atol=1e-6)
    # the residual is the loss's fall less that integral, and not zero by construction
    np.testing.assert_array_equal(flow.energy_residual, flow.loss[0] - flow.loss - flow.dissipated)
    assert 0 < np.abs(flow.energy_residual).max() < 1e-6


def test_the_energy_of_the_model_balances(full_flow, reduced_flow):
    for flow in (full_flow, reduced_flow):
        assert flow.loss[0] - flow.loss[-1] > 0.5
        assert np.abs(flow.energy_residual).max() < 1e-9  # ten tolerances


def test_a_field_with_a_wrong_speed_shows_in_the_energy():
    flow = follow(field=twisted_field, method="RK45")
    assert np.abs(flow.energy_residual).max() > 1


# --------------------------------------------------------------------------------------------------------- invariants


def test_conserved_quantities_of_the_model_drift_by_less_than_the_tolerance(batch, weights):
    """Quadratic ones by the integrator's error at most; a linear one, and what never moves, only by rounding."""
    flow = gradient_flow(
        cooccurrence.loss, weights, batch, times=linear_times(50, 51), method="tsit5", rtol=1e-8,
        invariants=conservation.of_weights,
    )  # fmt: skip
    assert flow.complete and flow.loss[-1] < 0.01
    largest = {name: values.max() for name, values in flow.drift.items()}
    assert set(largest) == {"C1", "C2", "C2a", "K1", "W off a"}
    assert largest["C1"] <= 1e-8 and largest["C2"] <= 1e-8 and largest["C2a"] <= 1e-8
    assert largest["K1"] <= 1e-12 and largest["W off a"] <= 1e-12
    assert largest["C2"] > 1e-13  # an explicit method does not conserve it exactly: the watch sees something


def test_the_accurate_flows_conserve_to_their_tolerance(full_flow, reduced_flow):
    for flow in (full_flow, reduced_flow):
        assert max(values.max() for values in flow.drift.values()) <= 1e-10
    assert set(reduced_flow.drift) == {"tr C1", "tr C1^2", "tr C2a", "tr C2a^2", "|K1|^2"}


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"times": [0.0]}, "at least a start and an end"),
        ({"times": [[0.0, 1.0]]}, "at least a start and an end"),
        ({"times": [0.0, 1.0, 1.0]}, "times must ascend"),
        ({"times": [1.0, 0.0]}, "times must ascend"),
        ({"times": [0.0, np.inf]}, "be finite"),
        ({"times": [0.0, np.nan]}, "be finite"),
        ({"rtol": 1e-16}, "rtol must be at least 4e-14, which is what float64 can hold, got 1e-16"),
        ({"rtol": 0.0}, "rtol must be at least"),
        ({"rtol": np.nan}, "rtol must be at least"),
        ({"atol": -1e-9}, "atol must be >= 0, got -1e-09"),
        ({"atol": np.inf}, "atol must be >= 0, got inf"),
        ({"method": "euler"}, "Unknown method 'euler'; known are " + ", ".join(METHODS)),
    ],
)
def test_times_tolerances_and_methods_that_cannot_be_used_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        follow(**options)


def test_a_tolerance_that_float32_cannot_hold_is_refused_with_what_to_call():
    with pytest.raises(InputError, match=r"which is what float32 can hold, got 1e-09. Call gradflow.enable_x64\(\)"):
        gradient_flow(quadratic, jnp.array(START, jnp.float32), jnp.array(HESSIAN, jnp.float32), times=TIMES, rtol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_tolerance_that_a_refusal_names_is_accepted(dtype):
    params, hessian = jnp.array(START, dtype), jnp.array(HESSIAN, dtype)
    with pytest.raises(InputError) as refusal:
        gradient_flow(quadratic, params, hessian, times=TIMES, rtol=1e-16, method="RK45")
    named = float(str(refusal.value).split("at least ")[1].split(",")[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gradient_flow(quadratic, params, hessian, times=[0.0, 1e-3], rtol=named, method="RK45")


def test_an_absolute_tolerance_near_the_initial_scale_is_warned_of_where_it_was_given():
    with pytest.warns(UserWarning, match="atol = 0.1 is not far below the smallest initial scale") as caught:
        follow(atol=0.1, times=TIMES[:2], method="RK45")
    assert caught[0].filename == __file__


def test_the_default_tolerances_warn_of_nothing():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        follow(times=TIMES[:2], method="RK45")
    assert not caught


# -------------------------------------------------------------------------------------------------- ends before the end


def uphill(params, hessian):
    """It claims to dissipate energy; a loss may rise by no more than the energy that is put in."""
    return hessian @ params, jnp.sum((hessian @ params) ** 2)


def test_a_loss_that_rises_ends_the_run_as_no_gradient_flow():
    flow = follow(field=uphill, method="RK45")
    assert flow.status.startswith("not a gradient flow at t = 0.25: the loss rose from")
    assert len(flow.times) == 3


@pytest.mark.parametrize("method", ["tsit5", "RK45", "odeint"])
def test_an_interrupt_keeps_what_is_done(method, monkeypatch):
    """The third report comes after the start and two stretches of two save points."""
    reports = []

    def interrupted(*args, **options):
        reports.append(options)
        if len(reports) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress, "report", interrupted)
    flow = follow(method=method)
    assert flow.status == "interrupted" and not flow.complete
    np.testing.assert_array_equal(flow.times, TIMES[:5])
    assert len(flow.loss) == len(flow.states) == len(flow.dissipated) == 5
    np.testing.assert_allclose(flow.states, EXACT[:5], rtol=0, atol=1e-6)
    assert [report["time"] for report in reports] == [TIMES[0], TIMES[2], TIMES[4]]


@pytest.mark.parametrize("method", ["tsit5", "RK45", "odeint"])
def test_the_final_state_of_an_interrupted_run_is_that_of_its_last_time(method, monkeypatch):
    def interrupt(*args, time, **options):
        if time == TIMES[4]:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress, "report", interrupt)
    flow = follow(method=method)
    np.testing.assert_allclose(flow.final, flow.states[-1], rtol=0, atol=1e-14)


def test_an_interrupt_before_the_first_save_point_says_so():
    def interrupt(*args):
        raise KeyboardInterrupt

    with pytest.raises(InputError, match="Interrupted before anything was computed"):
        follow(method="RK45", save=interrupt)


# -------------------------------------------------------------------------------------------------- what a run says


def test_progress_is_silent_unless_asked_for_where_the_output_is_no_terminal(capfd):
    follow(method="RK45")
    assert capfd.readouterr().err == ""
    follow(method="RK45", show_progress=True)
    shown = capfd.readouterr().err
    assert "flow, RK45" in shown and "/25" in shown


def test_the_trust_block_states_cost_energy_drift_and_status():
    flow = follow(invariants=three_quantities)
    text = flow.trust()
    assert (
        f"{flow.cost.accepted} steps accepted, {flow.cost.rejected} rejected, {flow.cost.evaluations} evaluations"
        in text
    )
    assert f"<= {np.abs(flow.energy_residual).max():.1e}, L(0) = {flow.loss[0]:.4g}" in text
    assert f"moving {flow.drift['moving'].max():.1e}" in text
    assert "complete, t = 3, loss" in text
    assert "no invariant was watched" in plain_run().trust()


def test_the_gradient_of_the_loss_is_evaluated_as_often_as_the_cost_says():
    """Each save point evaluates the loss once more, and nothing else does."""
    calls = []

    def counting_loss(params, hessian):
        jax.debug.callback(lambda: calls.append(1))
        return quadratic(params, hessian)

    for method in ("tsit5", "RK45"):
        calls.clear()
        flow = gradient_flow(counting_loss, jnp.array(START), jnp.array(HESSIAN), times=TIMES, method=method)
        jax.effects_barrier()
        assert len(calls) == flow.cost.evaluations + len(TIMES), method


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda p: jnp.log(p - 2.0), "must be finite at the start, where it is nan"),
        (lambda p: 1 / (p - 1.0), "must be finite at the start, where it is inf"),
        (lambda p: jnp.ones(3) * p, r"must be one real number, got .*3"),
        (lambda p: jnp.argmax(jnp.stack([p, p])), "must be one real number, got .*int"),
        (lambda p: (p, p), "must be one real number"),
        (lambda p, q: p, "cannot be evaluated at the start: .*missing 1 required positional argument"),
    ],
)
@pytest.mark.parametrize("train", [lambda loss: gradient_flow(loss, 1.0, times=[0, 1]), lambda loss: descend(loss, 1.0, learning_rate=0.1, steps=1)])  # fmt: skip
def test_what_is_no_finite_real_loss_at_the_start_is_refused_in_one_line(loss, says, train):
    with pytest.raises(InputError, match=says) as caught:
        train(loss)
    assert "\n" not in str(caught.value)
