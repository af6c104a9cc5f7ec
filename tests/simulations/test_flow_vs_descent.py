"""Flow against discrete training from flags to files and pictures, and what it refuses."""

import dataclasses
import json

import numpy as np
import pytest

import gradflow
from figures import flow_vs_descent as figure
from gradflow import store
from gradflow.dynamics import progress
from gradflow.errors import InputError
from gradflow.observe.phases import unstable
from gradflow.plotting import comparison as pictures
from simulations.flow_vs_descent import PRESETS, measure, run

pytestmark = pytest.mark.slow  # a small run of the whole simulation

# of the preset's shapes, so that programs are compiled once for both
TINY = dataclasses.replace(
    PRESETS["small"], compared_rates=(0.1, 0.009), compared_end=30.0, rates=(0.1, 3.0), batch_sizes=(4,), end=100.0
)
PICTURES = {"distance", "conservation", "stability", "phases", "claims"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run(dataclasses.replace(TINY, out=out))
    return out


@pytest.fixture(scope="module")
def runs(finished):
    return store.load_all(finished)


def test_a_run_leaves_its_configuration_runs_claims_and_pictures(finished, runs):
    assert {path.stem for path in finished.glob("*.png")} == PICTURES
    assert (finished / "config.json").exists()
    kinds = sorted(name.split("_")[0] for name in runs)
    assert kinds == ["comparison", "gd", "gd", "sgd", "trajectory"]
    claims = json.loads((finished / "claims.json").read_text())
    of_comparison = [claim for claim in claims if "flow: " not in claim["name"] and "GD " not in claim["name"]]
    assert len(of_comparison) == 10 and all(claim["holds"] for claim in of_comparison)
    assert (len(claims) - 10) % 4 == 0  # as many for each of the four runs


def test_the_runs_begin_together_and_know_what_they_are(runs):
    flow = runs["trajectory"]
    for name, each in runs.items():
        if name != "comparison":
            np.testing.assert_allclose(each["G"][0], flow["G"][0], rtol=1e-12)
            np.testing.assert_allclose(each["sharpness"][0], flow["sharpness"][0], rtol=1e-9)
            assert float(each["time"][-1] * flow["S0"]) == pytest.approx(100, rel=0.2)  # whole steps
    start = float(flow["sharpness"][0])
    rates = sorted(each.attrs["learning_rate"] * start for name, each in runs.items() if name.startswith("gd"))
    assert rates == pytest.approx([0.1, 3.0], rel=1e-6)
    (sgd,) = (each for name, each in runs.items() if name.startswith("sgd"))
    assert sgd.attrs["batch_size"] == 4 and "batch_size = 4" in sgd.attrs["method"]


def test_descent_beyond_the_stable_rate_is_marked_where_it_is(runs):
    slow, fast = sorted(
        (runs[name] for name in runs if name.startswith("gd")), key=lambda run: run.attrs["learning_rate"]
    )
    assert not unstable(slow).any() and not unstable(runs["trajectory"]).any()
    np.testing.assert_array_equal(unstable(fast), fast.attrs["learning_rate"] * fast["sharpness"] > 2)
    assert unstable(fast)[0]


def test_the_same_seed_gives_the_same_numbers(finished, runs, tmp_path):
    again = type(TINY)(**{name: tuple(value) if isinstance(value, list) else value for name, value in store.load_config(finished / "config.json").items()} | {"out": tmp_path / "again"})  # fmt: skip
    run(again)
    for name, first in runs.items():
        second = store.load(tmp_path / "again", name)
        for variable in ("distance",) if name == "comparison" else ("G", "loss", "sharpness"):
            np.testing.assert_array_equal(first[variable], second[variable])


def test_what_is_measured_are_the_claims_and_numbers_of_the_run(finished, runs, check_kept, check_claims):
    measured = measure(TINY)
    check_kept(measured)
    check_claims(measured, finished)
    names = ["flow", "GD 0.1 / sharpness", "GD 3 / sharpness", "SGD 4"]
    assert measured["run"].values.tolist() == names
    assert {name.split(": ")[0] for name in measured["claim"].values[10:]} == set(names)
    by_label = {each.attrs["label"]: each for name, each in runs.items() if name != "comparison"}
    slow, fast = sorted((label for label in by_label if label.startswith("GD")), key=lambda label: float(label[3:]))
    for name, label in zip(names, ("flow", slow, fast, "SGD 4 of 24"), strict=True):
        found, run = measured.sel(run=name), by_label[label]
        assert float(found["loss_at_end"]) == float(run["loss"][-1]) and float(found["R_at_end"]) == float(run["R"][-1])
        product = run.attrs["learning_rate"] * float(run["sharpness"].max())
        assert float(found["rate_times_sharpness"]) == product and float(found["complete"]) == 1
        t, S0 = run["time"].values, float(run["S0"])
        after = np.argmax((run["margin"].values > 0).all(axis=1))
        assert S0 * t[after - 1] < float(found["T1_clock"]) < S0 * t[after]


def test_ctrl_c_in_a_descent_ends_the_measuring_there(monkeypatch):
    done, descend = [], gradflow.descend

    def interrupted(*data, **options):
        done.append(options["learning_rate"])
        return dataclasses.replace(descend(*data, **options), status="interrupted")

    monkeypatch.setattr(gradflow, "descend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(TINY)
    assert len(done) == 1


def test_ctrl_c_keeps_what_was_done(tmp_path, monkeypatch):
    report = progress.report

    def interrupted(*args, **options):
        if (tmp_path / "trajectory.nc").exists():
            raise KeyboardInterrupt
        report(*args, **options)

    monkeypatch.setattr(progress, "report", interrupted)
    with pytest.raises(InputError, match=r"GD .* interrupted\. What was done is in "):
        run(dataclasses.replace(TINY, out=tmp_path))
    (kept,) = (each for name, each in store.load_all(tmp_path).items() if name.startswith("gd"))
    assert kept.sizes["time"] == 2 and kept.attrs["status"] == "interrupted"


def test_the_figure_script_draws_them_again(finished, tmp_path):
    assert {path.stem for path in figure.draw(finished, tmp_path)} == PICTURES


def test_pictures_show_the_stored_numbers(runs):
    comparison = runs["comparison"]
    left, right = pictures.distance(comparison).axes
    drawn = [line.get_ydata() for line in left.lines]
    for order in (1, 2, 3):
        values = comparison["distance_from_order"].sel(order=order).values
        assert any(np.array_equal(values, each) for each in drawn)
    for name in ("distance", "predicted_distance"):
        for values in comparison[name].values:
            assert any(np.array_equal(values[1:], line.get_ydata()) for line in right.lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 7}, "multiple of 6"),
        ({"rates": (0.1, -1.0)}, "Learning rates must be positive"),
        ({"rates": ()}, "Learning rates must be positive"),
        ({"batch_sizes": (25,)}, "batch_size must be between 1 and the 24 samples, got 25"),
        ({"compared_rates": (2.5,), "compared_end": 1e3}, "beyond stability"),
        ({"compared_rates": ()}, "At least one learning rate"),
        ({"tolerance": 0.0}, "tolerance must be a positive distance"),
        ({"end": 0.0}, "end and compared_end must be positive"),
        ({"initialisation": "zeros"}, "known are paper, kaiming_normal"),
    ],
)
@pytest.mark.parametrize("script", [run, measure])
def test_bad_input_is_refused_in_one_line_before_anything_is_written(script, change, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        script(dataclasses.replace(TINY, out=tmp_path / "run", **change))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.nc"))
