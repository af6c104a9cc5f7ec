"""The saddle of the loss plateau: its level by counting, its first order by differences, its blow-up in closed form."""

import collections
import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from gradflow import InputError
from gradflow.models import transformer
from gradflow.models.transformer import Linear
from gradflow.tasks.sequences import WindowSum
from gradflow.theory import plateau_flow
from gradflow.theory.plateau_flow import (  # fmt: skip
    at_saddle,
    blow_up,
    blow_up_of,
    first_order,
    misfit,
    resting_time,
    without_attention,
)

P, N = 4, 3
SEQUENCES = [(*x, P, x[0], (x[0] + x[1]) % P, (x[1] + x[2]) % P) for x in itertools.product(range(1, P), repeat=N)]
BATCH = jnp.array(SEQUENCES, jnp.int32)


@pytest.fixture(scope="module")
def weights():
    start = transformer.init(jax.random.key(3), vocabulary=P + 1, context=2 * N, width=6, dtype=jnp.float64)
    leaves, tree = jax.tree.flatten(start)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    return tree.unflatten([leaf + 0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])  # fmt: skip


def test_the_level_without_attention_is_the_entropy_of_a_table_of_bigrams():
    nats = 0.0
    for now in range(2 * N):
        table = collections.Counter((each[now], each[now + 1]) for each in SEQUENCES)
        of_current = collections.Counter(each[now] for each in SEQUENCES)
        nats -= sum(count / len(SEQUENCES) * math.log(count / of_current[pair[0]]) for pair, count in table.items())
    assert without_attention(BATCH) == pytest.approx(nats / (2 * N), rel=1e-12)
    losses = WindowSum(N, P).losses
    assert losses.floor < without_attention(BATCH) < losses.marginal


def test_a_sum_of_two_is_known_as_well_as_its_second_number_from_the_first():
    """The sum y_2 given y_1 = x_1 has the entropy of x_2: one output knows more than its marginal."""
    two = jnp.array([(*x, 5, x[0], sum(x) % 5) for x in itertools.product(range(1, 5), repeat=2)])
    assert without_attention(two) == pytest.approx((math.log(4) + 0 + math.log(4) + math.log(4)) / 4, rel=1e-12)


def scaled(weights, factor):
    """Attention's addition but for its bias, times a factor."""
    return eqx.tree_at(lambda w: w.layers[0].O.weight, weights, factor * weights.layers[0].O.weight)


def test_the_first_order_is_the_slope_of_the_loss_in_what_attention_adds(weights):
    layer = weights.layers[0]
    told = first_order((layer.Q, layer.K, layer.V, layer.O.weight), *at_saddle(weights, BATCH))
    loss = jax.jit(transformer.loss)
    h = 1e-4
    difference = (loss(scaled(weights, h), BATCH) - loss(scaled(weights, -h), BATCH)) / (2 * h)
    assert float(told) == pytest.approx(float(difference), rel=1e-5)  # central differences: h^2
    assert abs(float(told)) > 1e-4


def test_without_attention_only_the_bias_of_O_has_a_gradient_among_attentions_parameters(weights):
    empty = jax.tree.map(jnp.zeros_like, weights.layers[0].Q)
    at = eqx.tree_at(lambda w: (w.layers[0].Q, w.layers[0].K), weights, (empty, empty))
    layer = jax.jit(jax.grad(transformer.loss))(at, BATCH).layers[0]
    for leaf in jax.tree.leaves((layer.Q, layer.K, layer.V, layer.O.weight)):
        np.testing.assert_array_equal(leaf, 0)
    assert np.abs(layer.O.bias).max() > 1e-4


@pytest.mark.parametrize(("size", "slope"), [(0.5, 2.0), (0.1, 3.0)])
def test_four_equal_scalars_blow_up_at_one_over_twice_the_slope_times_the_squared_size(size, slope):
    """theta' = slope theta^3; the matrices are the biases of one channel, since what the layer reads is 0."""
    one = Linear(jnp.zeros((1, 1)), jnp.full(1, size))
    told = blow_up_of((one, one, one, jnp.full((1, 1), size)), jnp.full((1, 1, 1), -slope), jnp.zeros((1, 1, 1)))
    assert told == pytest.approx(1 / (2 * slope * size**2), rel=1e-5)  # rtol 1e-6; e^-24 of it is left out


def test_the_blow_up_scales_as_the_inverse_square_of_the_initial_scale(weights):
    layer = weights.layers[0]
    matrices = (layer.Q, layer.K, layer.V, layer.O.weight)
    saddle = at_saddle(weights, BATCH)
    one, half = (blow_up_of(jax.tree.map(lambda leaf: s * leaf, matrices), *saddle) for s in (1.0, 0.5))
    assert half / one == pytest.approx(4, rel=1e-5)  # rtol 1e-6
    assert blow_up(weights, BATCH) == pytest.approx(one, rel=1e-10)


def test_other_models_are_refused(weights):
    with pytest.raises(InputError, match="one layer of causal linear attention"):
        blow_up(eqx.tree_at(lambda w: w.layers, weights, weights.layers * 2), BATCH)


def test_a_power_and_a_logarithm_are_told_apart():
    scales = np.array([0.5, 1.0, 2.0, 4.0])
    ends = 0.3 + 7 / scales**2
    assert misfit(lambda s: s**-2.0, scales, ends) < 1e-12 < 0.1 < misfit(lambda s: -np.log(s), scales, ends)


def test_rest_at_a_level_is_the_time_within_two_percent_of_it():
    times = np.array([0.0, 10.0, 11.0, 20.0])
    assert resting_time(times, np.array([1.0, 1.0, 0.5, 0.5]), 1.0) == pytest.approx(10 + 0.04, abs=2e-3)  # the grid


def test_claims_fail_where_the_end_is_a_logarithm_of_the_scale():
    scales = np.array([0.5, 1.0, 2.0])

    def escape(ends):
        table = np.stack([ends, ends], axis=1)
        variables = {"end": (("scale", "seed"), table), "rested": (("scale", "seed"), np.full((3, 2), 0.5))}
        variables |= {
            name: (("scale", "seed", "part"), each[..., None])
            for name, each in (("predicted", table), ("loss", np.full((3, 2), 1.2)))
        }
        return xr.Dataset(variables, {"scale": scales, "seed": [0, 1], "part": [0.5]}, {"without_attention": 1.19})  # fmt: skip

    held = {c.name: c.holds for c in plateau_flow.of_escape(escape(8 / scales**2))}
    failed = {c.name: c.holds for c in plateau_flow.of_escape(escape(8 - 3 * np.log(scales)))}
    assert set(held.values()) == {True}
    assert [name for name in held if not failed[name]] == ["the end of the plateau is a power of the initial scale of attention", "... and no logarithm of it"]  # fmt: skip
