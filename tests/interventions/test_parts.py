"""Parts are found by their names; what is frozen stays to the last bit and is a constant for the rest; what is copied is equal."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradflow import InputError, descend
from gradflow.dynamics.recipes import Recipe
from gradflow.interventions.parts import PARTS, frozen, selected, transplant
from gradflow.models import transformer
from gradflow.tasks.sequences import Fresh, WindowSum

TASK = WindowSum(n=4, p=5)
SIZES = dict(vocabulary=TASK.vocabulary, context=TASK.length - 1, width=8)
ONE, OTHER = (transformer.init(jax.random.key(seed), **SIZES) for seed in (0, 1))
STREAM = Fresh(TASK, 8, jax.random.key(2))

EMBEDDINGS = {"token_embedding", "position_embedding"}


def linear(*letters):
    return {f"layers/0/{letter}/{kind}" for letter in letters for kind in ("weight", "bias")}


def norm(*names):
    return {f"{name}/{kind}" for name in names for kind in ("scale", "shift")}


BY_HAND = {
    "KQ": linear("K", "Q") | norm("layers/0/norm_1") | EMBEDDINGS,
    "KQOV": linear("K", "Q", "O", "V") | norm("layers/0/norm_1") | EMBEDDINGS,
    "MLP": linear("up", "down") | norm("layers/0/norm_2", "norm") | {"head"},
    "embeddings": norm("norm") | {"head"} | EMBEDDINGS,
}


def by_name(tree):
    """Leaves by their names, as attribute access gives them: written again, to check those of the package."""
    leaves = {}

    def visit(node, name):
        if isinstance(node, tuple):
            children = enumerate(node)
        elif isinstance(node, bool | np.ndarray | jax.Array):
            leaves[name] = node
            return
        else:
            children = ((key, value) for key, value in vars(node).items() if not isinstance(value, str | int))
        for key, child in children:
            visit(child, f"{name}/{key}".lstrip("/"))

    visit(tree, "")
    return leaves


# ------------------------------------------------------------------------------------------------------------ the names


@pytest.mark.parametrize("part", PARTS)
def test_the_parts_of_the_paper_are_these_parameters(part):
    chosen = {
        name for name, taken in zip(by_name(ONE), jax.tree.leaves(selected(ONE, PARTS[part])), strict=True) if taken
    }
    assert chosen == BY_HAND[part]


def test_what_is_not_attention_and_its_inputs_is_the_mlp_and_its_readout():
    below, above = (jax.tree.leaves(selected(ONE, PARTS[part])) for part in ("KQOV", "MLP"))
    assert all(a != b for a, b in zip(below, above, strict=True))


def test_a_pattern_without_match_is_named_with_what_there_is():
    with pytest.raises(
        InputError, match=r"No parameter is called 'wte'; there are token_embedding, .*layers/0/Q/weight"
    ) as error:
        selected(ONE, ("head", "wte"))
    assert "\n" not in str(error.value)
    for call in (lambda: frozen(optax.adam, ONE, ("Norm/*",)), lambda: transplant(ONE, OTHER, ("Norm/*",))):
        with pytest.raises(InputError, match=r"No parameter is called 'Norm/\*'"):
            call()


# -------------------------------------------------------------------------------------------------------------- copying


@pytest.mark.parametrize("part", PARTS)
def test_what_is_copied_is_equal_and_the_rest_is_as_it_was(part):
    mixed, one, other = (by_name(tree) for tree in (transplant(ONE, OTHER, PARTS[part]), ONE, OTHER))
    for name, leaf in mixed.items():
        np.testing.assert_array_equal(leaf, (other if name in BY_HAND[part] else one)[name])


def test_parts_are_copied_between_models_of_another_kind_and_type():
    softmax = dataclasses.replace(OTHER, attention="softmax", layers=OTHER.layers * 2)
    mixed = transplant(ONE, jax.tree.map(lambda leaf: np.asarray(leaf, float), softmax), PARTS["KQ"])
    assert mixed.attention == "linear" and len(mixed.layers) == 1
    np.testing.assert_array_equal(mixed.layers[0].Q.weight, OTHER.layers[0].Q.weight)
    assert mixed.layers[0].Q.weight.dtype == jnp.float32


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"head has shape \(8, 6\), but in the model to copy from \(16, 6\)"):
        transplant({"head": np.ones((8, 6))}, {"head": np.ones((16, 6))}, ("head",))
    deep = dataclasses.replace(ONE, layers=ONE.layers * 2)
    with pytest.raises(InputError, match=r"copy from has no parameter layers/1/norm_1/scale"):
        transplant(deep, ONE, ("layers/*/norm_1/*",))


# ------------------------------------------------------------------------------------------------------------- freezing


def test_what_is_frozen_stays_to_the_last_bit_and_all_else_moves():
    optimizer = frozen(Recipe("muon", clip=1.0), ONE, PARTS["KQOV"])
    run = descend(
        transformer.loss, ONE, stream=STREAM, held_out=STREAM, learning_rate=1e-2, steps=3, optimizer=optimizer
    )
    assert run.complete
    start = by_name(ONE)
    still = {name for name, leaf in by_name(run.final).items() if np.array_equal(leaf, start[name])}
    assert still == BY_HAND["KQOV"]


HESSIAN = jnp.array([[3.0, 1.0], [1.0, 2.0]])


def quadratic(params):
    x = jnp.concatenate([params["still"], params["moving"]])
    return 0.5 * x @ jnp.kron(HESSIAN, jnp.eye(2)) @ x


def test_what_is_frozen_is_a_constant_for_the_rest():
    params = {"still": jnp.array([1.0, -2.0]), "moving": jnp.array([0.5, 4.0])}
    momentum = functools.partial(optax.sgd, momentum=0.9)
    options = dict(learning_rate=0.01, steps=30)
    run = descend(quadratic, params, optimizer=frozen(momentum, params, ("still",)), **options)
    rest = descend(
        lambda moving: quadratic(params | {"moving": moving}), params["moving"], optimizer=momentum, **options
    )
    np.testing.assert_allclose(run.final["moving"], rest.final, rtol=1e-14)  # the same thirty steps, rounded
    np.testing.assert_allclose(run.dissipated, rest.dissipated, rtol=1e-13)  # what is frozen does no work
    assert run.method == "gradient descent, sgd(momentum=0.9) with still frozen, learning_rate = 0.01"


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sign"])
def test_neither_weight_decay_nor_a_schedule_moves_what_is_frozen(name):
    params = {"still": jnp.array([1.0, -2.0]), "moving": jnp.array([0.5, 4.0])}
    recipe = Recipe(name, warm_up=2, cosine_to=9, clip=1.0)
    run = descend(quadratic, params, learning_rate=0.1, steps=5, optimizer=frozen(recipe, params, ("still",)))
    np.testing.assert_array_equal(run.final["still"], params["still"])
    assert (run.final["moving"] != params["moving"]).all()


def slope(params):
    return params["still"] @ jnp.array([300.0, -400.0]) + params["moving"] @ jnp.array([3.0, 4.0])


def test_what_is_frozen_does_not_count_in_the_norm_that_is_clipped():
    params = {"still": jnp.zeros(2), "moving": jnp.zeros(2)}
    run = descend(
        slope, params, learning_rate=0.1, steps=1, optimizer=frozen(Recipe("sgd", clip=1.0), params, ("still",))
    )
    np.testing.assert_allclose(run.final["moving"], [-0.06, -0.08], rtol=1e-14)  # (3, 4) has norm 5; roundings


def test_freezing_again_needs_no_new_compilation():
    traces = []

    def counted(params):
        traces.append(1)
        return quadratic(params)

    params = {"still": jnp.ones(2), "moving": jnp.ones(2)}
    for rate in (0.1, 0.2):
        descend(counted, params, learning_rate=rate, steps=2, optimizer=frozen(optax.adam, params, ["still"]))
        traces.append("run")
    first = traces.index("run")
    assert first >= 3 and len(traces) - first - 2 <= 1  # once more, to see that the loss is a number
