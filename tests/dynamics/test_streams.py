"""`descend` on a stream is a loop by hand over the same fresh batches, measured on what is held out."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradflow import InputError, descend
from gradflow.dynamics import training
from gradflow.models import transformer
from gradflow.tasks.sequences import Fresh, WindowSum

TASK = WindowSum(n=3, p=5, k=2)
STEPS, SAVE_STEPS = 6, [0, 1, 4, 6]
loss = transformer.loss


def stream(seed):
    return Fresh(TASK, 5, jax.random.key(seed))


@pytest.fixture(scope="module")
def weights():
    return transformer.init(
        jax.random.key(0), vocabulary=TASK.vocabulary, context=TASK.length - 1, width=8, hidden=8, dtype=jnp.float64
    )


jitted_loss = eqx.filter_jit(loss)


def by_hand(optimizer, weights, draw):
    """The weights after each step of an optax optimizer."""

    @eqx.filter_jit
    def one_step(weights, memory, batch):
        updates, memory = optimizer.update(jax.grad(loss)(weights, batch), memory, weights)
        return optax.apply_updates(weights, updates), memory

    states, memory = [weights], jax.tree.map(jnp.asarray, optimizer.init(weights))
    for step in range(STEPS):
        weights, memory = one_step(weights, memory, *draw(step))
        states.append(weights)
    return states


@pytest.mark.parametrize(
    ("options", "optimizer"),
    [
        ({"optimizer": optax.adam}, optax.adam(0.03)),
        ({}, optax.sgd(0.03)),
    ],
    ids=["adam", "plain"],
)
def test_training_on_a_stream_is_a_loop_by_hand_seen_on_what_is_held_out(weights, options, optimizer):
    draw, held_out = stream(1), stream(2)
    run = descend(
        loss, weights, learning_rate=0.03, steps=STEPS, stream=draw, held_out=held_out, save_steps=SAVE_STEPS,
        save=lambda params, batch: (params, batch), **options,
    )  # fmt: skip
    (states, batches), after = run.states, by_hand(optimizer, weights, draw)
    for index, step in enumerate(SAVE_STEPS):
        expected = after[step]
        pairs = zip(jax.tree.leaves(states), jax.tree.leaves(expected), strict=True)
        # six steps, each rounded; adam divides by roots of squared gradients that may be tiny
        assert max(np.abs(one[index] - two).max() for one, two in pairs) < 1e-10
        np.testing.assert_array_equal(batches[index], held_out(step)[0])
        assert run.loss[index] == pytest.approx(float(jitted_loss(expected, *held_out(step))), abs=1e-11)
    assert run.complete and "fresh data each step" in run.method
    assert jax.tree.all(jax.tree.map(lambda one, two: bool((one == two[-1]).all()), run.final, states))
    assert np.abs(np.asarray(run.final.head) - weights.head).max() > 1e-3


def total(params, batch):
    return jnp.sum(params * batch)


def powers(step):
    """A stream by whose gradient the parameters count the steps: each has a digit of its own."""
    return (10.0 ** -step.astype(float),)


def test_each_step_sees_its_own_batch_once_and_the_loss_is_that_of_the_data_given():
    run = descend(total, 0.0, 7.0, learning_rate=1.0, steps=5, stream=powers, save_steps=np.arange(6))
    np.testing.assert_allclose(run.states, [0, -1, -1.1, -1.11, -1.111, -1.1111], rtol=1e-15)
    np.testing.assert_allclose(run.loss, 7 * run.states, rtol=1e-15)
    np.testing.assert_allclose(run.dissipated, np.cumsum([0, 1, 1e-2, 1e-4, 1e-6, 1e-8]), rtol=1e-15)  # |gradient|^2


def test_the_first_step_sees_batch_0_however_the_save_points_lie():
    runs = [
        descend(total, 0.0, 1.0, learning_rate=1.0, steps=5, stream=powers, save_steps=at)
        for at in ([0, 5], [0, 2, 3, 5])
    ]
    assert runs[0].final == runs[1].final == pytest.approx(-1.1111)


class Traces(list):
    """A list that is equal to itself alone, so that it can be static."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Counted(eqx.Module):
    """A stream that counts how often it is traced."""

    key: jax.Array
    traced: Traces = eqx.field(static=True)

    def __call__(self, step):
        self.traced.append(step)
        return (jax.random.normal(jax.random.fold_in(self.key, step), (4,)),)


def test_another_key_of_a_stream_needs_no_new_program_and_gives_another_run():
    traced, finals = Traces(), []

    def loss(params, x):
        return jnp.mean((params - x) ** 2)

    for seed in range(3):
        draw = Counted(jax.random.key(seed), traced)
        finals.append(float(descend(loss, 0.0, jnp.zeros(4), learning_rate=0.1, steps=4, stream=draw).final))
        if seed == 0:
            first = len(traced)
    assert 1 <= first == len(traced)
    assert len(set(finals)) == 3


def test_one_program_serves_stretches_of_every_length(monkeypatch):
    monkeypatch.setattr(training, "PATIENCE", 1e9)
    advance, counts, traced = training._advance, set(), Traces()
    monkeypatch.setattr(training, "_advance", lambda *args: counts.add(int(args[-1])) or advance(*args))

    def loss(params, x):
        return jnp.mean((params - x) ** 2)

    compiled = []
    for points in (1, 2, 6, 33, 40):  # besides the start: 1, then what is left, at most 32
        options = {"steps": points, "save_steps": np.arange(points + 1), "optimizer": optax.adam}
        draw = Counted(jax.random.key(0), traced)
        descend(loss, 0.0, jnp.zeros(4), learning_rate=0.1, stream=draw, **options)
        compiled.append(len(traced))
    assert counts == {1, 5, 32, 7} and compiled[0] >= 1 and len(set(compiled)) == 1


def test_parameters_of_mixed_precision_keep_theirs_with_and_without_an_optimizer():
    def loss(params, x):
        return jnp.sum((params["single"] - x) ** 2) + jnp.sum(params["double"] ** 2)

    start = {"single": jnp.ones(2, jnp.float32), "double": jnp.ones(3)}
    for options in ({}, {"optimizer": optax.sgd}):
        run = descend(loss, start, jnp.zeros(2), learning_rate=0.1, steps=3, **options)
        assert run.complete and run.final["single"].dtype == jnp.float32 and run.final["double"].dtype == jnp.float64
        np.testing.assert_allclose(run.final["single"], 0.8**3, rtol=1e-6)  # single precision
        np.testing.assert_allclose(run.final["double"], 0.8**3, rtol=1e-15)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        ((jnp.ones(4),), {"stream": powers, "batch_size": 2, "key": jax.random.key(0)}, "either batch_size or stream"),
        ((1.0,), {"stream": powers, "held_out": powers}, "either data or held_out"),
        ((), {"held_out": powers}, "say stream, too, where held_out is said"),
        ((), {"stream": powers}, "Say data or held_out, too"),
        ((1.0,), {"stream": lambda step: jnp.ones(2)}, "must return a tuple, [(]batch, ...[)]"),
        ((), {"stream": powers, "held_out": lambda step: jnp.ones(1)}, "must return a tuple, [(]batch, ...[)]"),
        ((), {"stream": powers, "held_out": lambda step: (1.0, 2.0)}, "The loss cannot be evaluated at the start"),
        ((1.0,), {"stream": powers, "optimizer": optax.sgd, "step": lambda *_: None}, "either optimizer or step"),
    ],
)
def test_streams_that_do_not_fit_what_else_is_said_are_refused(data, options, says):
    with pytest.raises(InputError, match=says):
        descend(total, 0.0, *data, learning_rate=0.1, steps=2, **options)
