"""Runge-Kutta-Chebyshev: its stability polynomial against numpy's Chebyshev series, its order, its spectral radius, its counts."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial.chebyshev import Chebyshev

from gradflow import gradient_flow, linear_times, log_times
from gradflow.dynamics.integrators.auto import STABLE
from gradflow.dynamics.integrators.counting import Tally, Told, by_state
from gradflow.dynamics.integrators.rkc import DAMPING, RKC2, SAFETY, stages
from gradflow.dynamics.sharpness import spectral_radius

# ---------------------------------------------------------------------------------------------- one step on y' = -rates y


def decay(t, y, rates):
    return -rates * y


TERM = diffrax.ODETerm(decay)


@eqx.filter_jit
def initial(rates):
    return RKC2().init(TERM, jnp.array(0.0), jnp.array(1.0), jnp.ones_like(rates), rates)


@eqx.filter_jit
def one_step(h, rates, state):
    return RKC2().step(TERM, jnp.array(0.0), h, jnp.ones_like(rates), rates, state, False)


def step_with(s, z):
    """(y1, error) of a step h = 1 from y = 1 on y' = z y, for many z at once, in s stages."""
    rho = ((s - 0.5) ** 2 - 1) / 1.54 / SAFETY  # the middle of what asks for s stages
    state = initial(jnp.array(-z))._replace(rho=jnp.array(rho), slope=jnp.array(z))
    y1, error, _, after, _ = one_step(jnp.array(1.0), jnp.array(-z), state)
    assert int(after.work.evaluations - state.work.evaluations) == s
    return np.asarray(y1), np.asarray(error)


def stability_polynomial(s, z):
    """P_s(z) of Sommeijer, Shampine, Verwer (1997), Eqs. 2.4 to 2.6, by numpy."""
    T = Chebyshev.basis(s)
    w0 = 1 + DAMPING / s**2
    w1 = T.deriv(1)(w0) / T.deriv(2)(w0)
    b = T.deriv(2)(w0) / T.deriv(1)(w0) ** 2
    return 1 - b * T(w0) + b * T(w0 + w1 * z)


def claimed_interval(s):
    """Of `DAMPING`, to leading order: 2/3 (s^2 - 1) (1 - 2/15 DAMPING), a little less for few stages."""
    return 2 / 3 * (s**2 - 1) * (1 - 2 / 15 * DAMPING)


@pytest.mark.parametrize("s", [2, 3, 4, 7, 20, 100, 300])
def test_a_step_is_the_stability_polynomial_and_stable_where_stages_are_chosen_for(s):
    z = -np.linspace(0, (s**2 - 1) / 1.54, 1201)
    y1, _ = step_with(s, z)
    # round-off of the recurrence grows as the stages squared, of numpy's series a few times faster
    np.testing.assert_allclose(y1, stability_polynomial(s, z), rtol=0, atol=1e-14 * s**2)
    assert (abs(y1) <= 1 + 1e-12).all()
    assert (abs(y1[z < -2]) < 0.97).all()  # damped: about 1 - DAMPING / 3 at the peaks


@pytest.mark.parametrize("s", [2, 7, 100])
def test_far_outside_the_interval_the_step_is_unstable(s):
    y1, _ = step_with(s, np.full(1201, -1.1 * claimed_interval(s)))
    assert abs(y1[0]) > 1


def test_no_fewer_stages_than_stability_asks_and_no_more():
    z = np.geomspace(1e-3, 6e5, 400)
    s, possible = jax.vmap(lambda z: stages(z, 1000))(jnp.array(z))
    s = np.asarray(s)
    assert possible.all() and s.min() == 2 and s.max() > 900
    assert (claimed_interval(s) >= z).all()
    # 1.54 is 0.5 % above the inverse of the interval's coefficient
    assert (claimed_interval(s[s > 2] - 1) <= 1.006 * z[s > 2]).all()


def test_the_error_estimate_is_the_paper_s():
    """(4/5) (y0 - y1) + (2/5) h (f0 + f1) (Eq. 2.9)."""
    z = -np.linspace(0, 30, 1201)
    y1, error = step_with(7, z)
    np.testing.assert_allclose(error, 0.8 * (1 - y1) + 0.4 * z * (1 + y1), rtol=0, atol=1e-12)


def test_a_step_that_needs_too_many_stages_is_refused_at_no_cost():
    rates = jnp.linspace(0.0, 1e3, 1201)
    state = initial(rates)
    y1, error, _, after, _ = one_step(jnp.array(1e5), rates, state)
    assert np.isinf(error).all() and np.isfinite(y1).all()
    assert int(after.work.evaluations) == int(state.work.evaluations)


# ---------------------------------------------------------------------------------------------------- spectral radius


def test_the_spectral_radius_is_numpy_s_largest_eigenvalue():
    matrix = np.random.default_rng(0).normal(size=(60, 60))
    matrix = matrix + matrix.T
    largest = abs(np.linalg.eigvalsh(matrix)).max()
    rho, vector, products = jax.jit(lambda v: spectral_radius(lambda v: matrix @ v, v, jnp.inf, 1e-6))(jnp.ones(60))
    assert 0.99 * largest < rho <= largest * (1 + 1e-12)  # from below; the gap to the next eigenvalue is a few percent
    assert 1 < products <= 100
    assert float(abs(vector @ matrix @ vector)) <= largest * (1 + 1e-12)


def test_a_cold_start_ends_within_the_safety_factor_of_the_spectral_radius():
    rates = jnp.linspace(0.0, 700.0, 1201)  # no gap at all: the hardest spectrum for a power iteration
    assert 700 / SAFETY < initial(rates).rho <= 700


def test_an_eigenvalue_that_takes_the_lead_is_found_though_the_vector_is_blind_to_it():
    """The first measurement sees nothing but its noise; the vector that it leaves has fifty times as much of the new one."""
    rates = jnp.linspace(0.0, 1.0, 1201).at[7].set(50.0)
    state = initial(rates)._replace(vector=jnp.zeros(1201).at[-1].set(1.0), rho=jnp.array(1.0))
    products = int(state.work.jvps)
    for _ in range(3):
        *_, state, _ = one_step(jnp.array(0.01), rates, state._replace(since=jnp.array(1000)))
    assert float(state.rho) == pytest.approx(50.0, rel=0.02)  # ends at a change of one percent
    assert int(state.work.jvps) - products <= 10 and int(state.since) < 1000


# ------------------------------------------------------------------------------------------------------ order, accuracy


def bending(t, y, rates):
    """x = 1 / (1 + t^2), and a fast mode at rest, for which stages have to be many."""
    return jnp.stack([-2 * t * y[0] ** 2, -rates * y[1]])


@eqx.filter_jit
def in_fixed_steps(h):
    """To t = 2, the fast rate so that each step takes the same number of stages: an error's constant depends on that."""
    return diffrax.diffeqsolve(
        diffrax.ODETerm(bending), RKC2(), 0.0, 2.0, h, jnp.array([1.0, 0.0]), 20 / h,
        saveat=diffrax.SaveAt(ts=jnp.array([0.517, 1.03]), solver_state=True), max_steps=1000,
    )  # fmt: skip


def test_the_method_is_of_order_two_and_its_dense_output_passes_that_on():
    errors = []
    for steps in (40, 80, 160):
        solution = in_fixed_steps(jnp.array(2.0 / steps))
        assert int(solution.solver_state.work.evaluations) == 6 * steps + 1
        errors.append(abs(np.asarray(solution.ys[:, 0]) - 1 / (1 + np.array([0.517, 1.03]) ** 2)))
    slopes = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    np.testing.assert_allclose(slopes, 2, atol=0.1)  # the next order's share of the error at the longest steps


RATES = np.geomspace(0.01, 700, 12)
AXES = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0]
HESSIAN = AXES @ np.diag(RATES) @ AXES.T
counted = []


def ravine(params, hessian):
    z = jnp.concatenate([params["a"], params["b"]])
    return 0.5 * z @ hessian @ z


def counting_ravine_field(params, hessian):
    """The field of `ravine`; each evaluation, and each product with its Jacobian, leaves a mark in `counted`."""
    jax.debug.callback(lambda: counted.append(1))
    z = jnp.concatenate([params["a"], params["b"]])
    gradient = hessian @ z
    return {"a": -gradient[:5], "b": -gradient[5:]}, gradient @ gradient


def follow(method, times, rtol=1e-6, **options):
    jax.effects_barrier()
    counted.clear()
    start = {"a": jnp.ones(5), "b": jnp.ones(7)}
    flow = gradient_flow(
        ravine, start, jnp.array(HESSIAN), times=times, method=method, rtol=rtol, field=counting_ravine_field, **options
    )
    jax.effects_barrier()
    return flow, len(counted)


def exact_ravine(times):
    return np.stack([AXES @ (np.exp(-RATES * t) * (AXES.T @ np.ones(12))) for t in times])


@pytest.fixture(scope="module")
def ravine_by_rkc2():
    return follow("rkc2", log_times(1e-3, 100.0, 27))


def test_a_stiff_linear_flow_is_followed_within_a_hundred_tolerances(ravine_by_rkc2):
    flow, _ = ravine_by_rkc2
    assert flow.complete
    states = np.hstack([flow.states["a"], flow.states["b"]])
    np.testing.assert_allclose(states, exact_ravine(flow.times), rtol=0, atol=100 * 1e-6)


def test_every_evaluation_and_product_is_counted_those_of_rejected_steps_too(ravine_by_rkc2):
    flow, marks = ravine_by_rkc2
    assert flow.cost.rejected > 0
    assert flow.cost.jvps > 0 and flow.cost.jacobians == 0
    assert flow.cost.evaluations + flow.cost.jvps == marks
    assert f"{flow.cost.evaluations} evaluations, {flow.cost.jvps} Jacobian-vector products" in flow.trust()


def test_a_stiff_flow_costs_a_fraction_of_what_stability_asks_of_tsit5(ravine_by_rkc2):
    flow, _ = ravine_by_rkc2
    by_tsit5 = 6 * 100.0 * RATES.max() / STABLE
    assert flow.cost.evaluations + 2 * flow.cost.jvps < by_tsit5 / 8


def bowl(x):
    return 10 * x**2


def test_weights_in_single_precision_are_followed_in_that_of_the_times():
    flow = gradient_flow(bowl, jnp.ones((), jnp.float32), times=[0.0, 0.1], method="rkc2", rtol=1e-4)
    assert flow.complete and flow.final.dtype == jnp.float64
    assert flow.states[-1] == pytest.approx(np.exp(-2.0), abs=100 * 1e-4)


def test_a_limit_on_stages_shortens_the_steps_and_keeps_the_accuracy():
    def solve(max_stages):
        return diffrax.diffeqsolve(
            TERM, Told(RKC2(max_stages=max_stages), by_state), 0.0, 20.0, 1e-4, jnp.ones(12), jnp.array(RATES),
            stepsize_controller=Tally(diffrax.PIDController(rtol=1e-4, atol=1e-7)),
            saveat=diffrax.SaveAt(t1=True, controller_state=True), max_steps=20_000,
        )  # fmt: skip

    solution = solve(max_stages=10)
    accepted, work = int(solution.stats["num_accepted_steps"]), solution.controller_state[1]
    assert accepted > 20 * 700 / claimed_interval(10) / 2  # as short as ten stages allow, for most of the span
    assert int(work.evaluations) <= 10 * (accepted + 50)  # refused steps, hundreds, cost nothing
    np.testing.assert_allclose(solution.ys[0], np.exp(-RATES * 20.0), rtol=0, atol=100 * 1e-4)


# ----------------------------------------------------------------------------------------------------------------- auto

POINTS = np.random.default_rng(2).normal(size=(6, 3)) * np.array([1.0, 0.3, 8.0])
SIGNS = np.sign(POINTS @ np.array([1.0, 1.0, -0.2]))


def logistic(w, points, signs):
    return jnp.mean(jax.nn.softplus(-signs * (points @ w)))


def squared(w, points, signs):
    return 0.5 * jnp.mean((points @ w - signs) ** 2)


def by_auto(loss, times, **options):
    return gradient_flow(
        loss, jnp.full(3, 0.1), jnp.array(POINTS), jnp.array(SIGNS), times=times, method="auto", **options
    )


def test_auto_stays_with_tsit5_on_a_logistic_loss_and_says_why():
    flow = by_auto(logistic, log_times(1e-2, 1e4, 25))
    assert flow.complete
    assert flow.method.startswith("auto: tsit5 throughout (step x lambda_max <= ")
    assert "of 3.5 that tsit5 can take)" in flow.method and flow.method in flow.trust()


def test_auto_goes_on_with_rkc2_on_a_squared_loss_and_says_why():
    times = log_times(1e-2, 1e4, 25)
    flow = by_auto(squared, times)
    assert flow.complete
    assert flow.method.startswith("auto: tsit5 to t = ") and ", then rkc2 (step x lambda_max = " in flow.method
    rates, axes = np.linalg.eigh(POINTS.T @ POINTS / 6)
    best = np.linalg.lstsq(POINTS, SIGNS, rcond=None)[0]
    exact = best + (np.exp(-np.outer(times, rates)) * (axes.T @ (np.full(3, 0.1) - best))) @ axes.T
    np.testing.assert_allclose(flow.states, exact, rtol=0, atol=100 * 1e-6)
    assert flow.cost.evaluations + 2 * flow.cost.jvps < 6 * 1e4 * rates.max() / STABLE / 8


def test_auto_returns_to_tsit5_where_rkc2_does_not_pay_and_says_why():
    """At a tight tolerance a method of order two takes shorter steps than even stability allows tsit5."""
    flow, marks = follow("auto", linear_times(2.0, 13), rtol=1e-9, max_steps=450)
    assert flow.complete
    assert ", then rkc2 (step x lambda_max" in flow.method
    assert (
        ", then tsit5 (rkc2 cost " in flow.method
        and "times what tsit5 would in steps of 3.5 / lambda_max)" in flow.method
    )
    assert flow.cost.evaluations + flow.cost.jvps == marks  # some stretches of tsit5 begin with a rejected step
    states = np.hstack([flow.states["a"], flow.states["b"]])
    np.testing.assert_allclose(states, exact_ravine(flow.times), rtol=0, atol=100 * 1e-9)
    assert flow.method.count("then rkc2") <= 4  # of twelve stretches: it tries less and less often


def test_auto_lets_tsit5_do_again_what_rkc2_has_not_steps_enough_for():
    """As above at a tighter tolerance, where rkc2 takes more steps yet."""
    flow, marks = follow("auto", linear_times(2.0, 13), rtol=1e-10, max_steps=450)
    assert flow.complete
    assert ", then tsit5 (rkc2 needed more than max_steps = 450 steps in one stretch)" in flow.method
    assert flow.cost.evaluations + flow.cost.jvps == marks
    states = np.hstack([flow.states["a"], flow.states["b"]])
    np.testing.assert_allclose(states, exact_ravine(flow.times), rtol=0, atol=100 * 1e-10)


def test_auto_s_bound_is_that_of_tsit5_s_stability_polynomial():
    tableau = diffrax.Tsit5.tableau
    A = np.zeros((7, 7))
    for i, row in enumerate(tableau.a_lower):
        A[i + 1, : i + 1] = row
    powers = [np.asarray(tableau.b_sol) @ np.linalg.matrix_power(A, k) @ np.ones(7) for k in range(7)]

    def stable(z):
        return abs(1 + sum(power * z ** (k + 1) for k, power in enumerate(powers))) <= 1 + 1e-9

    assert stable(-np.linspace(1e-3, STABLE - 1e-3, 4000)).all() and not stable(-STABLE - 1e-3)
