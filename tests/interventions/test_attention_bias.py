"""The bias multiplies the entries that a task needs and no others, in every way of running the model, from the step on that was said."""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import InputError, descend
from gradflow.interventions.attention_bias import Biased, WithStrength
from gradflow.models import transformer
from gradflow.observe.sequences import Observer
from gradflow.tasks.sequences import Fresh, Task, WindowSum

TASK = WindowSum(n=4, p=5)  # 5 tokens of prompt and 4 of output: rows 4, 5, 6, 7 of maps of 8 by 8
SIZES = dict(vocabulary=TASK.vocabulary, context=TASK.length - 1, width=8, heads=2)
BATCH = TASK.sample(jax.random.key(1), 20)


@pytest.fixture(scope="module")
def weights():
    """Two layers with weights large enough that attention decides what is said; the task speaks of the first layer only."""
    start = transformer.init(jax.random.key(0), **SIZES, layers=2, dtype=jnp.float64)
    return jax.tree.map(lambda leaf: 20 * leaf if leaf.ndim == 2 else leaf, start)


def by_definition(strength):
    """M, entry by entry: output t = 1, 2, 3 (from 0) is emitted at row 4 + t and needs x_{t-1} and x_t."""
    factor = np.ones((8, 8))
    for t in (1, 2, 3):
        factor[4 + t, [t - 1, t]] = strength
    return factor


# ------------------------------------------------------------------------------------------------------------- the taps


def test_optimal_entries_of_all_outputs_but_the_first_are_multiplied_and_nothing_else_is_touched(weights):
    strength = 10.0

    def by_hand(place, value, positions):
        return value * by_definition(strength) if place == "layers/0/map" else value

    plain = transformer.observe(weights, BATCH[0, :-1])[1]
    out, seen = transformer.observe(weights, BATCH[0, :-1], Biased(TASK)(BATCH[0], strength))
    np.testing.assert_array_equal(seen["layers/0/map"], np.asarray(plain["layers/0/map"]) * by_definition(strength))
    expected_out, expected = transformer.observe(weights, BATCH[0, :-1], by_hand)
    np.testing.assert_array_equal(out, expected_out)
    for place in transformer.places(2):  # the second layer sees other inputs, but its map is its own
        np.testing.assert_array_equal(seen[place], expected[place])
    assert np.abs(out - transformer.logits(weights, BATCH[0, :-1])).max() > 0.1  # it does matter


@dataclasses.dataclass(frozen=True)
class Looked(Task):
    """A task whose first output needs column 0 and whose second the column that the first token names, in one layer of two."""

    strategies: ClassVar[tuple[str, ...]] = ("first layer", "second layer")
    losses, vocabulary, prompt, outputs = None, 4, 3, 2

    def optimal(self, tokens):
        entries = jnp.zeros((2, 4), bool).at[0, 0].set(True).at[1, tokens[0]].set(True)
        nothing = jnp.zeros_like(entries)
        return jnp.stack([jnp.stack([entries, nothing]), jnp.stack([nothing, entries])])


@pytest.mark.parametrize("strategy", [0, 1])
@pytest.mark.parametrize("needed", [0, 2])
def test_each_sequence_has_its_own_entries_in_the_layer_of_the_strategy(strategy, needed):
    tap = Biased(Looked(), strategy)(jnp.array([needed, 1, 3, 1, 1]), 5.0)
    expected = np.ones((2, 4, 4))
    expected[strategy, 3, needed] = 5.0
    for layer in (0, 1):
        seen = tap(f"layers/{layer}/map", jnp.ones((1, 4, 4)), jnp.arange(4))
        np.testing.assert_array_equal(seen[0], expected[layer])


@pytest.mark.parametrize("strategy", [1, -1])
def test_a_strategy_that_the_task_has_not_is_refused(strategy):
    with pytest.raises(InputError, match=rf"strategy must be below 1 \(optimal\), got {strategy}"):
        Biased(TASK, strategy)


def test_generation_that_remembers_says_what_full_passes_say(weights):
    biased = Biased(TASK)

    def remembered(tokens, strength):
        return transformer.generate(weights, tokens[:5], 4, biased(tokens, strength))

    def anew(tokens, strength):
        """A full pass for each token, over what is there by then."""
        said = tokens[:5]
        for _ in range(4):
            following = transformer.logits(weights, said, biased(tokens, strength))[-1].argmax()
            said = jnp.append(said, following)
        return said[5:]

    quick, slow = (jax.jit(jax.vmap(f, (0, None)))(BATCH, 10.0) for f in (remembered, anew))
    np.testing.assert_array_equal(quick, slow)
    plain = jax.jit(jax.vmap(remembered, (0, None)))(BATCH, 1.0)
    assert (quick[:, 0] == plain[:, 0]).all()  # the first output is left alone
    assert (quick[:, 1:] != plain[:, 1:]).mean() > 0.1  # the others are not


def test_a_bias_of_1_changes_nothing_at_all(weights):
    """x 1 = x in floating point; outside of a compiled program, which may add in another order."""
    tap = Biased(TASK)(BATCH[0], 1.0)
    for one, other in zip(
        jax.tree.leaves(transformer.observe(weights, BATCH[0, :-1], tap)),
        jax.tree.leaves(transformer.observe(weights, BATCH[0, :-1])),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


# ------------------------------------------------------------------------------------------------------------- training

FRESH, HELD_OUT = (Fresh(TASK, 8, jax.random.key(seed)) for seed in (2, 3))
START = transformer.init(jax.random.key(4), **SIZES)  # 32 bits
OPTIONS = dict(learning_rate=0.1, steps=8, save_steps=np.arange(9))
BIASED, OBSERVER = transformer.Loss(Biased(TASK)), Observer(TASK, Biased(TASK))
traces = []


def loss(*args):
    traces.append(1)
    return BIASED(*args)


def everything(weights, batch, strength):
    return {"weights": weights, "strength": strength, "seen": OBSERVER(weights, batch, strength)}


def train(strength, start):
    streams = {"stream": WithStrength(FRESH, strength, start), "held_out": WithStrength(HELD_OUT, strength, start)}
    return descend(loss, START, **streams, save=everything, **OPTIONS)


def at(states, step):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[step]), states)


@pytest.fixture(scope="module")
def run():
    """Eight steps, biased from step 5 on."""
    return train(10.0, 5)


def test_training_is_untouched_before_the_bias_begins_and_biased_from_then_on(run):
    plain = descend(transformer.loss, START, stream=FRESH, held_out=HELD_OUT, **OPTIONS)
    trained = run.states["weights"]
    for step in range(6):  # the state at save point 5 has seen steps 0 to 4
        assert eqx.tree_equal(at(trained, step), at(plain.states, step))
    assert not eqx.tree_equal(at(trained, 6), at(plain.states, 6))
    gradient_of = jax.jit(jax.grad(BIASED))
    for step, strength in [(4, 1.0), (5, 10.0), (7, 10.0)]:
        gradient = gradient_of(at(trained, step), *FRESH(step), strength)
        moved = jax.tree.map(lambda p, g: p - np.float32(0.1) * g, at(trained, step), gradient)
        # another program, rounded to 32 bits: a few ulp of the largest entries, which are 1
        assert eqx.tree_equal(moved, at(trained, step + 1), rtol=0, atol=1e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves(run.final)} == {np.dtype("float32")}


def test_what_is_looked_at_is_biased_from_the_same_step_on(run):
    np.testing.assert_array_equal(run.states["strength"], [1, 1, 1, 1, 1, 10, 10, 10, 10])
    seen = run.states["seen"]
    # means of 64 numbers in 32 bits, in two orders
    np.testing.assert_allclose(seen["loss_by_token"].mean(axis=1), run.loss, rtol=1e-6)
    plain = jax.jit(
        jax.vmap(lambda weights, tokens: transformer.observe(weights, tokens)[1]["layers/0/map"], (None, 0))
    )
    for step, strength in [(4, 1.0), (5, 10.0)]:
        (batch,) = HELD_OUT(step)
        maps = plain(at(run.states["weights"], step), batch[:, :-1])
        expected = np.abs(maps * by_definition(strength)).mean(axis=0)[:, 4:]
        np.testing.assert_allclose(seen["map"][step, 0], expected, rtol=1e-4)  # products in 32 bits that nearly cancel


def test_another_strength_or_start_needs_no_new_compilation(run):
    first = len(traces)
    assert first >= 3  # the gradient, the loss at save points, and to see that it is a number
    other, whole = train(0.5, 4), train(2, 0)
    assert len(traces) <= first + 2  # once a run, to see that it is a number
    np.testing.assert_array_equal(other.states["strength"], [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(whole.states["strength"], 9 * [2])
