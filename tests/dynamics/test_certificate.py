"""The certificate against a closed form and against gradient descent itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import InputError, descend, linear_times
from gradflow.dynamics.certificate import TRUSTED, certify
from gradflow.models import cooccurrence, coupled
from tests.cases import away, slope

CURVATURE = np.array([1.0, 4.0])
START = np.array([1.0, -2.0])


def quadratic(params):
    return 0.5 * jnp.sum(jnp.asarray(CURVATURE) * params**2)


@pytest.fixture(scope="module")
def on_quadratic():
    return certify(quadratic, jnp.array(START), t_end=3.0, tolerance=1e-3, rtol=1e-10)


def test_on_a_quadratic_the_error_is_its_closed_form(on_quadratic):
    """y = exp(-c t) and d eps/dt = -c eps - c^2 y / 2: eps = -c^2 t exp(-c t) / 2."""
    t = on_quadratic.flow.times[:, None]
    exact = -(CURVATURE**2) * t * np.exp(-CURVATURE * t) / 2 * START
    np.testing.assert_allclose(on_quadratic.error, exact, rtol=0, atol=1e-9)  # ten times rtol
    np.testing.assert_allclose(on_quadratic.distance, np.linalg.norm(exact, axis=1), rtol=0, atol=1e-9)
    np.testing.assert_allclose(on_quadratic.flow.states, np.exp(-CURVATURE * t) * START, rtol=0, atol=1e-9)
    np.testing.assert_allclose(on_quadratic.sharpness, 4.0, rtol=1e-5)  # a change of 1e-6 ends the iteration
    assert on_quadratic.flow.energy_residual == pytest.approx(0, abs=1e-9)


def test_the_rate_keeps_descent_within_the_tolerance_and_uses_it_up():
    """The tolerance binds: descent at h* comes within the leading term's few percent of it, over all its steps."""
    certificate = certify(quadratic, jnp.array(START), t_end=3.0, tolerance=1e-2, rtol=1e-10)
    assert certificate.learning_rate == certificate.rate_for_accuracy < certificate.trusted_rate
    assert "the tolerance binds" in str(certificate)
    steps = int(3.0 / certificate.learning_rate)
    run = descend(
        quadratic, jnp.array(START), learning_rate=certificate.learning_rate, steps=steps, save_steps=range(steps + 1)
    )
    distance = np.linalg.norm(run.states - np.exp(-CURVATURE * run.times[:, None]) * START, axis=1)
    assert distance.max() == pytest.approx(1e-2, rel=0.05)


def test_beyond_what_the_leading_term_tells_trust_binds():
    certificate = certify(quadratic, jnp.array(START), t_end=3.0, tolerance=100.0)
    assert certificate.learning_rate == pytest.approx(TRUSTED / 4, rel=1e-5)
    assert "trust in the leading term binds" in str(certificate)


def test_a_flow_that_stands_still_allows_every_trusted_rate():
    certificate = certify(quadratic, jnp.zeros(2), t_end=1.0, tolerance=1e-3)
    assert certificate.rate_for_accuracy == np.inf
    assert not certificate.distance.any()
    assert certificate.learning_rate == pytest.approx(TRUSTED / 4, rel=1e-5)


def valley(params):
    return 0.5 * params[0] ** 2 + 50.0 * params[1] ** 2


def test_a_sharp_direction_that_the_start_hardly_sees_is_not_missed():
    """The sharpness is 100, though the gradient at the start is almost all along the flat direction."""
    certificate = certify(valley, jnp.array([1.0, 1e-9]), t_end=2.0, tolerance=0.1)
    np.testing.assert_allclose(certificate.sharpness, 100, rtol=1e-5)
    assert certificate.learning_rate <= TRUSTED / 100 * (1 + 1e-5)


def test_a_flow_that_ends_early_says_so():
    cut = certify(quadratic, jnp.array(START), t_end=3.0, tolerance=1e-3, rtol=1e-10, max_steps=1)
    assert not cut.flow.complete and str(cut).endswith(f"; the flow {cut.flow.status}")


# ------------------------------------------------------------------------------------------------- on co-occurrence

T_END, STEPS = 5.0, (800, 1600, 4000, 8000)
TIMES = linear_times(T_END, 11)


def outputs(weights, batch):
    return cooccurrence.outputs(weights, batch.tokens)


@pytest.fixture(scope="module")
def of_weights(batch, weights):
    return certify(cooccurrence.loss, weights, batch, times=TIMES, tolerance=1e-2, rtol=1e-9, method="dopri8")


@pytest.fixture(scope="module")
def descents(batch, weights):
    """Descents saved at TIMES, by learning rate."""
    return {
        T_END / steps: descend(
            cooccurrence.loss, weights, batch, learning_rate=T_END / steps, steps=steps,
            save_steps=np.arange(11) * (steps // 10),
        )
        for steps in STEPS
    }  # fmt: skip


def at(states, index):
    return jax.tree.map(lambda leaf: leaf[index], states)


def test_the_predicted_distance_is_the_measured_one(of_weights, descents):
    """Asked: within [0.98, 1.05] for learning_rate * sharpness <= 0.1; the ratio tends to 1 linearly."""
    off = {}
    for rate, run in descents.items():
        measured = np.array([away(at(run.states, k), at(of_weights.flow.states, k)) for k in range(1, 11)])
        ratio = measured / of_weights.predicted_distance(rate)[1:]
        assert rate * of_weights.sharpness.max() < 0.1
        assert ratio.min() > 0.98 and ratio.max() < 1.05
        off[rate] = np.abs(ratio - 1).max()
    assert slope(off) == pytest.approx(1, abs=0.1)


def test_the_corrected_descent_is_the_flow_to_second_order(of_weights, descents):
    left = {
        rate: away(at(of_weights.corrected(run.states, rate), -1), at(of_weights.flow.states, -1))
        for rate, run in descents.items()
    }
    assert slope(left) == pytest.approx(2, abs=0.05)


def test_what_is_saved_is_predicted_too(batch, weights, of_weights):
    """The outputs' change by the chain rule, from a solve that kept nothing but outputs."""
    seen = certify(
        cooccurrence.loss, weights, batch, times=TIMES, tolerance=1e-2, rtol=1e-9, method="dopri8", save=outputs
    )
    step = 1e-6
    last, error = (jax.tree.map(jnp.asarray, at(tree, -1)) for tree in (of_weights.flow.states, of_weights.error))
    ahead, behind = (outputs(jax.tree.map(lambda y, e: y + sign * step * e, last, error), batch) for sign in (1, -1))
    np.testing.assert_allclose(seen.error[-1], (ahead - behind) / (2 * step), rtol=1e-6)  # central differences
    np.testing.assert_allclose(seen.distance, of_weights.distance, rtol=1e-7)


def test_in_the_coupled_variables_the_error_is_that_of_the_weights(batch, weights, of_weights):
    """Two routes: the certificate of the weights pushed forward, and that of the exact coupled step."""
    direct = certify(
        coupled.loss, coupled.reduce(weights), batch, coupled.width_of(weights), times=TIMES, tolerance=1e-2, rtol=1e-9,
        method="dopri8", field=coupled.field, second_order=coupled.second_order,
    )  # fmt: skip
    last, error = (jax.tree.map(jnp.asarray, at(tree, -1)) for tree in (of_weights.flow.states, of_weights.error))
    pushed = jax.jvp(coupled.reduce, (last,), (error,))[1]
    size = away(pushed, jax.tree.map(jnp.zeros_like, pushed))
    assert away(at(direct.error, -1), pushed) < 1e-7 * size  # both at rtol 1e-9


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tolerance": 0.0}, "tolerance must be a positive distance, got 0.0"),
        ({"t_end": None}, "either t_end or times"),
        ({"times": [0, 1]}, "either t_end or times"),
        ({"t_end": -1.0}, "t_end must be a positive time"),
        ({"second_order": lambda p: p}, "second_order belongs to a field"),
    ],
)
def test_what_cannot_be_certified_is_refused(options, says):
    with pytest.raises(InputError, match=says):
        certify(quadratic, jnp.array(START), **({"t_end": 1.0, "tolerance": 1e-3} | options))


@jax.custom_jvp
def once(params):
    """Its derivative is no longer JAX's."""
    return jnp.sum(params**2)


@once.defjvp
def outside(at, along):
    return once(*at), 2 * jax.pure_callback(lambda p, v: np.vdot(p, v), jnp.zeros(()), at[0], along[0])


def test_a_loss_that_cannot_be_differentiated_twice_is_refused():
    with pytest.raises(InputError, match="2 times differentiable"):
        certify(once, jnp.array(START), t_end=1.0, tolerance=1e-3)
