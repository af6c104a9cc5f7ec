"""Figures: what is drawn is the data, bad names and broken runs are one clear line."""

import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import figures
from gradflow.dynamics import descend, gradient_flow, log_times
from gradflow.models import cooccurrence as model
from gradflow.models import coupled
from gradflow.observe.cooccurrence import Observer, dataset
from gradflow.observe.phases import cooccurrence_events
from gradflow.plotting import cooccurrence as pictures
from gradflow.tasks.cooccurrence import CoOccurrence
from gradflow.theory import max_margin

ROOT = Path(figures.__file__).parents[1]


@pytest.fixture(scope="module")
def runs(batch, weights):
    initial, width = coupled.reduce(weights), coupled.width_of(weights)
    observer = Observer(initial, CoOccurrence(12, 4, initial.G.size).held_out(jax.random.key(9), 40))
    flow = gradient_flow(
        coupled.loss, initial, batch, width, times=log_times(1e-2, 100.0, 61), field=coupled.field, save=observer
    )
    trained = descend(model.loss, weights, batch, learning_rate=1e-2, steps=300, save=observer)
    attributes = dict(sigma0=1.0, sigma1=1.0, random_words="unique", learning_rate=1e-2)
    return {
        name: dataset(each, batch, initial, width, **attributes)
        for name, each in {"flow": flow, "descent": trained}.items()
    }


@pytest.mark.parametrize("name", [*pictures.PICTURES, "figure_1"])
def test_every_picture_has_named_axes_and_only_finite_shown_data(runs, name):
    figure = getattr(pictures, name)(runs)
    shown = [axes for axes in figure.axes if axes.lines or axes.images]
    assert shown
    for axes in shown:
        assert axes.get_xlim()[0] < axes.get_xlim()[1]
        for line in axes.lines:
            assert np.isfinite(np.asarray(line.get_ydata(), float)).all()
    assert any(axes.get_title(loc="left") for axes in shown)


def test_the_loss_lines_are_the_losses_by_class(runs):
    axes = pictures.loss_by_class(runs).axes[0]
    drawn = {line.get_label(): line for line in axes.lines}
    flow = runs["flow"]
    np.testing.assert_array_equal(drawn["all samples"].get_ydata(), flow["loss"].values[1:])
    np.testing.assert_array_equal(drawn[r"$I_4$: neither"].get_ydata(), flow["loss_by_class"].values[1:, 3])
    np.testing.assert_allclose(drawn["all samples"].get_xdata(), flow["time"].values[1:] * float(flow["S0"]))


def test_phase_1_is_shaded_until_the_event(runs):
    axes = pictures.loss_by_class(runs).axes[0]
    t1 = cooccurrence_events(runs["flow"])["T1"].time * float(runs["flow"]["S0"])
    assert any(np.allclose(line.get_xdata(), t1) for line in axes.lines)
    (shade,) = axes.patches
    assert shade.get_x() + shade.get_width() == pytest.approx(t1)


def test_the_balance_shows_the_limits_of_its_own_training_set(runs):
    flow = runs["flow"]
    limits = max_margin.limits(flow["tokens"].values, flow["label"].values, flow["class"].values, flow.attrs["d"])
    drawn = {
        float(line.get_ydata()[0]) for line in pictures.balance(runs).axes[0].lines if len(set(line.get_ydata())) == 1
    }
    for limit in (limits.R, limits.s1_over_s2, limits.s2_over_s3):
        assert any(abs(limit - value) < 1e-12 for value in drawn)


def test_a_picture_without_descent_or_limit_is_drawn_all_the_same(runs, tmp_path):
    drawn = pictures.draw_all({"flow": runs["flow"]}, tmp_path)
    assert {path.name for path in drawn} == {f"{name}.png" for name in pictures.PICTURES if name != "flow_over_descent"}


def _figures(*arguments):
    return subprocess.run([sys.executable, "-m", "figures", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_an_unknown_figure_lists_the_known_ones():
    done = _figures("nonsense")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "cooccurrence_figure_1" in done.stderr


def test_a_truncated_run_is_one_clear_line(runs, tmp_path):
    folder = tmp_path / "cooccurrence"
    folder.mkdir()
    (folder / "claims.json").write_text("[]")
    runs["flow"].to_netcdf(folder / "whole.nc", engine="h5netcdf")
    shutil.copy(folder / "whole.nc", folder / "trajectory.nc")
    with (folder / "trajectory.nc").open("r+b") as file:
        file.truncate(5000)
    done = _figures("cooccurrence", "--runs", str(tmp_path), "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "trajectory.nc is truncated" in done.stderr
