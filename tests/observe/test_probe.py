"""The probe reads what is in the states, and nothing that is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow
from gradflow.models import transformer
from gradflow.observe import probe as module
from gradflow.tasks.sequences import WindowSum

pytestmark = pytest.mark.slow  # trains
SAMPLES, ROWS, WIDTH, CLASSES = 600, 3, 24, 7
KEYS = jax.random.split(jax.random.key(0), 5)
ANSWERS = jax.random.randint(KEYS[0], (SAMPLES, ROWS), 0, CLASSES)
NOISE = jax.random.normal(KEYS[1], (SAMPLES, ROWS, WIDTH), jnp.float32)
OF_CLASS = 2 * jax.random.normal(KEYS[2], (CLASSES, WIDTH), jnp.float32)

# of one shape, so that it is compiled once
probe = functools.partial(module.probe, steps=200, batch_size=128)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-4, 0.1)])
def test_answers_that_states_hold_are_read_whatever_the_scale_of_the_states(scale, shift):
    accuracy = probe(scale * (OF_CLASS[ANSWERS] + 0.3 * NOISE) + shift, ANSWERS, KEYS[3])
    assert accuracy.shape == (ROWS,) and (accuracy > 0.99).all()


def test_states_that_are_independent_of_the_answers_stay_at_chance_though_each_sample_is_told_apart():
    """Answers that were not trained on are uniform whatever is guessed: right ones are binomial with p = 1/7."""
    accuracy = probe(NOISE, ANSWERS, KEYS[3])
    deviation = np.sqrt(1 / CLASSES * (1 - 1 / CLASSES) / (SAMPLES // 2))
    assert (np.abs(accuracy - 1 / CLASSES) < 3.5 * deviation).all()  # of three rows: once in 700 keys


def test_a_product_of_signs_that_nothing_linear_can_read_is_read_by_the_hidden_layer():
    signs = jax.random.bernoulli(KEYS[4], shape=(SAMPLES, ROWS, 2))
    answers = jnp.where(signs[..., 0] ^ signs[..., 1], CLASSES - 1, 0)
    hidden = jnp.tile(2 * signs - 1, WIDTH // 2) + 0.3 * NOISE
    design = np.concatenate([np.asarray(hidden).reshape(-1, WIDTH), np.ones((SAMPLES * ROWS, 1))], axis=1)
    linear = design @ np.linalg.lstsq(design, np.asarray(answers > 0).ravel() - 0.5)[0]
    assert ((linear > 0) == np.asarray(answers > 0).ravel()).mean() < 0.6
    assert (probe(hidden, answers, KEYS[3]) > 0.95).all()


def test_rows_are_reported_each_by_itself_and_share_one_probe():
    """The second row holds nothing, and the third another code than the first: one probe learns both codes."""
    hidden = jnp.stack([OF_CLASS[ANSWERS[:, 0]], NOISE[:, 1], -OF_CLASS[::-1][ANSWERS[:, 2]]], axis=1) + 0.1 * NOISE
    accuracy = probe(hidden, ANSWERS, KEYS[3])
    assert accuracy[1] < 0.3 and (accuracy[[0, 2]] > 0.95).all()


def test_rows_before_the_first_row_are_neither_trained_on_nor_reported():
    hidden = OF_CLASS[ANSWERS] + 2 * NOISE
    and_before = jnp.pad(hidden, ((0, 0), (1, 0), (0, 0))), jnp.pad(ANSWERS, ((0, 0), (1, 0)))
    np.testing.assert_array_equal(probe(*and_before, KEYS[3], first_row=1), probe(hidden, ANSWERS, KEYS[3]))


def test_the_same_key_gives_the_same_numbers_and_another_key_others():
    hidden = OF_CLASS[ANSWERS] + 3 * NOISE
    first, again, other = (probe(hidden, ANSWERS, key) for key in (KEYS[3], KEYS[3], KEYS[4]))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_channels_that_are_constant_do_no_harm():
    hidden = (OF_CLASS[ANSWERS] + 0.3 * NOISE).at[..., :8].set(jnp.linspace(0, 0.7, 8, dtype=jnp.float32))
    assert (probe(hidden, ANSWERS, KEYS[3]) > 0.99).all()


def test_states_are_those_of_the_rows_that_predict_and_answers_are_the_tasks():
    task = WindowSum(n=5, p=7)
    weights = transformer.init(KEYS[0], vocabulary=task.vocabulary, context=task.length, width=16)
    hidden, answers = module.states(weights, task, KEYS[1], "embedding", samples=6)
    tokens = np.asarray(task.sample(KEYS[1], 6))
    np.testing.assert_array_equal(answers, tokens[:, 6:])
    expected = np.asarray(weights.token_embedding)[tokens[:, 5:10]] + np.asarray(weights.position_embedding)[5:10]
    np.testing.assert_allclose(hidden, expected, rtol=1e-6)  # 32 bits
    assert hidden.dtype == jnp.float32
    attention, _ = module.states(weights, task, KEYS[1], samples=6)
    after, _ = module.states(weights, task, KEYS[1], "layers/0/after_attention", samples=6)
    np.testing.assert_allclose(after - hidden, attention, atol=1e-8)  # the residual stream: 32 bits of 0.05


def test_what_cannot_be_probed_is_refused():
    with pytest.raises(gradflow.InputError, match=r"hidden states \(b, g, e\)"):
        probe(NOISE, ANSWERS[:, 1:], KEYS[3])
    with pytest.raises(gradflow.InputError, match="at least 4"):
        probe(NOISE[:3], ANSWERS[:3], KEYS[3])
    with pytest.raises(gradflow.InputError, match="one of the 3 rows"):
        probe(NOISE, ANSWERS, KEYS[3], first_row=3)
    task = WindowSum(n=5, p=7)
    weights = transformer.init(KEYS[0], vocabulary=task.vocabulary, context=task.length, width=16)
    with pytest.raises(gradflow.InputError, match="Unknown place 'layers/0/map'"):
        module.states(weights, task, KEYS[1], "layers/0/map")
