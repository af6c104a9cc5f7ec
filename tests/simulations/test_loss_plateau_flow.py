"""The loss plateau in continuous time: a small run, held to independent numbers; bad input is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from gradflow import InputError, store
from gradflow.models import transformer
from gradflow.observe import plateau_flow as observed
from gradflow.theory.plateau_flow import without_attention
from simulations.loss_plateau_flow import Config, measure, prepare, run, start

# two inputs that are 1 or 2: a run that is too short for the plateau to end, which costs little but compiling
TINY = Config(n=2, p=3, width=4, scales=(1.0, 2.0), scale=2.0, seeds=1, end=4.0, adam_end=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("plateau") / "run"
    run(dataclasses.replace(TINY, out=out))
    return out


@pytest.mark.slow  # flows, spectra and descent: half a minute
def test_the_run_leaves_its_configuration_datasets_claims_and_pictures(folder):
    runs = store.load_all(folder)
    assert set(runs) == {"gradient", "adam", "saddle", "escape"}
    assert all(each.attrs["long_name"] and each.attrs["units"] for run in runs.values() for each in run.values())
    claims = json.loads((folder / "claims.json").read_text())
    assert len(claims) == 19 and all(set(each) >= {"name", "predicted", "measured", "holds"} for each in claims)
    assert {path.name for path in folder.glob("*.png")} == {"losses.png", "saddle.png", "escape.png", "conserved.png"}
    gradient, escape, saddle = (runs[name] for name in ("gradient", "escape", "saddle"))
    flow = gradient["loss"].sel(run="gradient flow").values
    assert (np.diff(flow) < 1e-9).all()  # rtol 1e-5 of steps far smaller than that
    assert np.isnan(escape["end"]).all() and {each["holds"] for each in claims} >= {True, None}
    np.testing.assert_allclose(saddle["share"].sum("group"), 1, rtol=1e-12)


@pytest.mark.slow  # the whole run again
def test_what_is_measured_are_the_claims_of_the_run(folder, check_kept, check_claims):
    measured = measure(TINY)
    check_kept(measured)
    check_claims(measured, folder)


def test_the_start_is_the_usual_one_with_every_matrix_scaled():
    usual, larger = (start(TINY, scale, 0) for scale in (1.0, 3.0))
    np.testing.assert_allclose(larger.layers[0].O.weight, 3 * usual.layers[0].O.weight, rtol=1e-15)
    np.testing.assert_array_equal(larger.norm.scale, 1)
    assert not np.array_equal(start(TINY, 1.0, 1).head, usual.head)
    of_attention = start(TINY, 3.0, 0, "attention")
    np.testing.assert_allclose(of_attention.layers[0].K.weight, 3 * usual.layers[0].K.weight, rtol=1e-15)
    for name in ("up", "down"):
        np.testing.assert_array_equal(
            getattr(of_attention.layers[0], name).weight, getattr(usual.layers[0], name).weight
        )
    np.testing.assert_array_equal(of_attention.head, usual.head)


def test_the_groups_of_a_direction_hold_all_its_parameters_once():
    ones = jax.tree.map(np.ones_like, start(TINY, 1.0, 0))
    sizes = {name: 4 * 4 + 4 for name in "QKVO"}
    sizes |= {"mlp": 4 * 16 + 16 + 16 * 4 + 4, "embeddings": 4 * 4 + 4 * 4, "norms": 3 * 8, "head": 4 * 4}
    assert sum(sizes.values()) == sum(leaf.size for leaf in jax.tree.leaves(ones))
    np.testing.assert_allclose(observed.shares(ones), np.array(list(sizes.values())) / sum(sizes.values()), rtol=1e-12)
    assert tuple(sizes) == observed.GROUPS


def test_the_growth_of_attentions_gradient_is_that_along_a_short_stretch_of_flow():
    _, batch = prepare(TINY)
    weights = start(TINY, 8.0, 0)
    gradient = jax.jit(jax.grad(transformer.loss))

    def size(weights):
        layer = gradient(weights, batch).layers[0]
        return float(np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves((layer.Q, layer.K, layer.V, layer.O.weight)))))  # fmt: skip

    h, g = 1e-5, gradient(weights, batch)
    ahead, behind = (jax.tree.map(lambda w, g: w - sign * h * g, weights, g) for sign in (1, -1))
    told = float(observed._gradient(weights, batch)[1])
    assert told == pytest.approx(np.log(size(ahead) / size(behind)) / (2 * h), rel=1e-5)  # central differences


def test_the_end_is_where_the_loss_crosses_the_level():
    falling = dataclasses.make_dataclass("Run", ["times", "loss"])
    run = falling(np.array([0.0, 1.0, 3.0]), np.array([2.0, 1.5, 0.5]))
    assert observed.end_of_plateau(run, 1.0) == pytest.approx(2.0)
    assert np.isnan(observed.end_of_plateau(run, 0.4))


def test_the_level_without_attention_lies_between_marginal_and_floor():
    task, batch = prepare(Config())
    assert task.losses.floor < without_attention(batch) < task.losses.marginal


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds must be positive"),
        ({"scales": (2.0, 1.0)}, "scales must be at least two"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"end": 0.5}, "later than 1"),
        ({"n": 9}, "at most limit = 4096"),
        ({"p": 1}, "at least 2"),
    ],
)
@pytest.mark.parametrize("script", [run, measure])
def test_bad_input_is_refused_before_any_work(script, changes, message, tmp_path):
    with pytest.raises(InputError, match=message) as refused:
        script(Config(out=tmp_path / "x", **changes))
    assert "\n" not in str(refused.value) and not (tmp_path / "x").exists()
