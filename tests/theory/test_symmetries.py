"""Conserved quantities of the transformer stand still along the exact velocity and along a flow; look-alikes do not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import gradient_flow
from gradflow.dynamics.trees import along
from gradflow.models import transformer
from gradflow.theory.symmetries import LINEAR, of_transformer, stream_norm

BATCH = jnp.array([[1, 4, 0, 2, 3], [2, 2, 4, 1, 1], [3, 0, 1, 1, 4], [4, 1, 3, 0, 2]], jnp.int32)


@functools.cache
def start(attention):
    """Two layers of two heads, far from symmetric: every bias, scale and shift is its own number."""
    weights = transformer.init(
        jax.random.key(1), vocabulary=5, context=4, layers=2, heads=2, width=6, hidden=5, attention=attention,
        dtype=jnp.float64,
    )  # fmt: skip
    leaves, tree = jax.tree.flatten(weights)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return tree.unflatten([leaf + 0.4 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])  # fmt: skip


@functools.cache
def gradient(attention):
    return jax.jit(jax.grad(transformer.loss))(start(attention), BATCH)


def rate(quantities, attention):
    """d/dt along gradient flow."""
    velocity = jax.tree.map(jnp.negative, gradient(attention))
    return jax.jit(lambda weights, velocity: along(quantities, weights, velocity))(start(attention), velocity)


def look_alikes(weights):
    """Of the same kind, and protected by no law in either attention."""
    layer = weights.layers[0]
    q, k, v, up, down = (each.weight for each in (layer.Q, layer.K, layer.V, layer.up, layer.down))
    return {
        "Q, K without biases": q[:, :3].T @ q[:, :3] - k[:, :3].T @ k[:, :3],
        "Q, K across heads": (q.T @ q - k.T @ k)[:3, 3:],
        "V, O without biases": v[:, :3].T @ v[:, :3] - layer.O.weight[:3] @ layer.O.weight[:3].T,
        "up, down": jnp.square(up).sum(axis=0) + layer.up.bias**2 - jnp.square(down).sum(axis=1),
        "norm_1 without shift": layer.norm_1.scale**2 - sum(jnp.square(each).sum(axis=1) for each in (q, k, v)),
        "norm_1 without V": layer.norm_1.scale**2
        + layer.norm_1.shift**2
        - sum(jnp.square(m).sum(axis=1) for m in (q, k)),
        "tokens alone": weights.token_embedding.sum(axis=0),
        "V 1": v.sum(axis=1),
        "Q.bias": layer.Q.bias,
        "V.bias": layer.V.bias,
    }


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_what_a_symmetry_protects_stands_still(attention):
    size = float(jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient(attention)))))
    kept = rate(of_transformer, attention)
    assert len(kept) == 9 and ("Q, V" in kept) == (attention == "linear") == ("K.bias" not in kept)
    for name, value in kept.items():
        # rounding: sums of some hundred terms, each of them a gradient times a weight of order 1
        np.testing.assert_allclose(value, 0, rtol=0, atol=1e-13 * size, err_msg=name)


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_look_alikes_move(attention):
    size = float(jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient(attention)))))
    for name, value in rate(look_alikes, attention).items():
        assert np.linalg.norm(value) > 1e-3 * size, name


def test_each_kind_of_attention_breaks_the_law_of_the_other():
    """|Q|^2 - |V|^2 moves under softmax, the keys' bias under linear attention."""

    def swapped(weights):
        other = {"linear": "softmax", "softmax": "linear"}[weights.attention]
        given = transformer.Transformer(**(vars(weights) | {"attention": other}))
        return {name: value for name, value in of_transformer(given).items() if name in ("Q, V", "K.bias")}

    for attention in ("linear", "softmax"):
        (value,) = rate(swapped, attention).values()
        assert np.abs(value).max() > 1e-3


def test_the_quantities_are_what_their_names_say():
    """Entry by entry, from the definitions, in numpy."""
    weights = jax.tree.map(np.asarray, start("linear"))
    kept, layer = of_transformer(weights), weights.layers[1]
    for head, channels in enumerate((slice(0, 3), slice(3, 6))):
        q, k, v = (np.vstack([m.weight[:, channels], m.bias[channels]]) for m in (layer.Q, layer.K, layer.V))
        o = layer.O.weight[channels]
        np.testing.assert_allclose(kept["Q, K"][1, head], q.T @ q - k.T @ k, atol=1e-14)
        np.testing.assert_allclose(kept["V, O"][1, head], v.T @ v - o @ o.T, atol=1e-14)
        assert float(kept["Q, V"][1, head]) == pytest.approx((q**2).sum() - (v**2).sum(), rel=1e-12)
    row = sum((m.weight[2] ** 2).sum() for m in (layer.Q, layer.K, layer.V))
    assert float(kept["norm_1"][1, 2]) == pytest.approx(layer.norm_1.scale[2] ** 2 + layer.norm_1.shift[2] ** 2 - row)
    assert float(kept["norm_2"][1, 4]) == pytest.approx(layer.norm_2.scale[4] ** 2 + layer.norm_2.shift[4] ** 2 - (layer.up.weight[4] ** 2).sum())  # fmt: skip
    assert kept["mean"].size == 5 + 4 + 2 * (6 + 1 + 5 + 1)
    assert float(kept["mean"][-1]) == pytest.approx(layer.down.bias.sum())


def test_the_scale_of_the_stream_is_kept_but_for_the_norms_eps(monkeypatch):
    """Its rate is proportional to eps, which the loss is compiled with."""
    rates = []
    for eps in (1e-5, 1e-6, 0.0):
        monkeypatch.setattr(transformer, "NORM_EPS", eps)
        gradient = jax.jit(jax.grad(lambda weights: transformer.loss(weights, BATCH)))(start("linear"))
        rates.append(-float(along(stream_norm, start("linear"), gradient)))
    assert rates[0] / rates[1] == pytest.approx(10, rel=1e-3)  # the next order is eps / variance, here below 1e-4
    assert abs(rates[2]) < 1e-12 < 1e-6 < abs(rates[0])  # rounding


@pytest.mark.slow  # a flow of 500 parameters
@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_along_a_flow_linear_laws_hold_to_rounding_and_quadratic_ones_to_the_tolerance(attention):
    run = gradient_flow(
        transformer.loss, start(attention), BATCH, times=np.array([0.0, 0.02, 0.1]), method="tsit5", rtol=1e-8,
        invariants=of_transformer, show_progress=False,
    ).require_complete()  # fmt: skip
    assert run.loss[-1] < 0.95 * run.loss[0]
    for name, drift in run.drift.items():
        assert drift[-1] <= (1e-12 if name in LINEAR else 1e-7), name
