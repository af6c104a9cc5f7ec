"""The path from checkpoints to claims: the simulation on tiny random models, held to the steps made one by one."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import simulations
from gradflow import InputError, store
from gradflow.models import random_checkpoints
from gradflow.models.pretrained import load
from gradflow.observe.language_models import answer, observe
from gradflow.plotting.language_models import along_training
from gradflow.tasks.questions import OWN
from simulations.language_models import PRESETS, Config, measure, run

ROOT = Path(simulations.__file__).parents[1]
TINY = Config(revisions=("step0", "step10"), count=5, batch=2, seed=7)


@pytest.fixture(scope="module")
def libraries():
    pytest.importorskip("transformers")
    pytest.importorskip("torch")


@pytest.fixture(scope="module")
def finished(libraries, tmp_path_factory):
    out = tmp_path_factory.mktemp("language_models") / "run"
    run(dataclasses.replace(TINY, out=out))
    return out


@pytest.fixture(scope="module")
def written(libraries, tmp_path_factory):
    """The same checkpoints, in folders that stay."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return random_checkpoints.write(folder, TINY.revisions, seed=TINY.seed)


def test_the_run_leaves_its_configuration_numbers_claims_and_picture(finished):
    assert {path.name for path in finished.iterdir()} == {
        "config.json", "language_models.nc", "claims.json", "language_models.png",
    }  # fmt: skip
    claims = json.loads((finished / "claims.json").read_text())
    assert len(claims) == 3 and all(claim["holds"] is None and claim["measured"] is None for claim in claims)
    seen = store.load(finished, "language_models")
    assert seen.attrs["questions"] == "own" and "random" in seen.attrs["weights"]


def test_the_numbers_are_those_of_each_checkpoint_alone(finished, written):
    seen = store.load(finished, "language_models")
    assert seen["checkpoint"].values.tolist() == [
        "random gpt-neox step0", "random gpt-neox step10", "random olmo-2 step0", "random olmo-2 step10",
    ]  # fmt: skip
    assert len(np.unique(seen["cosine"])) == 4
    for i, place in enumerate(folder / revision for folder in written for revision in TINY.revisions):
        model, tokenizer = load(place)
        alone = observe(answer(model, [tokenizer(question)["input_ids"] for question in OWN[:5]], batch=5))
        np.testing.assert_array_equal(seen["token"][i], alone["token"])
        np.testing.assert_allclose(seen["cosine"][i], alone["cosine"], atol=1e-5)  # float32, other batches
        np.testing.assert_array_equal(seen["repetition"][i], alone["repetition"])


def test_folders_of_revisions_give_the_same_numbers(finished, written, tmp_path):
    models = tuple(map(str, written))
    run(dataclasses.replace(TINY, models=models, revisions=(), out=tmp_path / "run"))
    first, second = (store.load(folder, "language_models") for folder in (finished, tmp_path / "run"))
    assert second["model"].values[0] == models[0] and "weights" not in second.attrs
    for name in first.data_vars:
        np.testing.assert_array_equal(first[name], second[name])


def test_what_is_measured_are_the_numbers_of_the_run_and_its_claims(finished, check_kept, check_claims):
    measured = measure(TINY)
    check_kept(measured)
    check_claims(measured, finished)
    np.testing.assert_array_equal(measured["cosine"], store.load(finished, "language_models")["cosine"])


def test_another_seed_gives_other_weights(finished, libraries):
    other = measure(dataclasses.replace(TINY, seed=8))
    assert not np.isin(other["cosine"], store.load(finished, "language_models")["cosine"]).any()


def test_what_was_measured_is_kept_where_a_later_checkpoint_fails(written, tmp_path):
    models, config = tuple(map(str, written)), dataclasses.replace(TINY, out=tmp_path / "run")
    broken = written[1] / "step10" / "pytorch_model.bin"
    whole = broken.read_bytes()
    try:
        broken.write_bytes(whole[:1000])
        with pytest.raises(InputError, match="cannot be read"):
            run(dataclasses.replace(config, models=models))
    finally:
        broken.write_bytes(whole)
    assert store.load(tmp_path / "run", "language_models").sizes["checkpoint"] == 3


def test_the_picture_shows_every_model_over_its_steps_or_over_named_revisions(finished):
    seen = store.load(finished, "language_models")
    axes = along_training(seen).axes
    assert [line.get_label() for line in axes[0].lines] == ["random gpt-neox", "random olmo-2"]
    np.testing.assert_array_equal(axes[1].lines[1].get_data(), [[0, 10], seen["repetition"][2:]])
    named = seen.assign_coords(step=("checkpoint", [0, np.nan, 0, 10]))
    left = along_training(named).axes[0]
    assert [label.get_text() for label in left.get_xticklabels()] == ["step0", "step10"]


def test_the_presets_ask_for_the_papers_checkpoints():
    assert len(PRESETS["paper"].revisions) == 16 and PRESETS["paper"].models == ("EleutherAI/pythia-14m",)
    assert PRESETS["olmo"].revisions[0] == "stage1-step150-tokens1B"
    assert not PRESETS["small"].models and PRESETS["paper"].count == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ("./nowhere",)}, r"There is no folder ./nowhere"),
        ({"models": ("a", "a")}, "A model comes twice"),
        ({"revisions": ("step1", "step1")}, "A revision comes twice"),
        ({"batch": 0}, "batch must be positive"),
        ({"count": 0}, "must be positive"),
        ({"questions": Path("nowhere.txt")}, "Cannot read questions"),
    ],
)
@pytest.mark.parametrize("script", [run, measure])
def test_bad_input_is_refused_in_one_line_before_anything_is_written(libraries, script, change, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        script(dataclasses.replace(TINY, out=tmp_path / "run", **change))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_missing_revision_ends_the_script_with_one_line_and_exit_code_2(written, tmp_path):
    command = [sys.executable, "-m", "simulations.language_models", "--models", str(written[0]), "--revisions", "step3"]
    done = subprocess.run([*command, "--out", str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: {written[0]} has no revision 'step3'; there are: step0, step10.\n"


def test_without_the_extra_the_script_says_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"transformers.*: pip install 'gradflow-dynamics\[llm\]'"):
        run(dataclasses.replace(TINY, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
