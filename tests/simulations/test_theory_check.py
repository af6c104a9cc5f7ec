"""The claims ledger from flags to files, on a tiny grid; what it leaves, what it refuses, and that it is drawn from what is stored."""

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gradflow
import simulations
from figures import theory_check as figure
from gradflow import store
from gradflow.errors import InputError
from gradflow.observe.scaling import ROUNDING
from gradflow.theory.ledger import ledger
from gradflow.theory.statements import ENTRIES
from simulations.theory_check import PRESETS, measure, prepare, run, settings, solve

pytestmark = pytest.mark.slow  # a small run of the whole simulation

ROOT = Path(simulations.__file__).parents[1]
TINY = dataclasses.replace(
    PRESETS["small"], seeds=3, n=(12,), L=(4,), m=(4096, 1024, 256), m1=(8,), readout=(1.0,), end=1e5, save_points=49, held_out=20
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run(dataclasses.replace(TINY, out=out))
    return out


def test_a_grid_leaves_its_runs_claims_ledger_and_picture(finished):
    assert {path.name for path in finished.iterdir()} == {
        "config.json",
        "grid.nc",
        "claims.json",
        "ledger.md",
        "one_page.png",
    }
    claims = json.loads((finished / "claims.json").read_text())
    assert len(claims) == len(ENTRIES)
    assert all(set(claim) == {"name", "source", "predicted", "measured", "tolerance", "holds"} for claim in claims)
    assert (finished / "ledger.md").read_text().count("\n| ") >= len(ENTRIES)


def test_the_stored_grid_is_labelled_and_gives_the_same_verdicts_again(finished):
    grid = store.load(finished, "grid")
    assert grid["T1"].dims == ("setting", "seed") and grid["loss"].dims == ("setting", "seed", "clock")
    assert all(grid[name].attrs["long_name"] and grid[name].attrs["units"] == "1" for name in grid)
    assert sorted(set(grid["m"].values)) == [256, 1024, 4096] and grid.sizes["seed"] == 3
    np.testing.assert_allclose(grid["sigma0"] ** 2 * grid["L"] * grid["m"], grid["start"] ** 2)
    stored = json.loads((finished / "claims.json").read_text())
    assert [claim["holds"] for claim in stored] == [verdict.holds for verdict in ledger(grid, ENTRIES)]


def test_what_is_known_in_closed_form_comes_out(finished):
    """Rates at the start are 1/6 of S + m1 Gamma_V from zero outputs; change of A goes as m^-1.5; both without any fit."""
    grid = store.load(finished, "grid")
    small = grid.isel(setting=(grid["start"].values == 0.001))
    unit = (small["sigma0"] ** 2 + small["sigma1"] ** 2) * small["m"] * small["m1"]
    np.testing.assert_allclose(small["initial_rate"] / unit, 1 / 6, rtol=5 * (2 / 256) ** 0.5)  # S within 5 deviations
    changes = small.sortby("m")["change_A_until_T1"].mean("seed").values
    np.testing.assert_allclose(np.diff(np.log(changes)) / np.log(4), -1.5, atol=0.1)


def test_a_change_of_attention_below_rounding_is_not_measured(finished):
    attention = store.load(finished, "grid")["change_attention_until_T1"]
    assert not (attention < ROUNDING).any()
    assert np.isfinite(attention[attention["start"].values == 0.5]).all()


def test_the_figure_is_drawn_from_the_stored_grid(finished, tmp_path):
    (path,) = figure.draw(finished, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_ctrl_c_keeps_and_judges_the_runs_that_are_done(finished, tmp_path, monkeypatch, capsys):
    flows = iter([gradflow.gradient_flow] * 4)

    def interrupted(*arguments, **options):
        flow = next(flows, None)
        if flow is None:
            raise KeyboardInterrupt
        return flow(*arguments, **options)

    monkeypatch.setattr(gradflow, "gradient_flow", interrupted)
    run(dataclasses.replace(TINY, out=tmp_path, workers=1))
    assert "judging the 4 runs that are done" in capsys.readouterr().out
    part, whole = (
        store.load(folder, "grid")["T1"].stack(run=("setting", "seed")).values for folder in (tmp_path, finished)
    )
    assert np.isfinite(part).sum() == 4 and np.isin(part[np.isfinite(part)], whole).all()


def test_what_is_measured_are_the_claims_of_the_run(finished, check_kept, check_claims):
    measured = measure(TINY)
    check_kept(measured)
    check_claims(measured, finished)


def test_seeds_share_no_run_and_the_first_takes_the_first_keys():
    small = dataclasses.replace(TINY, m=(256,), start=(0.5,))

    def T1(**changed):
        config = dataclasses.replace(small, **changed)
        return {seed: float(kept["T1"]) for (_, seed), _, kept in solve(config, *prepare(config))}

    one, other, both = T1(), T1(seed=1), T1(seeds=6)
    assert list(one) == [0, 1, 2] and list(other) == [3, 4, 5] and one | other == both
    assert len(set(both.values())) == 6


def test_a_run_that_does_not_end_well_is_left_out_of_a_grid_and_not_measured(tmp_path, monkeypatch, capsys):
    def failed(*arguments, **options):
        return dataclasses.replace(flow(*arguments, **options), status="gave up" if next(count) == 1 else "complete")

    flow, count = gradflow.gradient_flow, itertools.count()
    small = dataclasses.replace(TINY, m=(256,), start=(0.5,), workers=1, out=tmp_path)
    monkeypatch.setattr(gradflow, "gradient_flow", failed)
    run(small)
    assert np.isfinite(store.load(tmp_path, "grid")["T1"].values).tolist() == [[True, False, True]]
    assert "left out: Setting(n=12" in capsys.readouterr().out
    count = itertools.count()
    with pytest.raises(InputError, match="seed 1: gave up"):
        measure(small)


def test_settings_differ_from_the_base_in_one_value_and_L_takes_n_along():
    found = settings(PRESETS["paper"])
    base = {each for each in found if (each.n, each.L, each.m, each.m1, each.readout) == (48, 4, 2**20, 32, 1.0)}
    assert len(base) == 2 and len(set(found)) == len(found)
    assert {(each.n, each.L) for each in found} == {(24, 4), (48, 4), (96, 4), (192, 4), (24, 3), (72, 5)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(seeds=2), "at least 3 seeds"),
        (dict(end=50.0), "must leave Phase 1 behind"),
        (dict(n=(10,)), "n must be a positive multiple of 6"),
        (dict(n=(18,), L=(4, 5, 3)), "n must be a positive multiple of 6"),
        (dict(m=(256, 256)), "m takes positive and distinct values"),
        (dict(m1=(-8,)), "m1 takes positive and distinct values"),
        (dict(start=()), "start takes positive and distinct values"),
        (dict(L=(2,)), "L must be at least 3"),
        (dict(save_points=2), "three save times"),
        (dict(held_out=0), "positive number of sentences"),
    ],
)
@pytest.mark.parametrize("script", [run, measure])
def test_what_cannot_be_run_is_refused_before_anything_is_written(script, changed, message, tmp_path):
    with pytest.raises(InputError, match=message):
        script(dataclasses.replace(TINY, out=tmp_path / "run", **changed))
    assert not (tmp_path / "run").exists()


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "simulations.theory_check", "--out", str(tmp_path / "run"), "--m1", "-8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "m1 takes positive" in done.stderr


def test_a_folder_that_holds_a_grid_is_refused(finished):
    with pytest.raises(InputError, match="holds another run"):
        run(dataclasses.replace(TINY, out=finished))
