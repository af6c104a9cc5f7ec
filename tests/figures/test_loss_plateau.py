"""Pictures of loss plateaus, from numbers that are made up: what is drawn is the data, and nothing where there is none."""

import dataclasses
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from figures import loss_plateau_tasks, loss_plateau_variants
from gradflow.errors import InputError
from gradflow.plotting import loss_plateau, loss_plateau_interventions, loss_plateau_sweeps
from simulations.loss_plateau import PRESETS, Config, prepare

STEP = np.arange(0, 101, 10)
PLACES = ["embedding", *(f"layers/{i}/{name}" for i in (0, 1) for name in ("attention", "after_attention", "after_mlp")), "final"]  # fmt: skip
TOLD = {"initial": 3.0, "marginal": 2.0, "plateau": 1.5, "floor": 0.5}


@pytest.fixture(scope="module")
def runs():
    """Random numbers: three seeds, two layers of three heads, four outputs behind a prompt of three."""
    random = np.random.default_rng(0)
    sizes = {"seed": 3, "step": STEP.size, "token": 6, "output": 4, "other_output": 4, "place": 8, "strategy": 1}
    sizes |= {"layer": 2, "head": 3, "column": 6}
    over = {
        "loss": (), "loss_by_token": ("token",), "accuracy": ("output",), "repetition": (), "agreement": (), "cosine": ("place",),
        "cosine_of_rows": ("output", "other_output"), "progress": ("strategy", "layer"), "map": ("layer", "head", "output", "column"),
    }  # fmt: skip
    columns = {
        name: ((*(all_of := ("seed", "step", *dims)),), random.uniform(size=[sizes[each] for each in all_of]))
        for name, dims in over.items()
    }
    return xr.Dataset(columns, {"seed": [7, 8, 9], "step": STEP, "place": PLACES})


@pytest.fixture(scope="module")
def summary():
    """Seed 9 is the one in the middle, seed 8 never gets half right."""
    columns = {
        "accuracy_50": [40.0, np.nan, 70.0], "plateau_start": [0.0, 0.0, 22.0], "plateau_end": [0.0, 0.0, 58.0], "lead": [0.0, 0.0, 12.0],
        "progress_half": [0.0, 0.0, 61.0], "accuracy_half": [0.0, 0.0, 73.0], "repetition_data": [0.1] * 3,
    }  # fmt: skip
    columns |= {f"told_{name}": [value] * 3 for name, value in TOLD.items()}
    return xr.Dataset({name: ("seed", values) for name, values in columns.items()}, {"seed": [7, 8, 9]})


def without(summary, *names):
    return summary.assign({name: summary[name] * np.nan for name in names})


def panel(figure, letter):
    return next(axes for axes in figure.axes if axes.get_title(loc="left").startswith(f"({letter})"))


def lines(axes):
    return {line.get_label(): line.get_ydata() for line in axes.lines if not line.get_label().startswith("_")}


def levels(axes):
    """Heights of the dashed lines across the whole panel."""
    return sorted(float(y[0]) for x, y in (line.get_data() for line in axes.lines) if list(x) == [0, 1])


def shaded(axes):
    return [(each.get_x(), each.get_x() + each.get_width()) for each in axes.patches]


@pytest.mark.parametrize(
    ("steps", "seed"),
    [([30, 10, 20], 2), ([10, 20, 30], 1), ([np.nan, 20, 10], 1), ([np.nan, np.nan, 10], 0), ([np.nan] * 3, 1)],
)
def test_the_typical_seed_is_the_one_in_the_middle_and_never_is_last(steps, seed):
    made_up = xr.Dataset({"accuracy_50": ("seed", np.array(steps, float))}, {"seed": [5, 6, 7]})
    assert loss_plateau.typical(made_up) == 5 + seed


def test_the_lines_of_the_overview_are_the_typical_seed(runs, summary):
    figure, run = loss_plateau.overview(runs, summary), runs.sel(seed=9)
    loss, outputs, ahead, tokens, repeats, collapse = (panel(figure, letter) for letter in "abcdef")
    np.testing.assert_array_equal(lines(loss)["seed 9"], run["loss"])
    drawn = {tuple(line.get_ydata()) for line in loss.lines}
    assert {tuple(each) for each in runs["loss"].values} < drawn
    np.testing.assert_array_equal(outputs.collections[0].get_array(), run["accuracy"].values.T)
    for layer in (0, 1):
        np.testing.assert_array_equal(lines(ahead)[f"attention progress, layer {layer + 1}"], run["progress"][:, 0, layer])  # fmt: skip
    np.testing.assert_allclose(lines(ahead)["accuracy"], run["accuracy"].values.mean(axis=1), rtol=1e-15)  # rounding
    assert {61.0, 73.0} <= {float(line.get_xdata()[0]) for line in ahead.lines}
    assert "ahead by 12 steps" in ahead.get_title(loc="left")
    np.testing.assert_array_equal(lines(tokens)["first output"], run["loss_by_token"][:, 2])
    grey = [line.get_ydata() for line in tokens.lines if line.get_color() == "0.6"]
    np.testing.assert_array_equal(grey, run["loss_by_token"].values.T[3:])
    np.testing.assert_array_equal(lines(repeats)[r"equal neighbours $\rho$"], run["repetition"])
    np.testing.assert_array_equal(lines(repeats)[r"equal the first, $\alpha_1$"], run["agreement"])
    np.testing.assert_array_equal([line.get_ydata() for line in collapse.lines], run["cosine"].values.T)
    assert list(lines(collapse)) == ["embedding", "attention's output", "after attention", "after the MLP", "after the final norm"]  # fmt: skip
    assert [line.get_linestyle() for line in collapse.lines] == [*["-"] * 4, *["--"] * 3, "-"]  # the second layer


def test_levels_are_drawn_where_they_are_known(runs, summary):
    assert levels(panel(loss_plateau.overview(runs, summary), "a")) == sorted(TOLD.values())
    figure = loss_plateau.overview(runs, without(summary, "told_plateau", "told_marginal"))
    assert levels(panel(figure, "a")) == [0.5, 3.0]
    assert {text.get_text() for text in panel(figure, "a").texts} == {r"$\ln$ vocabulary", "all right"}


def test_the_plateau_is_shaded_from_its_start_to_its_end_and_not_where_there_is_none(runs, summary):
    for letter in "acdef":
        assert shaded(panel(loss_plateau.overview(runs, summary), letter)) == [(22.0, pytest.approx(58.0))]
    figure = loss_plateau.overview(runs, without(summary, "plateau_start", "plateau_end", "lead"))
    assert not any(shaded(axes) for axes in figure.axes)
    assert not any("nan" in axes.get_title(loc="left") for axes in figure.axes)


def test_a_layer_of_which_nothing_is_asked_has_no_line(runs, summary):
    progress = runs["progress"].where(np.arange(2) == xr.DataArray([0, 5], dims="layer"))
    shown = lines(panel(loss_plateau.overview(runs.assign(progress=progress), summary), "c"))
    assert list(shown) == ["attention progress, layer 1", "accuracy"]


@pytest.mark.parametrize(("changed", "middle"), [((), 40), (("plateau_start", "plateau_end"), 50)])
def test_maps_are_shares_of_a_row_over_all_heads_of_each_layer(runs, summary, changed, middle):
    figure = loss_plateau.maps(runs, without(summary, *changed))
    grid = np.array([axes for axes in figure.axes if axes.images]).reshape(3, 3)  # two layers, and the cosines
    run = runs.sel(seed=9)
    for column, step in zip(grid.T, (0, middle, 100), strict=True):
        at = int(np.flatnonzero(step == STEP)[0])
        for layer in (0, 1):
            size = run["map"].values[at, layer].sum(axis=0)
            np.testing.assert_allclose(column[layer].images[0].get_array(), size / size.sum(axis=1, keepdims=True), rtol=1e-12)  # fmt: skip
            assert f"(step {step})" in column[layer].get_title(loc="left")
        np.testing.assert_array_equal(column[2].images[0].get_array(), run["cosine_of_rows"].values[at])
    assert ("plateau" in grid[0, 1].get_title(loc="left")) == (not changed)


def test_pictures_are_written_and_their_text_is_inside(runs, summary, tmp_path):
    for path in loss_plateau.draw_all(runs, summary, tmp_path):
        image = plt.imread(path)[..., :3]
        edge = np.concatenate([image[:2].ravel(), image[-2:].ravel(), image[:, :2].ravel(), image[:, -2:].ravel()])
        assert image.min() < 0.5 and (edge == 1).all()


# ------------------------------------------------------------------------------------------------------- interventions


@pytest.fixture(scope="module")
def interventions():
    names = ["none", "c = 0.5", "c = 10", "c = 10 from 25", "KQ copied", "KQ random"]
    random, over = np.random.default_rng(1), ("seed", "intervention", "step")
    curves = {name: (over, random.uniform(size=(3, 6, STEP.size))) for name in ("accuracy", "cosine", "repetition")}
    half = 10.0 * np.arange(18).reshape(3, 6)
    half[:2, 1], half[:, 5] = np.nan, np.nan
    coordinates = {"seed": range(3), "intervention": names, "step": STEP}
    return xr.Dataset({**curves, "accuracy_50": (("seed", "intervention"), half)}, coordinates)


def test_interventions_are_medians_within_the_range_of_seeds(interventions):
    figure = loss_plateau_interventions.overview(interventions)
    shown = {
        "a": {"c = 0.5": 1, "c = 1": 0, "c = 10": 2},
        "b": {"none": 0, "from step 25": 3},
        "c": {"none": 0, "KQ": 4},
    }
    for letter, rows in shown.items():
        drawn = lines(panel(figure, letter))
        assert list(drawn) == list(rows)
        for name, row in rows.items():
            np.testing.assert_allclose(drawn[name], np.median(interventions["accuracy"].values[:, row], axis=0))
    for letter, name in {"e": "cosine", "f": "repetition"}.items():
        for label, row in shown["a"].items():
            expected = np.median(interventions[name].values[:, row], axis=0)
            np.testing.assert_allclose(lines(panel(figure, letter))[label], expected)


def test_every_seed_is_a_point_and_one_that_never_gets_there_a_triangle_at_the_end(interventions):
    axes = panel(loss_plateau_interventions.overview(interventions), "d")
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["c = 0.5", "c = 1", "c = 10", "from step 25", "KQ copied", "KQ, random"]
    points = {marker: [] for marker in "o>"}
    for line in axes.lines:
        if line.get_marker() in points:
            points[line.get_marker()] += zip(line.get_xdata().tolist(), line.get_ydata().tolist(), strict=True)
    half = interventions["accuracy_50"].values[:, [1, 0, 2, 3, 4, 5]]
    assert sorted(points["o"]) == sorted((half[at], at[1]) for at in zip(*np.nonzero(np.isfinite(half)), strict=True))
    assert sorted(points[">"]) == [(100.0, 0), (100.0, 0), (100.0, 5), (100.0, 5), (100.0, 5)]


# -------------------------------------------------------------------------------------------------------------- sweeps


def test_each_setting_is_a_panel_on_steps_of_its_own():
    """Seven settings; the last ones have fewer save points, and NaN behind them."""
    random, step = np.random.default_rng(2), np.tile(np.arange(6.0), (7, 3, 1))
    step[3:] *= 10
    step[3:, :, 4:] = np.nan
    over = ("setting", "seed", "step")
    columns = {name: (over, np.where(np.isnan(step), np.nan, random.uniform(size=step.shape))) for name in ("accuracy", "progress", "cosine", "repetition")}  # fmt: skip
    half = np.tile([3.0, np.nan, 1.0], (7, 1))
    sweep = xr.Dataset(
        {**columns, "accuracy_50": (("setting", "seed"), half)}, {"seed": [4, 5, 6], "step": (over, step)}
    )
    titles = [f"setting {index}" for index in range(7)]
    figure = loss_plateau_sweeps.settings(sweep, titles)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in shown] == titles
    assert [axes.get_xlabel() for axes in shown] == [""] * 2 + [
        "step"
    ] * 5  # five in a row: of the first, two are above others
    for index, axes in enumerate(shown):
        drawn = {line.get_label(): line for line in axes.lines}
        for label, name in {"accuracy": "accuracy", "attention progress": "progress", "cosine of hidden states": "cosine", r"repetition $\rho$": "repetition"}.items():  # fmt: skip
            np.testing.assert_array_equal(drawn[label].get_xdata(), step[index, 0])  # seed 4 is in the middle
            np.testing.assert_array_equal(drawn[label].get_ydata(), sweep[name][index, 0])
        grey = [line.get_ydata() for line in axes.lines if line.get_color() == "0.8"]
        np.testing.assert_array_equal(grey, sweep["accuracy"][index])


@pytest.fixture(scope="module")
def grid():
    """One cell never gets there, one only in one of three seeds, one is not computed; values are not in order."""
    bias, rate = np.array([1.0, 8.0, 0.25]), np.array([1e-3, 1e-4])
    half = 100 / bias[:, None, None] / (rate[:, None] / 1e-4) * np.array([1.0, 2.0, 5.0])
    half[2, 1], half[0, 1, 1:] = np.nan, np.nan
    done = np.ones(half.shape, bool)
    done[1, 0], half[1, 0] = False, np.nan
    done[1, 1, 2], half[1, 1, 2] = False, np.nan
    over = ("bias", "learning_rate", "seed")
    columns = {"accuracy_50": (over, half), "plateau_length": (over, half / 2), "done": (over, done)}
    return xr.Dataset(columns, {"bias": bias, "learning_rate": rate, "seed": range(3)})


def test_cells_of_the_diagram_are_medians_of_what_is_done_and_never_is_blank(grid):
    half, length, times = (panel(loss_plateau_sweeps.diagram(grid), letter) for letter in "abc")
    # biases 0.25, 1, 8; rates 1e-4 (two seeds are done at bias 8) and 1e-3
    expected = np.array([[np.nan, np.nan, 12.5 * 1.5], [80.0, 20.0, np.nan]])
    for axes, factor in ((half, 1), (length, 0.5)):
        drawn = axes.collections[0].get_array()
        np.testing.assert_array_equal(np.ma.getmaskarray(drawn), np.isnan(expected))
        np.testing.assert_allclose(drawn.filled(np.nan), factor * expected, rtol=1e-12)
        assert axes.get_xscale() == axes.get_yscale().replace("linear", "log") == "log"
    for label, row, rate in (("0.0001", 0, 1e-4), ("0.001", 1, 1e-3)):
        np.testing.assert_allclose(lines(times)[label], rate * expected[row], rtol=1e-12)


@pytest.mark.parametrize("name", ["accuracy_50", "plateau_length"])
def test_there_is_no_diagram_of_what_never_comes(grid, name):
    with pytest.raises(InputError, match=f"no diagram of {name}: no cell"):
        loss_plateau_sweeps.diagram(without(grid, name))


@pytest.mark.parametrize("change", [lambda grid: grid.isel(bias=0), lambda grid: grid.expand_dims(width=[32, 64])])
def test_a_sweep_over_something_else_has_no_diagram(grid, change):
    with pytest.raises(
        InputError, match=r"The diagram is over bias, learning_rate and seed; this sweep is over .*seed"
    ):
        loss_plateau_sweeps.diagram(change(grid))


@pytest.mark.parametrize("figure", [loss_plateau_tasks, loss_plateau_variants])
def test_settings_of_figures_are_configurations_that_can_run_and_each_has_a_title(figure, monkeypatch, tmp_path):
    settings = json.loads(figure.SETTINGS.read_text())
    fields = {field.name for field in dataclasses.fields(Config)}
    for setting in settings:
        assert set(setting) <= fields
        prepare(dataclasses.replace(PRESETS["small"], **setting), 0)
    assert len({json.dumps(setting, sort_keys=True) for setting in settings}) == len(settings)
    told = []
    monkeypatch.setattr(loss_plateau_sweeps, "draw_settings", lambda sweep, titles, path: told.extend(titles) or path)
    monkeypatch.setattr("gradflow.sweep.open_sweep", lambda run: None)
    (path,) = figure.draw(tmp_path, tmp_path)
    assert path.suffix == ".png"
    assert len(told) == len(settings) == len(set(told)) and all(told)
