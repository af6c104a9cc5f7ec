"""The main simulation from flags to files: what it leaves behind, that it repeats itself, and what it refuses."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import gradflow
import simulations
from gradflow import store
from gradflow.errors import InputError
from gradflow.observe.phases import cooccurrence_events
from gradflow.theory.cooccurrence import claims
from simulations.cooccurrence import PRESETS, measure, run

ROOT = Path(simulations.__file__).parents[1]
TINY = dataclasses.replace(PRESETS["small"], n=6, L=3, m=16, m1=4, end=200.0, save_points=49, steps=30, held_out=20)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run(dataclasses.replace(TINY, out=out))
    return out


@pytest.fixture(scope="module")
def measured():
    return measure(TINY)


def test_a_run_leaves_its_configuration_trajectories_claims_and_pictures(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"config.json", "claims.json", "trajectory.nc", "coupled.nc", "infinite_width.nc", "descent.nc"} <= names
    pictures = [path for path in finished.iterdir() if path.suffix == ".png"]
    assert len(pictures) == 7 and all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    stored = json.loads((finished / "claims.json").read_text())
    assert all(set(claim) == {"name", "source", "predicted", "measured", "tolerance", "holds"} for claim in stored)
    assert len(stored) > 40


def test_the_trajectory_holds_all_that_a_check_from_outside_needs(finished):
    stored = store.load(finished)
    for name, dims in {
        "tokens": ("sample", "position"), "label": ("sample",), "class": ("sample",), "G0": ("word",), "S0": (),
        "Gamma_V0": ("word", "other_word"), "A0": ("key_word", "query_word"), "Gamma_K0": ("word", "other_word"),
        "Gamma_Q0": ("word", "other_word"), "G": ("time", "word"), "S": ("time",), "A": ("time", "key_signal", "query_signal"),
        "loss": ("time",), "loss_by_class": ("time", "sentence_class"), "gradient_by_class": ("time", "sentence_class"),
        "R": ("time",), "drift_C1": ("time",), "drift_C2": ("time",), "drift_K1": ("time",),
    }.items():  # fmt: skip
        assert stored[name].dims == dims, name
    assert stored.attrs["m"] == 16 and stored.attrs["m1"] == 4
    assert sorted(stored["class"].values.tolist()) == [0, 0, 0, 1, 2, 3]
    np.testing.assert_allclose(stored["G"][0], stored["G0"], rtol=1e-12)  # rounding: one is compiled


def test_the_two_routes_and_the_discrete_training_agree(finished):
    flow, reduced, trained = (store.load(finished, name) for name in ("trajectory", "coupled", "descent"))
    np.testing.assert_allclose(flow["G"], reduced["G"], atol=1e-4)  # rtol = 1e-6 over some fifty steps
    shared = trained["time"].values
    assert np.isin(shared, flow["time"].values).all()  # compared without interpolation
    apart = abs(trained["G"].values - flow["G"].sel(time=shared).values).max()
    assert 0 < apart < 0.1  # learning_rate * sharpness = 0.2: close, and not the same thing


def test_the_stored_configuration_gives_the_same_numbers_again(finished, tmp_path):
    stored = store.load_config(finished / "config.json")
    again = type(TINY)(**{**stored, "out": tmp_path / "again"})
    run(again)
    for name in ("trajectory", "descent"):
        first, second = store.load(finished, name), store.load(tmp_path / "again", name)
        for variable in ("G", "A", "loss", "tokens"):
            np.testing.assert_array_equal(first[variable], second[variable])


def test_what_is_measured_is_what_the_stored_coupled_flow_says(finished, measured, check_kept):
    """One flow at two lists of save times, on which its steps and its splines depend: by ten times its rtol of 1e-6."""
    check_kept(measured)
    stored = store.load(finished, "coupled")
    T1, S0, end = cooccurrence_events(stored)["T1"].time, float(stored["S0"]), stored.isel(time=-1)
    for name, expected in {
        "T1": T1, "T1_clock": T1 * S0, "S0": S0, "loss_at_end": end["loss"], "R_at_end": end["R"],
        "generalisation_at_end": end["generalisation_loss"],
    }.items():  # fmt: skip
        assert float(measured[name]) == pytest.approx(float(expected), rel=1e-5), name
    assert measured["clock"].values[-1] == 200.0 and measured.sizes["clock"] == 49
    np.testing.assert_allclose(measured["loss"][[0, -1]], stored["loss"][[0, -1]], rtol=1e-5)
    held = {True: 1.0, False: 0.0, None: np.nan}
    np.testing.assert_array_equal(measured["holds"], [held[claim.holds] for claim in claims(stored)])


def test_another_seed_is_another_network_with_the_same_names_and_clock_to_the_last_digit(measured):
    others = [measure(dataclasses.replace(TINY, seed=seed)) for seed in range(1, 8)]
    stacked = xr.concat([measured, *others], "seed", join="exact")
    assert all(list(other.data_vars) == list(measured.data_vars) for other in others)
    for name in ("S0", "T1_clock", "loss_at_end"):
        assert np.unique(stacked[name]).size == 8, name


def test_without_an_end_the_flow_that_is_measured_ends_with_the_descent(measured):
    other = measure(dataclasses.replace(TINY, end=None, learning_rate=0.5))
    assert float(other["clock"][-1]) == pytest.approx(30 * 0.5 * float(measured["S0"]))


def test_measuring_leaves_no_file_and_says_nothing_even_on_a_terminal(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    xr.testing.assert_identical(measure(dataclasses.replace(TINY, out=tmp_path / "run")), measured)
    assert not list(tmp_path.iterdir()) and capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("status", "error"), [("gave up at t = 3", InputError), ("interrupted", KeyboardInterrupt)])
def test_a_flow_that_does_not_end_well_is_not_measured(status, error, monkeypatch):
    solve = gradflow.gradient_flow
    monkeypatch.setattr(gradflow, "gradient_flow", lambda *data, **options: dataclasses.replace(solve(*data, **options), status=status))  # fmt: skip
    with pytest.raises(error, match="gave up" if error is InputError else None):
        measure(TINY)


def test_a_folder_that_holds_a_run_is_refused(finished):
    with pytest.raises(InputError, match="holds another run"):
        run(dataclasses.replace(TINY, out=finished))
    assert store.load(finished).sizes["time"] > 49


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 7}, "multiple of 6"),
        ({"n": 0}, "multiple of 6"),
        ({"n": -6}, "multiple of 6"),
        ({"L": 2}, "at least 3"),
        ({"d": 6}, r"d >= 7 suffices"),
        ({"random_words": "same"}, "'unique' or 'iid'"),
        ({"m": 0}, "m must be positive"),
        ({"m1": -3}, "m1 must be positive"),
        ({"sigma1": 0.0}, "sigma1 > 0"),
        ({"initialisation": "zeros"}, "known are paper, kaiming_normal"),
        ({"method": "euler"}, "known are tsit5, dopri8"),
        ({"rtol": 1e-17}, "rtol must be at least"),
        ({"rtol": -1.0}, "rtol must be at least"),
        ({"end": 0.0}, "t_end must be a positive time"),
        ({"end": -3.0}, "t_end must be a positive time"),
        ({"save_points": 1}, "At least three"),
        ({"steps": -1}, "steps must be >= 0"),
        ({"steps": 0, "end": None}, "--end"),
        ({"learning_rate": -0.1}, "learning_rate must be positive"),
        ({"held_out": 0}, "at least one"),
    ],
)
@pytest.mark.parametrize("script", [run, measure])
def test_bad_input_is_refused_in_one_line_before_anything_is_written(script, change, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        script(dataclasses.replace(TINY, out=tmp_path / "run", **change))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.nc"))


def test_a_learning_rate_that_diverges_says_at_which_step_and_keeps_what_was_done(tmp_path):
    with pytest.raises(InputError, match=r"descent diverged at step \d+ .* smaller learning_rate") as caught:
        run(dataclasses.replace(TINY, out=tmp_path, learning_rate=1e6, steps=500, end=50.0))
    assert "\n" not in str(caught.value)
    kept = store.load(tmp_path, "descent")
    assert 0 < kept.sizes["time"] < 100 and np.isfinite(kept["loss"]).all()
    assert store.load(tmp_path).attrs["status"] == "complete"  # the flow before it is there too


def _command(*flags):
    tiny = [
        f"--{name.replace('_', '-')}={getattr(TINY, name)}"
        for name in ("n", "L", "m", "m1", "end", "save_points", "held_out")
    ]
    return [sys.executable, "-m", "simulations.cooccurrence", *tiny, *flags]


def test_from_the_shell_bad_input_is_one_line_and_exit_code_2(tmp_path):
    done = subprocess.run(_command("--n=8", f"--out={tmp_path}"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: n must be") and done.stderr.count("\n") == 1 and not done.stdout


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_done(tmp_path):
    command = _command("--steps=2000000000", f"--out={tmp_path}")
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "infinite_width.nc").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(6)  # into the descent
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()  # it has two thousand million steps to go
    assert process.returncode == 2 and "interrupted" in errors and "Traceback" not in errors
    assert store.load(tmp_path, "descent").sizes["time"] > 3


def test_a_start_that_is_right_by_chance_has_no_phase_1():
    """Six sentences, all right at t = 0: nothing to divide by, and claims on Phase 2 are left open."""
    measured = measure(dataclasses.replace(TINY, m=16, m1=32, seed=1))
    by_name = dict(zip(measured["claim"].values, measured["holds"].values, strict=True))
    assert np.isnan(measured["T1"]) and np.isnan(by_name["R > 1 in Phase 2 (smallest R)"])
    assert by_name["T1 sigma1^2 m m1 = O(1)"] == 1
