"""Interventions on a tiny training: what is held still, what all of them share, what is kept, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import gradflow.observe.loss_plateau as observed
from figures import loss_plateau_interventions as figure
from gradflow import store
from gradflow.errors import InputError
from simulations.loss_plateau_interventions import PRESETS, measure, run, train_all

pytestmark = pytest.mark.slow  # seven trainings under three rules

# four sequences, which the model to copy from knows after some thirty steps
TINY = dataclasses.replace(
    PRESETS["small"], n=2, p=3, width=16, learning_rate=1e-2, batch_size=16, steps=32, donor_steps=64, save_every=4,
    strengths=(0.5, 10.0), starts=(16,), parts=("KQ",), seeds=1,
)  # fmt: skip
NAMES = ["none", "c = 0.5", "c = 10", "c = 10 from 16", "KQ copied", "KQ random"]
REFUSED = [
    ({"parts": ("KQ", "QV")}, "Unknown part 'QV'; known are KQ, KQOV, MLP, embeddings"),
    ({"strengths": ()}, "starts are those of the largest of strengths"),
    ({"seeds": 0}, "seeds must be positive, got 0"),
    ({"batch_size": 0}, "batch_size must be a positive"),
    ({"learning_rate": -1.0}, "learning_rate must be positive"),
    ({"save_every": 0}, "save_every must be a positive"),
    ({"steps": 24}, "24 steps have 7 with save_every = 4"),
    ({"donor_steps": 24}, "24 steps have 7 with save_every = 4"),
    ({"p": 1}, "n and p must be at least 2"),
]


@pytest.fixture(scope="module")
def trained():
    """The results of one seed, and of every training of it, in order: what it was given, and the weights that it ended with."""
    calls, train = [], observed.train

    def noting(task, weights, key, **options):
        run, final = train(task, weights, key, **options)
        calls.append((weights, key, options, final))
        return run, final

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observed, "train", noting)
        results = measure(TINY)
    return results, calls


def test_what_is_measured_can_be_kept(trained, check_kept):
    results, _ = trained
    check_kept(results)
    assert results["intervention"].values.tolist() == NAMES


def test_all_begin_alike_on_the_same_data_but_the_model_to_copy_from(trained):
    _, (donor, *others) = trained
    weights, key = others[0][:2]
    assert (jax.random.key_data(donor[1]) != jax.random.key_data(key)).any()
    assert (donor[0].head != weights.head).all()
    for name, (start, own_key, _, _) in zip(NAMES, others, strict=True):
        assert (jax.random.key_data(own_key) == jax.random.key_data(key)).all()
        if name != "KQ copied":
            assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), start, weights)), name


def test_what_is_frozen_stays_and_the_rest_is_trained(trained):
    """The parameters of a part are told here by what the paper says that it has."""
    _, (donor, *others) = trained
    of = dict(zip(NAMES, others, strict=True))

    def told(weights):
        (layer,) = weights.layers
        part = layer.Q, layer.K, layer.norm_1, weights.token_embedding, weights.position_embedding
        return part, (layer.V.weight, layer.O.weight, layer.up.weight, layer.down.weight, weights.head)

    for name, source in {"KQ copied": donor[3], "KQ random": of["none"][0]}.items():
        start, _, _, final = of[name]
        for wanted, begun, ended in zip(*(jax.tree.leaves(told(each)[0]) for each in (source, start, final)), strict=True):  # fmt: skip
            np.testing.assert_array_equal(begun, wanted)
            np.testing.assert_array_equal(ended, wanted)
        for begun, ended, own in zip(*(told(each)[1] for each in (start, final, of["none"][0])), strict=True):
            np.testing.assert_array_equal(begun, own)
            assert (begun != ended).any()


def test_a_bias_that_begins_late_changes_nothing_before(trained):
    results, _ = trained
    without, biased, late = (results["loss"].sel(intervention=name).values for name in ("none", "c = 10", NAMES[3]))
    np.testing.assert_array_equal(late == without, results["step"] < 16)
    assert (biased != without).all()


def test_the_interventions_have_numbers_of_their_own(trained):
    results, _ = trained
    assert len(np.unique(results["loss"].isel(step=-1))) == len(NAMES)


def test_a_run_leaves_the_numbers_of_its_seed_claims_and_the_picture(trained, tmp_path):
    out = tmp_path / "run"
    run(dataclasses.replace(TINY, out=out))
    assert {path.name for path in out.iterdir()} == {
        "config.json", "interventions.nc", "claims.json", "interventions.png", "members",
    }  # fmt: skip
    stored = store.load(out, "interventions")
    for name, values in trained[0].data_vars.items():
        np.testing.assert_array_equal(stored[name].sel(seed=0), values, err_msg=name)
    for name, variable in stored.variables.items():
        assert variable.attrs.get("long_name") and (variable.attrs.get("units") or name == "intervention"), name
    assert len(json.loads((out / "claims.json").read_text())) == 5  # bias, two measures under it, its start, KQ
    assert [path.name for path in figure.draw(out, tmp_path / "figure")] == ["interventions.png"]


def test_nothing_is_copied_from_a_model_that_did_not_learn():
    with pytest.raises(InputError, match=r"right in 0\.\d\d of the outputs \(seed 1\); it needs more --donor-steps") as caught:  # fmt: skip
        train_all(dataclasses.replace(TINY, learning_rate=1e-6), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_bad_input_is_refused_in_one_line_before_anything_is_written(change, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        run(dataclasses.replace(TINY, out=tmp_path / "run", **change))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=message):
        measure(dataclasses.replace(TINY, **change))
