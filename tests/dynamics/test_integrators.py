"""Every integrator reaches its tolerance on flows with a closed form, counts its cost truly, and says when it gave up.

A local tolerance of rtol gives a global error of a moderate multiple of it; every method that takes one is asked for 100 rtol.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from gradflow import InputError, gradient_flow, linear_times, log_times
from gradflow.dynamics.integrators import METHODS, stretches
from gradflow.models import cooccurrence, coupled
from gradflow.tasks.cooccurrence import Batch

ADAPTIVE = tuple(method for method in METHODS if method != "implicit_midpoint")  # which has a file of its own
NOT_STIFF = ("tsit5", "dopri8", "RK45", "DOP853", "LSODA", "odeint")
# each code path once: the three methods of diffrax share theirs
PATHS = ("tsit5", "RK45", "DOP853", "LSODA", "BDF", "Radau", "odeint")


# ------------------------------------------------------------------------------------------------- a quadratic valley

_AXES = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
HESSIAN = _AXES @ np.diag([0.05, 0.5, 1.0, 3.0]) @ _AXES.T
START = {"x": jnp.array([1.0, -2.0, 0.5]), "y": jnp.array(1.5)}
FLAT_START = np.array([1.0, -2.0, 0.5, 1.5])
counted = []


def quadratic(params, hessian):
    z = jnp.append(params["x"], params["y"])
    return 0.5 * z @ hessian @ z


def counting_field(params, hessian):
    """The field of the quadratic loss; each evaluation leaves a mark in `counted`."""
    jax.debug.callback(lambda: counted.append(1))
    z = jnp.append(params["x"], params["y"])
    gradient = hessian @ z
    return {"x": -gradient[:3], "y": -gradient[3]}, gradient @ gradient


def exact_states(times):
    return np.stack([scipy.linalg.expm(-HESSIAN * t) @ FLAT_START for t in times])


def flat(states):
    return np.column_stack([states["x"], states["y"]])


@pytest.fixture(scope="module", params=ADAPTIVE)
def valley(request):
    """The flow by each method at thirteen times after the start (no multiple of twelve); how often its field ran."""
    jax.effects_barrier()
    counted.clear()
    times = linear_times(5.0, 14)
    flow = gradient_flow(
        quadratic, START, jnp.array(HESSIAN), times=times, method=request.param, rtol=1e-7, field=counting_field
    )
    jax.effects_barrier()
    return request.param, flow, len(counted)


def test_every_method_follows_the_matrix_exponential_within_a_hundred_tolerances(valley):
    _, flow, _ = valley
    assert flow.complete and np.array_equal(flow.times, linear_times(5.0, 14))
    np.testing.assert_allclose(flat(flow.states), exact_states(flow.times), rtol=0, atol=100 * 1e-7)
    np.testing.assert_allclose(
        flat(jax.tree.map(lambda leaf: leaf[None], flow.final)), flat(flow.states)[-1:], rtol=0, atol=1e-15
    )


def test_every_method_counts_each_evaluation_of_its_field(valley):
    """Jacobians, and their products with a vector, evaluate the field once more each, where a method is given them."""
    _, flow, evaluations = valley
    assert flow.cost.evaluations + flow.cost.jacobians + flow.cost.jvps == evaluations


def test_the_counts_of_every_method_are_consistent(valley):
    method, flow, _ = valley
    cost = flow.cost
    assert cost.jacobians == 0 or method in ("LSODA", "BDF", "Radau")
    assert cost.jvps == 0 or method in ("rkc2", "auto")
    if cost.accepted is None:
        assert method == "odeint" and cost.rejected is None
    else:
        assert 0 < cost.accepted <= cost.evaluations
        assert cost.rejected is None or 0 <= cost.rejected < cost.evaluations
    # 1 / 3 of the span is the time scale of the fastest mode: no method crosses it in fewer than ten evaluations
    assert 10 < cost.evaluations < 20_000


def test_every_method_dissipates_what_the_loss_loses(valley):
    method, flow, _ = valley
    tolerance = (1000 if method == "rkc2" else 100) * 1e-7  # of order two, it adds up the errors of a thousand steps
    losses = np.array([0.5 * z @ HESSIAN @ z for z in exact_states(flow.times)])
    np.testing.assert_allclose(flow.loss, losses, rtol=0, atol=100 * 1e-7)
    np.testing.assert_allclose(flow.dissipated, losses[0] - losses, rtol=0, atol=tolerance)


def wide_valley(params):
    return 0.5 * jnp.sum(jnp.arange(1, 2002) / 2001 * params**2)


def counting_wide_field(params):
    jax.debug.callback(lambda: counted.append(1))
    gradient = jax.grad(wide_valley)(params)
    return -gradient, gradient @ gradient


def test_evaluations_behind_finite_differences_are_counted():
    """2001 variables and the energy: BDF takes its Jacobian from that many evaluations, which scipy's nfev leaves out."""
    jax.effects_barrier()
    counted.clear()
    times = np.array([0.0, 0.1])
    flow = gradient_flow(wide_valley, jnp.ones(2001), times=times, method="BDF", rtol=1e-3, field=counting_wide_field)
    jax.effects_barrier()
    assert flow.complete
    assert flow.cost.evaluations == len(counted) > 2002 and flow.cost.jacobians == 0
    exact = np.exp(-0.1 * np.arange(1, 2002) / 2001)
    np.testing.assert_allclose(flow.states[-1], exact, rtol=0, atol=100 * 1e-3)


def moving_part(params):
    return 0.5 * jnp.sum(jnp.array([0.5, 1.0, 3.0]) * params["moving"] ** 2)


def test_numbers_that_stand_still_do_not_dilute_the_tolerance_of_those_that_move():
    """One norm over all numbers would forgive the three that move a hundredfold error and take fewer steps."""
    start, times = jnp.array([1.0, -2.0, 0.5]), linear_times(5.0, 13)
    alone = gradient_flow(moving_part, {"moving": start}, times=times)
    among = gradient_flow(moving_part, {"moving": start, "still": jnp.ones(30_000)}, times=times)
    assert among.cost.accepted >= alone.cost.accepted - 1  # the first step is chosen from both leaves


# ------------------------------------------------------------------------------------------ one logistic loss, for ever


def logistic(x):
    return jnp.logaddexp(0.0, -x)


def exact_margin(t, start):
    """x of x + e^x = t + start + e^start, by Newton's method in x (convex, so it converges from above)."""
    right = t + start + np.exp(start)
    x = np.where(right > 1, np.log(np.maximum(right, 1.0)), start)
    for _ in range(100):
        x = x - (x + np.exp(x) - right) / (1 + np.exp(x))
    return x


@pytest.mark.parametrize("method", ADAPTIVE)
def test_every_method_follows_a_logistic_loss_to_a_trillion(method):
    """kvaerno5 sets the tolerance here: diffrax reads its save points off a cubic within each step."""
    times = log_times(1e-3, 1e12, 38)
    flow = gradient_flow(logistic, jnp.array(-1.0), times=times, method=method, rtol=1e-6)
    assert flow.complete
    exact = exact_margin(times, -1.0)
    assert exact[-1] == pytest.approx(np.log(1e12), rel=1e-9)  # x = ln t to leading order
    assert (np.abs(flow.states - exact) <= 100 * 1e-6 * np.maximum(1, np.abs(exact))).all()
    # a few hundred evaluations a decade (a thousand where each step solves equations or is of order two), fifteen decades
    assert flow.cost.evaluations < 15 * (1000 if method in ("kvaerno5", "rkc2") else 300)


# ------------------------------------------------------------------------------------------------- the coupled system


@pytest.fixture(scope="module")
def small_system():
    rng = np.random.default_rng(6)
    tokens = np.array([[2, 0, 1], [1, 2, 0], [0, 1, 2], [2, 3, 0], [1, 4, 2], [5, 2, 6]])
    batch = Batch(jnp.array(tokens), jnp.array([1.0, 1, 1, -1, -1, -1]), jnp.array([0, 0, 0, 1, 2, 3]))
    shapes = {"W": (4, 10), "W_V": (10, 7), "W_K": (10, 7), "W_Q": (10, 7)}
    matrices = {name: jnp.array(rng.normal(scale=0.3, size=shape)) for name, shape in shapes.items()}
    weights = cooccurrence.Weights(**matrices, a=jnp.array([1.0, -1, 1, 1]))
    return coupled.reduce(weights), batch, coupled.width_of(weights)


@pytest.fixture(scope="module")
def reference(small_system):
    return gradient_flow(
        coupled.loss, *small_system, times=linear_times(20.0, 14), method="DOP853", rtol=1e-11, field=coupled.field
    )


@pytest.mark.parametrize("method", NOT_STIFF)
def test_explicit_methods_agree_on_the_coupled_system(method, small_system, reference):
    flow = gradient_flow(
        coupled.loss, *small_system, times=linear_times(20.0, 14), method=method, rtol=1e-7, field=coupled.field
    )
    assert flow.complete and reference.complete
    for name in ("G", "S", "Gamma_V", "A", "Gamma_K", "Gamma_Q"):
        expected = getattr(reference.states, name)
        assert np.abs(expected - expected[0]).max() > 1e-3
        np.testing.assert_allclose(
            getattr(flow.states, name), expected, rtol=0, atol=100 * 1e-7 * np.abs(expected).max(), err_msg=name
        )
    np.testing.assert_allclose(flow.loss, reference.loss, rtol=0, atol=100 * 1e-7)


# ----------------------------------------------------------------------------------------------------------- stretches


@pytest.mark.parametrize("count", [2, 3, 6, 12, 13, 14, 25, 26, 201])
def test_stretches_are_equally_long_and_hold_every_save_time_once(count):
    times = linear_times(1.0, count)
    parts = stretches(times)
    assert len(parts) <= 12 and len({len(part) for part in parts}) == 1
    np.testing.assert_array_equal(np.unique(np.concatenate(parts)), times[1:])
    # only the end time is repeated, to fill the last stretch
    assert (np.concatenate(parts)[: count - 1] == times[1:]).all()
    assert (np.concatenate(parts)[count - 1 :] == times[-1]).all()


@pytest.mark.parametrize(
    ("method", "count"), [("tsit5", 2), ("tsit5", 6), ("tsit5", 26), ("RK45", 2), ("RK45", 26), ("odeint", 2)]
)
def test_any_number_of_save_times_gives_the_same_solution(method, count):
    """Thirteen times after the start are the valley's."""
    times = linear_times(5.0, count)
    flow = gradient_flow(
        quadratic, START, jnp.array(HESSIAN), times=times, method=method, rtol=1e-7, field=counting_field
    )
    assert flow.complete and len(flow.loss) == len(flat(flow.states)) == count
    np.testing.assert_allclose(flat(flow.states), exact_states(times), rtol=0, atol=100 * 1e-7)


@pytest.mark.parametrize("start", [2.0, -1.0])
@pytest.mark.parametrize("method", ["tsit5", "RK45"])
def test_the_first_time_may_be_any_time(method, start):
    times = start + np.array([0.0, 1.0, 2.5])
    flow = gradient_flow(
        quadratic, START, jnp.array(HESSIAN), times=times, method=method, rtol=1e-7, field=counting_field
    )
    assert flow.complete and np.array_equal(flow.times, times)
    np.testing.assert_allclose(flat(flow.states), exact_states(times - start), rtol=0, atol=100 * 1e-7)


# ------------------------------------------------------------------------------------------------- methods that give up


@functools.cache
def exhausted(method):
    """A flow that is allowed nine steps in a stretch, too few for any method."""
    times = linear_times(60.0, 13)
    return gradient_flow(quadratic, START, jnp.array(HESSIAN), times=times, method=method, rtol=1e-7, max_steps=9)


@pytest.mark.parametrize("method", PATHS)
def test_running_out_of_steps_is_reported(method):
    flow = exhausted(method)
    assert not flow.complete
    assert "max_steps = 9" in flow.status
    assert "after t = 0:" in flow.status  # nothing of the first stretch is kept


@pytest.mark.parametrize("method", PATHS)
def test_what_is_kept_when_steps_run_out_lies_on_the_solution(method):
    flow = exhausted(method)
    assert len(flow.times) == len(flow.loss) == len(flat(flow.states)) >= 1
    np.testing.assert_allclose(flat(flow.states), exact_states(flow.times), rtol=0, atol=100 * 1e-7)


def explosion(params):
    """dx/dt = x^2: x = 1 / (1 - t) from x = 1."""
    return -(params["x"] ** 3) / 3 + 0.5 * params["still"] ** 2


def square_root(params):
    """dx/dt = -1 / sqrt(x), so that x^(3/2) = 1 - 3 t / 2; beyond, the loss and its gradient are not a number."""
    return 2 * jnp.sqrt(params["x"]) + 0.5 * params["still"] ** 2


@functools.cache
def ended(loss, method):
    """A flow that cannot reach its end time."""
    start = {"still": jnp.array(0.0), "x": jnp.array(1.0)}
    return gradient_flow(loss, start, times=linear_times(2.4, 26), method=method, max_steps=3000)


def check_kept_part(flow, exact, t_end):
    """Everything before the last good stretch is kept, nothing is kept beyond, and what is kept is right."""
    assert not flow.complete and "t = " in flow.status
    kept = len(flow.times)
    assert len(flow.loss) == len(flow.dissipated) == len(flow.states["x"]) == kept
    assert np.isfinite(flow.loss).all() and np.isfinite(flow.states["x"]).all()
    stretch = stretches(linear_times(2.4, 26))[0].size * 2.4 / 25
    assert t_end - stretch - 2.4 / 25 <= flow.times[-1] < t_end
    np.testing.assert_allclose(
        flow.states["x"], exact(flow.times), rtol=1e-3
    )  # 1e-6 a step, times the growth of errors near the end


@pytest.mark.parametrize("method", PATHS)
def test_a_solution_that_explodes_ends_the_run_and_what_was_before_is_kept(method):
    check_kept_part(ended(explosion, method), lambda t: 1 / (1 - t), 1.0)


@pytest.mark.parametrize("method", PATHS)
def test_a_loss_that_stops_being_a_number_ends_the_run_and_what_was_before_is_kept(method):
    check_kept_part(ended(square_root, method), lambda t: (1 - 1.5 * t) ** (2 / 3), 2 / 3)


def test_a_variable_that_left_the_finite_range_is_named():
    flow = ended(explosion, "odeint")
    assert not np.isfinite(flow.final["x"])
    assert "left the finite range before t = " in flow.status and "['x']" in flow.status


@pytest.mark.parametrize("method", PATHS)
def test_a_start_that_is_not_finite_is_refused_and_named(method):
    start = {"still": jnp.array(0.0), "x": jnp.array(jnp.nan)}
    with pytest.raises(InputError, match=r"finite at the start, where it is nan\. \['x'\] is not finite, either\."):
        gradient_flow(explosion, start, times=linear_times(2.4, 26), method=method, max_steps=3000)


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(InputError) as refusal:
        gradient_flow(quadratic, START, jnp.array(HESSIAN), times=[0.0, 1.0], method="rk4")
    assert "'rk4'" in str(refusal.value)
    assert all(method in str(refusal.value) for method in METHODS)


@pytest.mark.parametrize("method", ["kvaerno5", "LSODA", "BDF", "Radau"])
def test_implicit_methods_refuse_systems_whose_jacobian_is_too_large(method):
    with pytest.raises(InputError, match="dense Jacobian, which 50002 variables do not allow"):
        gradient_flow(lambda p: jnp.sum(p**2), jnp.ones(50_001), times=[0.0, 1.0], method=method)
