"""Each optimizer's flow is the limit of optax's own updates, has its closed forms and its energy; `descend` is optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradflow import InputError, descend, gradient_flow, linear_times, optimizer_flow
from gradflow.dynamics.optimizers import Adam, HeavyBall, RMSProp, Sign, State

RANDOM = np.random.default_rng(1)  # its gradient's first component changes sign at t = 0.36 under Adam, others later
DATA = jnp.array(RANDOM.normal(size=(6, 3))), jnp.array(RANDOM.choice([-3.0, 3.0], 6))
START = {"W": jnp.array(RANDOM.normal(size=(4, 3))), "w": jnp.array(RANDOM.normal(size=4))}


def misfit(params, inputs, labels):
    """Squared loss of a network of two layers."""
    return 0.5 * jnp.mean((jnp.tanh(inputs @ params["W"].T) @ params["w"] - labels) ** 2)


def quadratic(x, hessian):
    return 0.5 * x @ hessian @ x


def linear(x, slope):
    return slope @ x


def squared(tree):
    return sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree))


def norm(tree):
    return float(jnp.sqrt(squared(tree)))


def difference(one, other):
    return jax.tree.map(lambda x, y: np.asarray(x) - np.asarray(y), one, other)


def slope(by_rate):
    """Exponent of the learning rate, by least squares."""
    return np.polyfit(np.log(list(by_rate)), np.log(list(by_rate.values())), 1)[0]


# ------------------------------------------------------------------------------------------- descent tends to the flow

OPTIMIZERS = {"heavy ball": HeavyBall(2.0), "RMSProp": RMSProp(3.0, eps=0.1), "Adam": Adam(2.0, 3.0, eps=0.1)}
STEPS = (100, 200, 400, 1000)  # to t = 1; at the largest rate a.rate and b.rate are 0.02 and 0.03


@functools.cache
def flow_of(name):
    return optimizer_flow(misfit, START, *DATA, optimizer=OPTIMIZERS[name], times=linear_times(1.0, 13), rtol=1e-10)


@functools.cache
def descents_of(name):
    """Descents by their rate."""
    return {
        1 / steps: descend(
            misfit, START, *DATA, learning_rate=1 / steps, steps=steps, save_steps=[0, steps], optimizer=OPTIMIZERS[name]
        )
        for steps in STEPS
    }  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_distance_of_optax_to_the_flow_is_of_first_order_in_the_learning_rate(name):
    flow, descents = flow_of(name), descents_of(name)
    assert flow.complete and flow.times[-1] == 1.0
    end = jax.tree.map(lambda leaf: leaf[-1], flow.states)
    distances = {rate: norm(difference(run.final, end)) for rate, run in descents.items()}
    assert slope(distances) == pytest.approx(1, abs=0.05)  # second order adds a few percent at the largest rate
    # far above the flow's own error, far below the way that was gone
    assert distances[min(distances)] > 1e-5
    assert distances[max(distances)] < 0.03 * norm(difference(end, START))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_energy_balances_along_the_flow_and_to_first_order_in_the_learning_rate_along_descent(name):
    flow, descents = flow_of(name), descents_of(name)
    assert abs(flow.loss[-1] - flow.loss[0]) > 0.5
    assert 0 < np.abs(flow.energy_residual).max() < 1e-9  # ten tolerances
    residuals = {rate: abs(run.energy_residual[-1]) for rate, run in descents.items()}
    assert slope(residuals) == pytest.approx(1, abs=0.05)
    assert min(residuals.values()) > 1e-5  # not rounding


def test_the_bias_corrections_of_the_flow_are_those_of_every_step():
    final = flow_of("Adam").final
    for correction, rate in ((final.c1, 2.0), (final.c2, 3.0)):
        assert correction == pytest.approx(1 - np.exp(-rate / 100) ** 100, rel=1e-9)  # ten tolerances


def test_a_run_with_given_decays_is_the_flow_of_minus_their_logarithm_over_the_rate():
    by_optax = functools.partial(optax.adam, b1=0.98, b2=0.97)
    rates = -100 * np.log([0.98, 0.97])
    one, other = (
        descend(misfit, START, *DATA, learning_rate=0.01, steps=100, save_steps=[0, 100], optimizer=optimizer)
        for optimizer in (by_optax, Adam(*map(float, rates)))
    )
    assert norm(difference(one.final, other.final)) < 1e-10  # a hundred roundings, in quotients near 0 / 0
    assert one.method == "gradient descent, adam(b1=0.98, b2=0.97), learning_rate = 0.01"


def test_the_two_ways_to_train_name_the_optimizer():
    assert flow_of("heavy ball").method.startswith("HeavyBall(a=2.0), tsit5 (diffrax)")
    assert descents_of("heavy ball")[0.01].method == "gradient descent, HeavyBall(a=2.0), learning_rate = 0.01"


# ----------------------------------------------------------------------------------------------------------- heavy ball

HESSIAN = np.diag([0.1, 2.0, 30.0])
TIMES = linear_times(2.0, 25)


def test_heavy_ball_in_a_quadratic_is_the_damped_oscillator():
    """(1/a) x'' + x' + h x = 0 from rest, one mode of each kind: the first creeps, the others oscillate (4 h > a)."""
    a, h, x0 = 1.5, np.diag(HESSIAN), np.array([1.0, -2.0, 0.5])
    frequency = np.sqrt(a * h - a**2 / 4 + 0j)
    phase = frequency * TIMES[:, None]
    decay = np.exp(-a / 2 * TIMES)[:, None]
    exact = (x0 * decay * (np.cos(phase) + a / (2 * frequency) * np.sin(phase))).real
    speed = (-x0 * decay * a * h / frequency * np.sin(phase)).real
    flow = optimizer_flow(
        quadratic, jnp.array(x0), jnp.array(HESSIAN), optimizer=HeavyBall(a), times=TIMES, rtol=1e-10, method="DOP853"
    )
    np.testing.assert_allclose(flow.states, exact, rtol=0, atol=1e-8)  # a hundred tolerances
    np.testing.assert_allclose(flow.final.m, -speed[-1], rtol=0, atol=1e-7)  # as much, of speeds up to 3


def test_potential_and_kinetic_energy_of_heavy_ball_fall_at_the_rate_of_its_squared_speed():
    """d/dt (loss + |m|^2 / (2 a)) = -|m|^2."""
    ball = HeavyBall(2.0)

    def energy(state, *data):
        return misfit(state.params, *data) + squared(state.m) / (2 * ball.a)

    def field(state, *data):
        velocity = ball.velocity(state, jax.grad(misfit)(state.params, *data))
        return velocity, squared(state.m)

    flow = gradient_flow(
        energy, ball.begin(START), *DATA, times=linear_times(6.0, 61), method="DOP853", rtol=1e-9, field=field
    )
    assert flow.complete and (np.diff(flow.loss) < 0).all() and flow.loss[-1] < 0.6 * flow.loss[0]
    assert np.abs(flow.energy_residual).max() < 1e-7  # a hundred tolerances


def test_a_loss_may_rise_by_the_energy_that_is_put_in():
    """A ball that is thrown uphill from the bottom: x = e^{-a t / 2} sin(w t) / w."""
    ball = HeavyBall(1.0)

    def field(state, curvature):
        gradient = curvature * state.params
        return ball.velocity(state, gradient), gradient * state.m

    frequency = np.sqrt(4.0 - 0.25)
    flow = gradient_flow(
        lambda state, curvature: 0.5 * curvature * state.params**2, State(0.0, m=-1.0), 4.0,
        times=TIMES, method="DOP853", rtol=1e-9, field=field,
    )  # fmt: skip
    exact = np.exp(-TIMES / 2) * np.sin(frequency * TIMES) / frequency
    assert flow.complete and flow.loss.max() > 0.2
    np.testing.assert_allclose(flow.states.params, exact, rtol=0, atol=1e-7)  # a hundred tolerances
    assert np.abs(flow.energy_residual).max() < 1e-7


# ----------------------------------------------------------------------------------------------------- Adam and RMSProp


def test_adam_begins_as_sign_descent_and_not_at_all_where_the_gradient_is_zero():
    adam, gradient = Adam(2.0, 3.0, eps=1e-3), jnp.array([2.0, -1e-3, 1e-9, 0.0])
    start = adam.begin(jnp.zeros(4))
    velocity = adam.velocity(start, gradient)
    np.testing.assert_allclose(velocity.params, -gradient / (jnp.abs(gradient) + 1e-3), rtol=1e-14)  # roundings
    for rates, exact in ((velocity.m, 2.0 * gradient), (velocity.v, 3.0 * gradient**2), (velocity.c1, 2.0)):
        np.testing.assert_allclose(rates, exact, rtol=1e-15)
    slopes = jax.jit(jax.jacfwd(adam.velocity))(start, gradient)  # implicit methods need them finite
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_adam_down_a_slope_has_constant_speed_from_the_start_on():
    """m/c1 = g and v/c2 = g^2 at every time, so that only the bias corrections could bend the path."""
    gradient = jnp.array([1.0, -0.3, 1e-3, 0.0])
    flow = optimizer_flow(
        linear, jnp.ones(4), gradient, optimizer=Adam(20.0, 0.5, eps=1e-3), times=TIMES, rtol=1e-9, method="DOP853"
    )
    exact = 1 - TIMES[:, None] * np.asarray(gradient / (jnp.abs(gradient) + 1e-3))
    np.testing.assert_allclose(flow.states, exact, rtol=0, atol=1e-7)  # a hundred tolerances


def test_rms_prop_that_forgets_at_once_is_sign_descent():
    """v lags g^2 by O(1/b), and it forgets its start in a time O(1/b)."""
    x0, hessian = jnp.array([3.0, -2.0]), jnp.array([[2.0, 0.3], [0.3, 1.0]])  # neither component crosses zero by t = 1
    exact = np.asarray(x0) - np.sign(hessian @ x0)
    distances = {
        b: norm(
            optimizer_flow(
                quadratic, x0, hessian, optimizer=RMSProp(b), times=[0.0, 1.0], rtol=1e-8, method="DOP853"
            ).final.params
            - exact
        )
        for b in (100.0, 1000.0)
    }  # fmt: skip
    assert slope(distances) == pytest.approx(-1, abs=0.02)  # second order is 1/b, a few percent
    assert distances[1000.0] < 2e-3


# ----------------------------------------------------------------------------------------------------------------- sign

CROSSING = jnp.array([[1.0, -2.0], [-2.0, 8.0]])
BEFORE = jnp.linalg.solve(CROSSING, jnp.array([-1.0, 9.0]))  # gradient (-1, 9) + t (3, -10), then (0, 17/3) + t (1, -6)


def test_sign_descent_is_a_learning_rate_off_the_flow_behind_a_crossing_half_way_through_a_step():
    """Gradient and parameters are linear in t: the first component turns at t = 1/3, and descent half a step later."""
    end = 2 / 3
    exact = np.asarray(BEFORE) + 1 / 3 * np.array([1, -1]) - 1 / 3 * np.array([1, 1])
    flow = optimizer_flow(
        quadratic, BEFORE, CROSSING, optimizer=Sign(), times=linear_times(end, 9), rtol=1e-8, method="DOP853"
    )
    np.testing.assert_allclose(flow.final.params, exact, rtol=0, atol=1e-5)  # error estimates across a jump are rough
    np.testing.assert_allclose(flow.states[3] - BEFORE, [0.25, -0.25], rtol=0, atol=1e-14)  # before, a straight line
    for half in (5, 16, 50, 160):  # rates over more than a decade
        steps = 2 * half - 1
        run = descend(quadratic, BEFORE, CROSSING, learning_rate=end / steps, steps=steps, optimizer=Sign())
        np.testing.assert_allclose(run.final - exact, [end / steps, 0], rtol=0, atol=1e-13)  # as many roundings


def test_a_flow_that_would_slide_ends_with_a_reason():
    """x' = -sign(x) reaches zero at t = 1/2, and descent rattles there."""
    options = {"optimizer": Sign()}
    flow = optimizer_flow(
        quadratic, jnp.array([0.5]), jnp.eye(1), times=TIMES, rtol=1e-8, method="DOP853", max_steps=500, **options
    )
    assert flow.status.startswith("stopped after t = 0.5") and "max_steps = 500" in flow.status
    run = descend(quadratic, jnp.array([0.5]), jnp.eye(1), learning_rate=0.03, steps=60, **options)
    assert run.complete and abs(run.final[0]) < 0.03


# -------------------------------------------------------------------------------------------------- descend with optax


def test_descend_with_optax_sgd_is_plain_descent():
    runs = [
        descend(misfit, START, *DATA, learning_rate=0.01, steps=50, save_steps=[0, 1, 50], optimizer=optimizer)
        for optimizer in (None, optax.sgd)
    ]
    assert norm(difference(runs[0].states, runs[1].states)) < 1e-14 * norm(runs[0].states)  # fifty roundings
    np.testing.assert_allclose(runs[0].dissipated, runs[1].dissipated, rtol=1e-13)
    assert runs[1].method == "gradient descent, sgd, learning_rate = 0.01"


def test_descend_with_optax_adam_is_optax_by_hand():
    optimiser, gradient_of = optax.adam(0.01), jax.jit(jax.grad(misfit))
    update = jax.jit(optimiser.update)
    params, memory, work = START, optimiser.init(START), 0.0
    for _ in range(50):
        gradient = gradient_of(params, *DATA)
        updates, memory = update(gradient, memory, params)
        work -= sum(float(jnp.vdot(gradient[name], updates[name])) for name in params)
        params = optax.apply_updates(params, updates)
    run = descend(misfit, START, *DATA, learning_rate=0.01, steps=50, save_steps=[0, 7, 50], optimizer=optax.adam)
    assert norm(difference(run.final, params)) < 1e-12 * norm(params)  # fifty roundings, in quotients near 0 / 0
    assert run.dissipated[-1] == pytest.approx(work, rel=1e-12)
    np.testing.assert_allclose(run.times, [0, 0.07, 0.5], rtol=1e-15)


def test_another_rate_or_constant_needs_no_new_compilation():
    traces = []

    def counted(x, hessian):
        traces.append(1)
        return quadratic(x, hessian)

    x0, hessian = jnp.ones(2), jnp.eye(2)
    for train in (
        lambda rate: descend(counted, x0, hessian, learning_rate=rate, steps=3, optimizer=optax.adam),
        lambda a: optimizer_flow(counted, x0, hessian, optimizer=HeavyBall(a), times=[0.0, 1.0]),
    ):
        train(0.1)
        after_first = len(traces)
        train(0.2)
        assert len(traces) <= after_first + 2  # to see that the loss is a number; a solve traces it more often
    assert after_first >= 6


def test_save_and_invariants_see_the_parameters():
    flow = optimizer_flow(
        misfit, START, *DATA, optimizer=HeavyBall(1.0), times=[0.0, 0.1], method="RK45",
        save=lambda params, *data: params["w"][0], invariants=lambda params, *data: {"w": params["w"]},
    )  # fmt: skip
    assert isinstance(flow.final, State)
    assert flow.states.shape == (2,) and flow.states[1] == flow.final.params["w"][0]
    moved = norm(flow.final.params["w"] - START["w"]) / norm(START["w"])
    np.testing.assert_allclose(flow.drift["w"], [0, moved], rtol=1e-12)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        ("adam", "such as optax.adam, got str."),
        (optax.adam(0.1), "such as optax.adam, got GradientTransformation"),
        (lambda rate: 3, "<lambda> fails: 'int' object has no attribute 'init'"),
        (optax.polyak_sgd, "polyak_sgd fails: .*value"),
        (
            lambda rate: optax.GradientTransformation(jnp.sum, lambda g, s, p: (g, p)),
            "does not keep the shapes and types of its state",
        ),
        (functools.partial(optax.adam, b3=0.9), r"adam\(b3=0.9\) fails: .*'b3'"),
    ],
)
def test_what_is_no_optimizer_for_descend_is_refused(optimizer, says):
    with pytest.raises(InputError, match=says) as caught:
        descend(quadratic, jnp.ones(2), jnp.eye(2), learning_rate=0.1, steps=1, optimizer=optimizer)
    assert str(caught.value).startswith("optimizer must be a function learning_rate -> optax optimizer")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("optimizer", "name"), [("adam", "'adam'"), (optax.adam, "adam")])
def test_an_optimizer_without_a_known_flow_is_refused(optimizer, name):
    with pytest.raises(InputError, match=f"No flow is known of {name}; known are HeavyBall, RMSProp, Adam, Sign"):
        optimizer_flow(quadratic, jnp.ones(2), jnp.eye(2), optimizer=optimizer, times=TIMES)


def test_an_optimizer_without_its_constants_is_refused():
    with pytest.raises(InputError, match="Give Adam its constants, such as "):
        optimizer_flow(quadratic, jnp.ones(2), jnp.eye(2), optimizer=Adam, times=TIMES)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: HeavyBall(0.0), "a of HeavyBall must be positive and finite, got 0.0"),
        (lambda: RMSProp(1.0, initial_scale=0.0), "initial_scale of RMSProp must be positive and finite, got 0.0"),
        (lambda: Adam(1.0, float("inf")), "b of Adam must be positive and finite, got inf"),
        (lambda: Adam(1.0, 1.0, eps=0.0), "eps of Adam must be positive and finite, got 0.0"),
    ],
)
def test_constants_without_a_flow_are_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()
