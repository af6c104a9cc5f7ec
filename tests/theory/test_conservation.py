"""Conserved quantities stand still along the exact velocity, look-alikes do not; descent moves them as predicted."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import descend
from gradflow.models import cooccurrence, coupled
from gradflow.theory import conservation
from tests.cases import case

#        n, L, d, m, m1: awkward sizes, with repeated words; m below and above 2 d
SIZES = [(6, 3, 7, 5, 3), (18, 5, 11, 24, 4), (30, 7, 5, 13, 1)]
MATRICES = ("W", "W_V", "W_K", "W_Q")


reduce, of_coupled = jax.jit(coupled.reduce), jax.jit(conservation.of_coupled)


@jax.jit
def coupled_rates(state, batch, width):
    """The coupled velocity, and with it d/dt of the conserved quantities and of two that no law protects."""
    velocity, _ = coupled.field(state, batch, width)
    kept = jax.jvp(lambda s: conservation.of_coupled(s, batch, width), (state,), (velocity,))[1]
    return velocity, kept, jax.jvp(lambda s: {"|Q1|^2": s.Gamma_Q.sum(), "S": s.S}, (state,), (velocity,))[1]


@functools.cache
def gradient(size):
    return jax.jit(jax.grad(cooccurrence.loss))(*case(*size))


def look_alikes(weights):
    """Quantities of the same kind that no law protects."""
    return {
        "W_Q sum mu": weights.W_Q.sum(axis=1),
        "W_V sum mu": weights.W_V.sum(axis=1),
        "A A^T against Gamma_V": (
            jnp.sum((weights.W_K.T @ weights.W_Q) ** 2) - jnp.sum((weights.W_V.T @ weights.W_V) ** 2)
        )[None],
        "|W_K|^2 + |W_Q|^2": (jnp.sum(weights.W_K**2) + jnp.sum(weights.W_Q**2))[None],
        "W W^T": weights.W @ weights.W.T,
        "W along a": weights.u,
    }


@functools.cache
def rates(size):
    """d/dt of the conserved quantities and of the look-alikes, and the size of the terms that must cancel."""

    @jax.jit
    def differentiate(weights, gradient):
        velocity = jax.tree.map(jnp.negative, gradient)
        kept = jax.jvp(conservation.of_weights, (weights,), (velocity,))[1]
        return kept, jax.jvp(look_alikes, (weights,), (velocity,))[1]

    weights, g = case(*size)[0], gradient(size)
    terms = {
        "C1": np.linalg.norm(weights.W_K @ g.W_K.T),
        "C2": np.linalg.norm(weights.W_V @ g.W_V.T),
        "C2a": np.linalg.norm(weights.W_V @ g.W_V.T) * size[4],
        "W off a": np.linalg.norm(g.W),
        "K1": np.linalg.norm(g.W_K),
    }
    return *differentiate(weights, g), terms


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["C1", "C2", "C2a", "W off a", "K1"])
def test_each_quantity_stands_still_along_the_flow_of_the_weights(size, name):
    kept, _, terms = rates(size)
    assert set(kept) == set(terms)
    # 1e-13 of the terms that cancel: rounding of the gradient
    assert terms[name] > 1e-3 and np.linalg.norm(kept[name]) <= 1e-13 * terms[name]


@pytest.mark.parametrize("size", SIZES)
def test_look_alikes_are_not_conserved(size):
    _, moving, _ = rates(size)
    for name, rate in moving.items():
        assert np.linalg.norm(rate) > 1e-3 * norm(gradient(size)), name


def norm(tree):
    return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree))))


@pytest.mark.parametrize("size", SIZES)
def test_the_quantities_are_the_products_of_matrices_that_their_names_say(size):
    """Entry by entry, from the definitions."""
    weights, _ = case(*size)
    W, W_V, W_K, W_Q, a = (np.asarray(leaf) for leaf in (weights.W, weights.W_V, weights.W_K, weights.W_Q, weights.a))
    kept = conservation.of_weights(weights)
    i, j = 3, 1
    u = [sum(a[k] * W[k, c] for k in range(len(a))) for c in (i, j)]
    assert kept["C1"][i, j] == pytest.approx(np.dot(W_K[i], W_K[j]) - np.dot(W_Q[i], W_Q[j]), rel=1e-12)
    assert kept["C2"][i, j] == pytest.approx(np.dot(W[:, i], W[:, j]) - np.dot(W_V[i], W_V[j]), rel=1e-12)
    assert kept["C2a"][i, j] == pytest.approx(u[0] * u[1] - len(a) * np.dot(W_V[i], W_V[j]), rel=1e-12)
    projector = np.eye(len(a)) - np.outer(a, a) / len(a)
    np.testing.assert_allclose(kept["W off a"], projector @ W, rtol=0, atol=1e-14)  # rounding
    np.testing.assert_allclose(kept["K1"], [sum(row) for row in W_K], rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", SIZES)
def test_the_coupled_quantities_are_traces_of_those_of_the_weights(size):
    weights, batch = case(*size)
    kept = jax.tree.map(np.asarray, conservation.of_weights(weights))
    got = of_coupled(reduce(weights), batch, coupled.width_of(weights))
    traces = {
        "tr C1": np.trace(kept["C1"]),
        "tr C1^2": np.trace(kept["C1"] @ kept["C1"]),
        "tr C2a": np.trace(kept["C2a"]),
        "tr C2a^2": np.trace(kept["C2a"] @ kept["C2a"]),
        "|K1|^2": kept["K1"] @ kept["K1"],
    }
    assert set(got) == set(traces)
    for name, trace in traces.items():
        assert float(got[name]) == pytest.approx(trace, rel=1e-11), (
            name
        )  # rounding, with cancellation between large traces


@pytest.mark.parametrize("size", SIZES)
def test_the_coupled_quantities_stand_still_along_the_coupled_flow(size):
    weights, batch = case(*size)
    width = coupled.width_of(weights)

    state = reduce(weights)
    velocity, kept, moving = coupled_rates(state, batch, width)
    speed = {name: float(jnp.abs(getattr(velocity, name)).max()) for name in ("S", "Gamma_K")}
    scale = {
        "tr C1": speed["Gamma_K"],
        "tr C1^2": speed["Gamma_K"] * float(jnp.abs(state.Gamma_K).sum()),
        "tr C2a": speed["S"],
        "tr C2a^2": speed["S"] * float(state.S + width.m1 * jnp.abs(state.Gamma_V).sum()),
        "|K1|^2": speed["Gamma_K"],
    }
    for name, rate in kept.items():
        assert abs(rate) <= 1e-13 * scale[name], name  # rounding of the terms that cancel
    for name, rate in moving.items():  # negative controls: the sum over queries is not protected, nor is S
        assert abs(rate) > 1e-3 * speed["S" if name == "S" else "Gamma_K"], name


@pytest.mark.parametrize("size", SIZES)
def test_one_step_of_descent_moves_the_matrices_by_the_predicted_second_order(size):
    weights, batch = case(*size)
    rate = 0.3
    after = descend(cooccurrence.loss, weights, batch, learning_rate=rate, steps=1).final
    was, now = conservation.of_weights(weights), conservation.of_weights(after)
    predicted = conservation.descent_step_drift(gradient(size), rate)
    assert set(predicted) == {"C1", "C2"}
    for name, drift in predicted.items():
        # 1e-13 of the matrices themselves: their difference is rounded as they are
        scale = np.abs(was[name]).max()
        np.testing.assert_allclose(now[name] - was[name], drift, rtol=0, atol=1e-13 * scale, err_msg=name)
        assert np.abs(drift).max() > 1e-6 * scale
    # the linear law holds for descent too
    np.testing.assert_allclose(now["K1"], was["K1"], rtol=0, atol=1e-14 * np.abs(weights.W_K).sum())


def test_a_word_that_no_sentence_holds_keeps_its_columns():
    weights, batch = case(*SIZES[0])
    absent = eqx.tree_at(lambda b: b.tokens, batch, batch.tokens % 6)
    g = jax.jit(jax.grad(cooccurrence.loss))(weights, absent)
    for name in MATRICES[1:]:
        assert not np.asarray(getattr(g, name))[:, 6].any() and np.asarray(getattr(g, name))[:, :6].any()
