"""From flags to files: a tiny training on a sequence task, what it leaves, how it goes on where it was stopped, and what is refused."""

import dataclasses
import json
import math

import numpy as np
import pytest

from figures import loss_plateau as figure
from gradflow import store
from gradflow.dynamics import training
from gradflow.errors import InputError
from gradflow.observe.loss_plateau import curves
from gradflow.tasks.sequences import PAPER, SMALL
from simulations.loss_plateau import PRESETS, measure, run

pytestmark = pytest.mark.slow  # trains
TINY = dataclasses.replace(
    PRESETS["small"], n=4, p=5, width=8, steps=30, batch_size=8, held_out=8, save_every=4, seeds=2
)
PICTURES = {"overview.png", "maps.png"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run(dataclasses.replace(TINY, out=out))
    return out


@pytest.fixture(scope="module")
def datasets(finished):
    return store.load_all(finished)


def assert_same(first, second, names=None):
    for name in names or first.data_vars:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_a_run_leaves_its_configuration_numbers_claims_and_pictures_and_no_checkpoint(finished, datasets):
    assert {path.name for path in finished.iterdir()} == {
        "config.json", "trajectory.nc", "summary.nc", "claims.json", *PICTURES,
    }  # fmt: skip
    assert store.load_config(finished / "config.json")["n"] == 4
    assert len(json.loads((finished / "claims.json").read_text())) == 9
    for each in datasets.values():
        assert each["seed"].values.tolist() == [0, 1]
        for name, variable in each.variables.items():
            named = variable.attrs.get("long_name") and variable.attrs.get("units")
            assert named or variable.dtype.kind in "OUT", name  # numbers; names of places and strategies need no unit
    assert datasets["trajectory"]["step"].values.tolist() == [0, 4, 8, 12, 16, 20, 24, 28, 30]


def test_the_figure_is_drawn_from_the_stored_run(finished, tmp_path):
    assert {path.name for path in figure.draw(finished, tmp_path)} == PICTURES == {p.name for p in tmp_path.iterdir()}


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_measured_of_a_seed_are_its_numbers_in_the_run(datasets, check_kept, seed):
    measured = measure(dataclasses.replace(TINY, seed=seed))
    check_kept(measured)
    of_seed = {name: each.sel(seed=seed) for name, each in datasets.items()}
    assert_same(of_seed["summary"], measured)
    of_run = curves(of_seed["trajectory"])
    assert set(measured.data_vars) == set(of_seed["summary"].data_vars) | set(of_run.data_vars)
    assert_same(of_run, measured)
    other = datasets["trajectory"].sel(seed=1 - seed)
    assert (other["loss"].values != measured["loss"].values).all()


def test_the_loss_begins_near_the_logarithm_of_the_vocabulary(datasets):
    # the final norm makes hidden states of squared norm 8, the head logits of variance 8 0.02^2 = 0.003: half of it is the
    # excess; its sampling over 8 x 8 tokens, whose logits spread by 0.06, is below 0.06 / sqrt(8) = 0.02
    np.testing.assert_allclose(datasets["trajectory"]["loss"].sel(step=0), math.log(6), atol=0.03)


def test_an_interrupted_run_goes_on_with_the_same_command_to_the_same_numbers(
    finished, datasets, tmp_path, monkeypatch
):
    config, advance, calls = dataclasses.replace(TINY, out=tmp_path / "run"), training._advance, []

    def interrupted(*arguments):
        calls.append(None)
        if (
            len(calls) == 9 + 5
        ):  # each seed has a look at the start and eight stretches: in the fourth one of the second seed
            raise KeyboardInterrupt
        return advance(*arguments)

    monkeypatch.setattr(training, "STRETCH", 1)
    monkeypatch.setattr(training, "_advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert not list(config.out.glob("*.nc")) and len(list(config.out.glob("*.npz"))) == 2
    begun = (config.out / "config.json").read_text()
    with pytest.raises(InputError, match="another run that is not finished; choose another --out, or add --overwrite"):
        run(dataclasses.replace(config, steps=31))
    assert (config.out / "config.json").read_text() == begun  # with which it goes on
    calls.clear()
    calls += [None] * 100
    stored = store.load_config(finished / "config.json")  # all that is needed to run again
    run(type(TINY)(**stored | {"out": config.out}))
    assert (
        len(calls) == 100 + 1 + 1 + 5
    )  # a look at each start, nothing of the first seed, and what the second has left
    for name, undisturbed in datasets.items():
        assert_same(undisturbed, store.load(config.out, name))
    assert {path.name for path in config.out.iterdir()} == {path.name for path in finished.iterdir()}


@pytest.mark.parametrize("start", [16, 30])
def test_a_bias_acts_from_its_step_on_and_a_factor_of_one_not_at_all(datasets, start):
    """Maps are multiplied by 1 before it; at a save point where it begins, weights are the same, but it is seen."""
    without = datasets["trajectory"].sel(seed=0)["loss"]
    biased = measure(dataclasses.replace(TINY, bias=10.0, bias_from=start))["loss"]
    np.testing.assert_array_equal(biased == without, without["step"] < start)


@pytest.mark.parametrize(
    "task", ["permutation", *(pytest.param(each, marks=pytest.mark.slow) for each in ("histogram", "addition"))]
)
def test_tasks_of_other_shapes_are_measured_with_their_own_layers(task, check_kept):
    """Two layers and two strategies; two layers and clipped gradients; no closed form of the plateau."""
    config = dataclasses.replace(TINY, task=task, n=None, p=None, steps=8, save_every=1)
    measured = measure(config)
    check_kept(measured)
    vocabulary = {"permutation": 8 + 8 + 1, "histogram": 8 + 1, "addition": 12}[task]
    assert float(measured["loss_initial"]) == pytest.approx(math.log(vocabulary), abs=0.03)  # as above


@pytest.mark.parametrize("tasks", [SMALL, PAPER])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_size_that_is_not_said_is_that_of_the_preset(preset, tasks):
    config = dataclasses.replace(PRESETS[preset], task="prefix_sum", p=7, n=3)
    assert (config.task_at_size().n, config.task_at_size().p) == (3, 7)
    for name in tasks:
        assert (
            dataclasses.replace(PRESETS[preset], task=name).task_at_size()
            == (SMALL if preset == "small" else PAPER)[name]
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "sorting"}, "Unknown task 'sorting'; known are window_sum, .*, addition"),
        ({"task": "prefix_sum", "k": 3}, "prefix_sum has no k; it has n, p, distinct"),
        ({"k": 9}, "A window takes between 1 and n = 4"),
        ({"optimizer": "lion"}, "Unknown optimizer 'lion'; known are adam"),
        ({"layers": 0}, "layers must be positive, got 0"),
        ({"heads": 3}, "width must be a multiple of heads"),
        ({"warm_up": -1}, "warm_up must be"),
        ({"warm_up": 30, "cosine_decay": True}, "cosine_to must be a step behind the warm-up of 30"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive"),
        ({"bias": float("nan")}, "bias must be a number"),
        ({"task": "124_disjoint_444", "n": 16}, "124_disjoint_444 has no n; it has mix, p"),
        ({"batch_size": 0}, "batch_size must be a positive"),
        ({"held_out": 0}, "held_out must be a positive"),
        ({"save_every": 0}, "save_every must be a positive"),
        ({"save_every": 5}, "8 save points or more; 30 steps have 7"),
    ],
)
def test_bad_input_is_refused_in_one_line_before_anything_is_touched(finished, change, message):
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    for script, more in ((measure, {}), (run, {"out": finished, "overwrite": True})):
        with pytest.raises(InputError, match=message) as caught:
            script(dataclasses.replace(TINY, **change, **more))
        assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_a_run_without_seeds_and_one_over_another_are_refused(finished):
    with pytest.raises(InputError, match="seeds must be positive, got 0"):
        run(dataclasses.replace(TINY, out=finished, overwrite=True, seeds=0))
    with pytest.raises(InputError, match="holds another run"):
        run(dataclasses.replace(TINY, out=finished))
