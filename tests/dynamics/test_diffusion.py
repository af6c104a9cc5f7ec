"""The stochastic differential equation of SGD against all minibatches, one by one, and against exact moments."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from gradflow import InputError, gradient_flow
from gradflow.dynamics.diffusion import Diffusion, MeanSGD, diffuse, minibatch_moments
from gradflow.dynamics.modified import modified_flow
from tests.cases import slope

INPUTS = np.array([[1.0, 0.2], [-0.4, 0.9], [0.3, -0.7], [0.8, 0.5]])
TARGETS = np.array([1.0, -0.5, 0.7, 0.2])
DATA = {"input": jnp.array(INPUTS), "target": jnp.array(TARGETS)}
SAMPLES, BATCH = 4, 2
START = jnp.array([0.9, -0.6])
RATE = 0.1


def regression(params, data):
    return 0.5 * jnp.mean((data["input"] @ params - data["target"]) ** 2)


def bent(params, data):
    """A loss whose noise depends on the parameters in a nonlinear way."""
    return jnp.mean(jax.nn.softplus(-data["target"] * jnp.sin(data["input"] @ params)) + 0.1 * jnp.sum(params**3))


def diffusion(loss, order=2, substeps=2):
    return Diffusion(loss, BATCH, order, substeps)


def minibatches(sampling):
    """Every minibatch, equally likely."""
    draw = itertools.product if sampling == "with_replacement" else itertools.permutations
    arguments = {"repeat": BATCH} if draw is itertools.product else {"r": BATCH}
    return [np.array(chosen) for chosen in draw(range(SAMPLES), **arguments)]


def gradients(loss, sampling, params):
    """The gradient of every minibatch."""
    gradient = jax.jit(jax.grad(loss))
    return np.array([gradient(params, jax.tree.map(lambda x: x[chosen], DATA)) for chosen in minibatches(sampling)])


@pytest.mark.parametrize("sampling", ["with_replacement", "without_replacement"])
@pytest.mark.parametrize("loss", [regression, bent])
def test_mean_and_variance_are_those_of_all_minibatches(loss, sampling):
    every = gradients(loss, sampling, START)
    squared_mean, variance = minibatch_moments(loss, BATCH, sampling, START, DATA)
    assert float(squared_mean) == pytest.approx(np.sum(every.mean(axis=0) ** 2), rel=1e-12)
    assert float(variance) == pytest.approx(every.var(axis=0).sum(), rel=1e-12)


@pytest.mark.parametrize("loss", [regression, bent])
def test_the_noise_has_the_covariance_of_all_minibatches(loss):
    every = gradients(loss, "with_replacement", START)
    columns = jax.jacfwd(lambda dW: diffusion(loss).noise(START, RATE, dW, DATA))(jnp.zeros(SAMPLES))
    np.testing.assert_allclose(columns @ columns.T, RATE**2 * np.cov(every.T, bias=True), rtol=1e-12)


def columns_of_noise(loss, params, rate):
    """sqrt(h Sigma)'s columns, as `Diffusion` draws them."""
    return jax.jacfwd(lambda dW: diffusion(loss).noise(params, rate, dW, DATA))(jnp.zeros(SAMPLES)) / jnp.sqrt(rate)


@pytest.mark.parametrize(("order", "kept"), [(1, 0.0), (2, 1.0)])
@pytest.mark.parametrize("loss", [regression, bent])
def test_the_drift_is_li_tai_es_once_turned_into_itos(loss, order, kept):
    """Ito's drift is Stratonovich's + half the sum over columns of their derivatives along themselves."""

    def half_turns(params):
        of_column = [
            jax.jvp(
                lambda p: columns_of_noise(loss, p, RATE)[:, i],
                (params,),
                (columns_of_noise(loss, params, RATE)[:, i],),
            )[1]
            for i in range(SAMPLES)
        ]
        return sum(of_column) / 2

    stratonovich = diffusion(loss, order).drift(START, jnp.asarray(RATE), DATA) / RATE
    ito = jax.grad(lambda p: loss(p, DATA) + kept * RATE / 4 * jnp.sum(jax.grad(loss)(p, DATA) ** 2))(START)
    np.testing.assert_allclose(stratonovich + half_turns(START), -ito, rtol=1e-12)
    assert np.abs(half_turns(START)).min() > 1e-5  # there was something to turn


# ------------------------------------------------------ exact moments: on a quadratic loss they obey linear equations

T_END = 2.0


def affine(function):
    """The (3, 3) matrix on (1, params) of an affine vector field."""
    offset = np.asarray(function(jnp.zeros(2)))
    matrix = np.zeros((3, 3))
    matrix[1:, 0] = offset
    for k in range(2):
        matrix[1:, 1 + k] = np.asarray(function(jnp.eye(2)[k])) - offset
    return matrix


def moments_of_sgd(rate, steps):
    """E[z z^T] with z = (1, params), after SGD with replacement: the mean over all minibatches, step by step."""
    step = np.zeros((9, 9))
    for chosen in minibatches("with_replacement"):
        x, y = INPUTS[chosen], TARGETS[chosen]
        matrix = np.eye(3)
        matrix[1:, 1:] -= rate * x.T @ x / BATCH
        matrix[1:, 0] += rate * x.T @ y / BATCH
        step += np.kron(matrix, matrix) / SAMPLES**BATCH
    z = np.append(1.0, START)
    return (np.linalg.matrix_power(step, steps) @ np.kron(z, z)).reshape(3, 3)


def moments_of_diffusion(rate, order, time):
    """The same for the diffusion, whose own drift and noise are affine here: d/dt E z z^T is linear in E z z^T."""
    model = diffusion(regression, order)
    columns = [affine(lambda p: columns_of_noise(regression, p, rate)[:, i]) for i in range(SAMPLES)]
    drift = affine(lambda p: model.drift(p, jnp.asarray(rate), DATA) / rate) + sum(c @ c for c in columns) / 2
    generator = np.kron(drift, np.eye(3)) + np.kron(np.eye(3), drift) + sum(np.kron(c, c) for c in columns)
    z = np.append(1.0, START)
    return (expm(time * generator) @ np.kron(z, z)).reshape(3, 3)


@pytest.mark.parametrize("order", [1, 2])
def test_the_weak_error_is_of_the_order(order):
    """Without any sampling error; rate * sharpness is at most 0.12."""
    errors = {}
    for steps in (10, 20, 40, 80):
        off = moments_of_diffusion(T_END / steps, order, T_END) - moments_of_sgd(T_END / steps, steps)
        errors[T_END / steps] = np.abs(off[1:, 1:]).max()
    assert slope(errors) == pytest.approx(order, abs=0.1)


def test_sampled_paths_have_the_exact_moments():
    """40 000 paths of 10 steps; four standard errors; the variance that noise makes is 30 of its errors."""
    model, steps, paths = diffusion(regression), 10, 40_000

    def path(key):
        def step(state, _):
            return model(*state, jnp.asarray(RATE), DATA)[:2], None

        return jax.lax.scan(step, (START, key), length=steps)[0][0]

    ends = np.asarray(jax.jit(jax.vmap(path))(jax.random.split(jax.random.key(0), paths)))
    exact = moments_of_diffusion(RATE, 2, steps * RATE)
    mean, covariance = exact[0, 1:], exact[1:, 1:] - np.outer(exact[0, 1:], exact[0, 1:])
    away = ends - mean
    squares = away[:, :, None] * away[:, None, :]
    np.testing.assert_array_less(np.abs(away.mean(axis=0)), 4 * away.std(axis=0) / np.sqrt(paths))
    np.testing.assert_array_less(np.abs(squares.mean(axis=0) - covariance), 4 * squares.std(axis=0) / np.sqrt(paths))
    assert (np.diag(covariance) > 100 * np.diag(squares.std(axis=0)) / np.sqrt(paths)).all()


@pytest.mark.parametrize(("follows", "order"), [("flow", 1), ("MeanSGD", 2)])
def test_without_replacement_sgd_goes_where_its_flow_goes(follows, order):
    """Mean of the parameters over all orders of the samples, exactly; whole epochs of two steps."""
    errors = {}
    for steps in (20, 40, 80, 160):
        rate = T_END / steps
        epoch = np.zeros((3, 3))
        for chosen in itertools.permutations(range(SAMPLES)):
            after = np.eye(3)
            for batch in (list(chosen[:BATCH]), list(chosen[BATCH:])):
                x, y = INPUTS[batch], TARGETS[batch]
                matrix = np.eye(3)
                matrix[1:, 1:] -= rate * x.T @ x / BATCH
                matrix[1:, 0] += rate * x.T @ y / BATCH
                after = matrix @ after
            epoch += after / 24
        field = MeanSGD(regression, rate if follows == "MeanSGD" else 0.0, BATCH)
        flow = expm(T_END * affine(lambda p: field(p, DATA)[0]))
        z = np.append(1.0, START)
        errors[rate] = np.linalg.norm(np.linalg.matrix_power(epoch, steps // 2) @ z - flow @ z)
    assert slope(errors) == pytest.approx(order, abs=0.1)


# ---------------------------------------------------------------------------------------------------------------- a run


def test_a_path_is_a_trajectory_and_depends_on_its_key_alone():
    def path(seed):
        return diffuse(bent, START, DATA, learning_rate=RATE, steps=20, batch_size=BATCH, key=jax.random.key(seed))

    first, again, other = (path(seed) for seed in (0, 0, 1))
    assert first.complete and first.times[-1] == pytest.approx(2.0)
    assert first.cost.evaluations == 80 and first.cost.accepted == 40  # two substeps, two stages of Heun's method
    assert "diffusion of order 2 of SGD, batch_size = 2, with_replacement" in first.method
    np.testing.assert_array_equal(first.states, again.states)
    assert np.abs(first.final - other.final).max() > 1e-3
    squares = [np.mean(np.sum(gradients(bent, "with_replacement", p) ** 2, axis=1)) for p in first.states]
    np.testing.assert_allclose(np.diff(first.dissipated), RATE * np.array(squares[:-1]), rtol=1e-10)


def test_with_batches_so_large_that_noise_is_gone_it_is_the_modified_flow():
    """Half a solver's step error, h^2 / 24 of the third derivative, over a time of 2."""
    quiet = jax.jit(Diffusion(bent, 1e14, 2, 2).__call__)
    params, key = START, jax.random.key(0)
    for _ in range(20):
        params, key, _ = quiet(params, key, jnp.asarray(RATE), DATA)
    flow = modified_flow(bent, START, DATA, learning_rate=RATE, times=[0.0, 2.0], rtol=1e-9)
    np.testing.assert_allclose(params, flow.final, atol=5e-5)
    plain = gradient_flow(bent, START, DATA, times=[0.0, 2.0], rtol=1e-9)
    assert np.abs(params - plain.final).max() > 1e-3


def total(params, data):
    return jnp.sum(data["input"] @ params)


@pytest.mark.parametrize(
    ("loss", "options", "says"),
    [
        (regression, {"batch_size": 5}, "batch_size must be between 1 and the 4 samples, got 5"),
        (regression, {"order": 3}, "order must be 1 or 2, got 3"),
        (regression, {"substeps": 0}, "substeps must be a positive whole number"),
        (regression, {"key": None}, "give it a key"),
        (regression, {"learning_rate": 9.0}, "beyond stability"),
        (total, {}, "SGD needs a loss that is the mean over samples"),
    ],
)
def test_what_has_no_diffusion_is_refused(loss, options, says):
    usual = {"learning_rate": RATE, "steps": 3, "batch_size": BATCH, "key": jax.random.key(0)}
    with pytest.raises(InputError, match=says):
        diffuse(loss, START, DATA, **(usual | options))
