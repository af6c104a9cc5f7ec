"""`descend` is the update rule by hand, is optax's SGD, is fair to every sample and O(learning rate) off the flow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import chisquare

from gradflow import InputError, descend, gradient_flow
from gradflow.dynamics import progress, training
from gradflow.dynamics.times import log_steps
from gradflow.models import cooccurrence

HESSIAN = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]])
START = np.array([1.0, -2.0, 0.5])


def quadratic(params, hessian):
    return 0.5 * params @ hessian @ params


def norm(tree):
    return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree))))


def difference(one, other):
    return jax.tree.map(lambda x, y: np.asarray(x) - np.asarray(y), one, other)


def at(run, index):
    """The state at one save point."""
    return jax.tree.map(lambda leaf: leaf[index], run.states)


# ------------------------------------------------------------------------------------------------------------ the steps


def test_one_step_is_the_update_rule():
    run = descend(quadratic, jnp.array(START), jnp.array(HESSIAN), learning_rate=0.1, steps=1)
    gradient = HESSIAN @ START
    np.testing.assert_allclose(run.final, START - 0.1 * gradient, rtol=0, atol=1e-15)  # two roundings
    np.testing.assert_allclose(run.dissipated, [0, 0.1 * gradient @ gradient], rtol=1e-15)
    np.testing.assert_array_equal(run.times, [0, 0.1])
    assert run.complete and "gradient descent, learning_rate = 0.1" in run.method


def test_many_steps_are_the_power_of_the_step_matrix():
    run = descend(
        quadratic, jnp.array(START), jnp.array(HESSIAN), learning_rate=0.1, steps=50, save_steps=[0, 1, 7, 50]
    )
    states = [np.linalg.matrix_power(np.eye(3) - 0.1 * HESSIAN, k) @ START for k in range(51)]
    np.testing.assert_allclose(run.states, [states[k] for k in (0, 1, 7, 50)], rtol=0, atol=1e-14)  # fifty roundings
    np.testing.assert_allclose(run.times, [0, 0.1, 0.7, 5.0], rtol=1e-15)
    np.testing.assert_allclose(run.loss, [0.5 * states[k] @ HESSIAN @ states[k] for k in (0, 1, 7, 50)], rtol=1e-12)
    energies = np.cumsum([0] + [0.1 * np.sum((HESSIAN @ x) ** 2) for x in states])
    np.testing.assert_allclose(run.dissipated, energies[[0, 1, 7, 50]], rtol=1e-14)
    assert run.cost.evaluations == run.cost.accepted == 50 and run.cost.rejected == 0


def test_descent_is_optax_sgd(batch, weights):
    run = descend(cooccurrence.loss, weights, batch, learning_rate=0.05, steps=20, save_steps=np.arange(21))
    optimiser = optax.sgd(0.05)

    @jax.jit
    def step(params, state):
        updates, state = optimiser.update(jax.grad(cooccurrence.loss)(params, batch), state)
        return optax.apply_updates(params, updates), state

    params, state = weights, optimiser.init(weights)
    for k in range(21):
        off = norm(difference(params, at(run, k)))
        assert off <= 1e-14 * norm(weights)  # twenty steps, each rounded
        params, state = step(params, state)
    assert norm(difference(run.final, weights)) > 1e-2 * norm(weights)


def test_the_default_save_points_are_log_steps():
    run = descend(quadratic, jnp.array(START), jnp.array(HESSIAN), learning_rate=0.1, steps=300)
    np.testing.assert_allclose(run.times, 0.1 * log_steps(300), rtol=1e-15)
    assert len(run.loss) == len(run.states) == len(log_steps(300))


def test_save_and_invariants_see_the_state_and_the_whole_data():
    def save(params, hessian):
        return {"gradient": hessian @ params}

    def invariants(params, hessian):
        return {"moving": params, "constant": hessian}

    run = descend(
        quadratic,
        jnp.array(START),
        jnp.array(HESSIAN),
        learning_rate=0.1,
        steps=5,
        save_steps=[0, 5],
        save=save,
        invariants=invariants,
    )
    np.testing.assert_allclose(run.states["gradient"][1], HESSIAN @ run.final, rtol=1e-14)  # rounding
    np.testing.assert_allclose(
        run.drift["moving"], [0, np.linalg.norm(run.final - START) / np.linalg.norm(START)], rtol=1e-14
    )
    assert not run.drift["constant"].any()


# ---------------------------------------------------------------------------------------------------------- minibatches

SAMPLES = jnp.eye(10)


def linear(params, samples):
    """Its gradient is the mean of the samples: where they are unit vectors, the parameters count which were seen."""
    return jnp.mean(samples @ params)


def counts_after_each_step(size, steps, **options):
    """How often each of the ten samples was seen, after each step."""
    run = descend(
        linear,
        jnp.zeros(10),
        SAMPLES,
        learning_rate=1.0,
        steps=steps,
        batch_size=size,
        save_steps=np.arange(steps + 1),
        **options,
    )
    assert run.complete
    counts = -size * np.asarray(run.states)
    np.testing.assert_allclose(counts, np.round(counts), rtol=0, atol=1e-9)
    return np.round(counts).astype(int)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 10])
def test_an_epoch_without_replacement_sees_every_sample_at_most_once_and_all_if_the_batches_divide_them(size):
    an_epoch = 10 // size
    counts = counts_after_each_step(size, 3 * an_epoch, key=jax.random.key(size))
    for epoch in range(3):
        seen = counts[(epoch + 1) * an_epoch] - counts[epoch * an_epoch]
        assert seen.max() == 1 and seen.sum() == an_epoch * size
    assert (counts[-1] == 3).all() or 10 % size


def test_each_epoch_has_an_order_of_its_own_and_all_orders_are_alike():
    order = np.diff(counts_after_each_step(1, 3000, key=jax.random.key(0)), axis=0).argmax(axis=1).reshape(300, 10)
    assert len({tuple(epoch) for epoch in order}) == 300  # out of 3.6 million orders
    for place in (0, 4, 9):
        # fixed key; a sample that came first a little too often would have p < 1e-10
        assert chisquare(np.bincount(order[:, place], minlength=10)).pvalue > 1e-4


def test_an_incomplete_last_batch_leaves_out_other_samples_in_each_epoch():
    counts = counts_after_each_step(3, 3 * 300, key=jax.random.key(1))
    left_out = 300 - counts[-1]
    assert left_out.sum() == 300 and chisquare(left_out).pvalue > 1e-4  # fixed key, uniform


def test_draws_with_replacement_are_unbiased_and_do_repeat():
    counts = counts_after_each_step(2, 1500, key=jax.random.key(2), sampling="with_replacement")
    assert chisquare(counts[-1]).pvalue > 1e-4  # fixed key, uniform
    each = np.diff(counts, axis=0)
    pairs = (each.max(axis=1) == 2).sum()
    assert abs(pairs - 150) < 5 * np.sqrt(1500 * 0.1 * 0.9)  # the same sample twice: binomial, five standard deviations
    repeated = (each[1:] == each[:-1]).all(axis=1).sum()
    assert repeated < 1500 * 0.019 + 5 * np.sqrt(1500 * 0.019)  # P = 0.9 * 2 / 100 + 0.1 / 100: steps are independent


@pytest.mark.parametrize("sampling", ["with_replacement", "without_replacement"])
def test_the_same_key_gives_the_same_training_and_another_key_another(sampling):
    first, again, other = (
        counts_after_each_step(3, 12, key=jax.random.key(seed), sampling=sampling) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_minibatch_takes_the_same_rows_of_every_array_and_other_data_whole():
    """Inputs and labels that belong together, and a number that is no sample."""

    def loss(params, data, scale):
        return scale * jnp.mean(data["label"] * (data["input"] @ params))

    rng = np.random.default_rng(0)
    data = {"input": jnp.array(rng.normal(size=(7, 3))), "label": jnp.array(rng.normal(size=7))}
    run = descend(
        loss,
        jnp.zeros(3),
        data,
        2.0,
        learning_rate=0.1,
        steps=7,
        batch_size=1,
        key=jax.random.key(0),
        save_steps=[0, 7],
    )
    whole = descend(loss, jnp.zeros(3), data, 2.0, learning_rate=0.7, steps=1)
    np.testing.assert_allclose(
        run.final, whole.final, rtol=1e-13
    )  # the loss is linear: an epoch is one big step, up to rounding
    # the loss that is reported is that of all samples, whatever a step sees
    np.testing.assert_allclose(run.loss, whole.loss, rtol=1e-13)
    assert "SGD, batch_size = 1, without_replacement" in run.method


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive, got inf"),
        ({"steps": 0}, "steps must be a positive whole number, got 0"),
        ({"save_steps": np.array([1, 2])}, "ascend from 0"),
        ({"save_steps": np.array([0, 2, 2])}, "ascend from 0"),
        ({"save_steps": np.array([0, 1.5, 3])}, "save_steps must be whole numbers"),
        ({"save_steps": []}, "save_steps must be whole numbers"),
        ({"batch_size": 1.5, "key": jax.random.key(0)}, "batch_size must be a whole number, got 1.5"),
        ({"batch_size": 0, "key": jax.random.key(0)}, "batch_size must be between 1 and the 10 samples, got 0"),
        ({"batch_size": 11, "key": jax.random.key(0)}, "batch_size must be between 1 and the 10 samples, got 11"),
        ({"batch_size": 2}, "give it a key"),
        (
            {"batch_size": 2, "key": jax.random.key(0), "sampling": "shuffled"},
            "'shuffled'; known are with_replacement, without_replacement",
        ),
    ],
)
def test_rates_steps_and_minibatches_that_cannot_be_used_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        descend(linear, jnp.zeros(10), SAMPLES, **({"learning_rate": 1.0, "steps": 3} | options))


def test_minibatches_of_no_data_are_refused():
    with pytest.raises(InputError, match="Minibatches need data"):
        descend(lambda p: p**2, 1.0, learning_rate=0.1, steps=1, batch_size=1, key=jax.random.key(0))


@pytest.mark.parametrize("data", [3.0, (jnp.ones(6), jnp.ones(3)), {"x": jnp.ones((4, 2)), "y": 1.0}])
def test_minibatches_of_arrays_without_common_samples_are_refused(data):
    with pytest.raises(InputError, match="must hold the samples along its first axis, as many as the others"):
        descend(lambda p, d: p**2, 1.0, data, learning_rate=0.1, steps=1, batch_size=1, key=jax.random.key(0))


@pytest.mark.parametrize("params", [1, np.arange(3), {"w": jnp.ones(2), "f": jnp.tanh}, 1j, ()])
def test_parameters_that_are_no_real_arrays_are_refused(params):
    for train in (dict(learning_rate=0.1, steps=1), dict(times=[0, 1])):
        with pytest.raises(InputError, match="a pytree of arrays of real floating-point numbers"):
            (descend if "steps" in train else gradient_flow)(lambda p: 0.0, params, **train)


def test_single_precision_takes_any_kind_of_learning_rate():
    run = descend(lambda p: jnp.sum(p**2), jnp.ones(2, jnp.float32), learning_rate=np.float64(0.1), steps=5)
    assert run.complete and run.final.dtype == jnp.float32


def test_save_points_that_do_not_end_where_training_ends_are_refused():
    with pytest.raises(InputError, match="from 0 to steps = 10"):
        descend(quadratic, jnp.array(START), jnp.array(HESSIAN), learning_rate=0.1, steps=10, save_steps=[0, 5])


# ----------------------------------------------------------------------------------------------- ends before the end


def one_parameter(params):
    return 0.5 * params["x"] ** 2 + 0.0 * params["still"]


def test_divergence_is_reported_with_its_step_and_what_was_done_is_kept():
    """x doubles and changes sign each step, exactly; |grad|^2 = 4^k overflows at k = 512, which is step 513."""
    start = {"still": 1.0, "x": 1.0}
    run = descend(one_parameter, start, learning_rate=3.0, steps=1000, save_steps=np.arange(0, 1001, 10))
    assert run.status.startswith("diverged at step 513 (t = 1539)")
    assert "smaller learning_rate than 3" in run.status
    np.testing.assert_array_equal(run.times, 3.0 * np.arange(0, 511, 10))
    np.testing.assert_array_equal(run.states["x"], 2.0 ** np.arange(0, 511, 10))
    np.testing.assert_array_equal(run.loss, 0.5 * 4.0 ** np.arange(0, 511, 10))
    assert run.cost.evaluations == 513


def square_root(params):
    return params["x"] ** 1.5 + 0.5 * params["still"] ** 2


def test_a_variable_that_stops_being_a_number_is_named():
    """x = 1 goes to -1/2 in one step, where the gradient 3/2 sqrt(x) is no number."""
    run = descend(square_root, {"still": 1.0, "x": 1.0}, learning_rate=1.0, steps=10, save_steps=[0, 10])
    assert run.status.startswith("diverged at step 2 (t = 2): ['x'];")
    assert "still" not in run.status
    np.testing.assert_array_equal(run.times, [0.0])
    np.testing.assert_array_equal(run.loss, [1.5])


def test_a_loss_that_is_not_finite_on_the_whole_data_does_not_end_as_complete():
    """The step that leaves the loss's domain is the last one: nobody takes a gradient there."""
    run = descend(square_root, {"still": 1.0, "x": 1.0}, learning_rate=1.0, steps=1)
    assert len(run.times) == 1
    assert not run.complete


def test_an_interrupt_keeps_what_is_done(monkeypatch):
    reports = []

    def interrupted(*args, **options):
        reports.append(options["steps"])
        if len(reports) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress, "report", interrupted)
    monkeypatch.setattr(training, "STRETCH", 1)
    run = descend(
        quadratic, jnp.array(START), jnp.array(HESSIAN), learning_rate=0.1, steps=50, save_steps=[0, 1, 4, 9, 50]
    )
    assert run.status == "interrupted" and reports == [1, 4, 9]
    np.testing.assert_allclose(run.times, [0, 0.1, 0.4, 0.9], rtol=1e-15)
    state = np.linalg.matrix_power(np.eye(3) - 0.1 * HESSIAN, 9) @ START
    np.testing.assert_allclose(run.states[-1], state, rtol=0, atol=1e-14)  # nine roundings
    np.testing.assert_array_equal(run.final, run.states[-1])
    assert run.cost.evaluations == 9


# ------------------------------------------------------------------------------------------------ against the flow


gradient = jax.jit(jax.grad(cooccurrence.loss))


def scaled(tree, factor):
    return jax.tree.map(lambda leaf: factor * leaf, tree)


def sharpness(weights, batch):
    """The largest eigenvalue of the Hessian in absolute value, by power iteration."""

    @jax.jit
    def hessian_times(direction):
        return jax.jvp(lambda w: jax.grad(cooccurrence.loss)(w, batch), (weights,), (direction,))[1]

    direction = jax.tree.map(lambda leaf: jnp.array(np.random.default_rng(0).normal(size=leaf.shape)), weights)
    size = norm(direction)
    for _ in range(50):
        direction = hessian_times(scaled(direction, 1 / size))
        size = norm(direction)
    return size


@pytest.fixture(scope="module")
def descents(batch, weights):
    """Descents to t = 5 at rates over a decade, by rate."""
    return {
        5 / steps: descend(
            cooccurrence.loss, weights, batch, learning_rate=5 / steps, steps=steps, save_steps=[0, steps]
        )
        for steps in (400, 800, 1600, 4000)
    }


def slope(by_rate):
    """Exponent of the learning rate, by least squares."""
    return np.polyfit(np.log(list(by_rate)), np.log(list(by_rate.values())), 1)[0]


def test_the_rates_resolve_the_sharpest_direction(descents, batch, weights, full_flow):
    largest = max(sharpness(weights, batch), sharpness(jax.tree.map(jnp.asarray, at(full_flow, 5)), batch))
    assert max(descents) / min(descents) == pytest.approx(10)
    assert largest * max(descents) < 0.2
    assert largest * max(descents) > 0.1


def test_the_distance_to_the_flow_is_of_first_order_in_the_learning_rate(descents, full_flow, weights):
    assert full_flow.times[5] == 5.0
    at_5 = at(full_flow, 5)
    distances = {rate: norm(difference(run.final, at_5)) for rate, run in descents.items()}
    assert slope(distances) == pytest.approx(1, abs=0.05)  # second order adds a few percent at the largest rate
    # far above the flow's own error of 1e-9, far below the way that was gone
    assert distances[min(distances)] > 1e-5
    assert distances[max(distances)] < 0.01 * norm(difference(at_5, weights))


def test_the_energy_residual_is_of_first_order_in_the_learning_rate(descents):
    residuals = {rate: abs(run.energy_residual[-1]) for rate, run in descents.items()}
    assert slope(residuals) == pytest.approx(1, abs=0.05)
    assert min(residuals.values()) > 1e-5  # not rounding


def test_the_energy_residual_is_a_quarter_of_the_rate_times_the_fall_of_the_squared_gradient(descents, batch):
    """L(0) - L(T) = sum of h |g|^2 - h^2 / 2 g.H.g + O(h^2), and along the flow d|g|^2/dt = -2 g.H.g."""
    rate, run = min(descents.items())
    at_start, at_end = (norm(gradient(jax.tree.map(jnp.asarray, at(run, k)), batch)) ** 2 for k in (0, 1))
    # the next order is smaller by rate * sharpness, about 0.016
    assert run.energy_residual[-1] == pytest.approx(-rate / 4 * (at_start - at_end), rel=0.02)
