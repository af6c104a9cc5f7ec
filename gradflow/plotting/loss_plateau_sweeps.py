"""Pictures of sweeps of the loss-plateau simulation: many settings side by side, and the length of the plateau as a phase diagram."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from gradflow.errors import require
from gradflow.plotting.diagram import cells
from gradflow.plotting.loss_plateau import typical
from gradflow.plotting.style import BLACK, BLUE, PINK, RED, panels, write

_CURVES = {
    "accuracy": (BLUE, "accuracy"),
    "progress": (RED, "attention progress"),
    "cosine": (BLACK, "cosine of hidden states"),
    "repetition": (PINK, r"repetition $\rho$"),
}


def draw_settings(sweep: xr.Dataset, titles: Sequence[str], path: Path) -> Path:
    """One panel a setting of a sweep over `settings`, as `open_sweep` reads it; `titles` in their order."""
    return write(settings(sweep, titles), path)


def settings(sweep: xr.Dataset, titles: Sequence[str]) -> Figure:
    """Accuracy, attention progress, collapse and repetition of each setting: the seed in the middle, and accuracies of the others."""
    columns = 5
    rows = math.ceil(len(titles) / columns)
    with panels(rows, columns, width=13.0, height=2.3 * rows, sharey=True, squeeze=False) as (figure, axes):
        for each, (setting, title) in zip(axes.ravel(), enumerate(titles), strict=False):
            of = sweep.isel(setting=setting)
            middle = typical(of)
            for seed in of["seed"].values:
                one = of.sel(seed=seed)
                step = one["step"].values  # of its own, where settings differ in their steps; NaN behind the last
                each.plot(step, one["accuracy"], color="0.8", linewidth=0.9, zorder=1)
                if seed == middle:
                    for name, (colour, label) in _CURVES.items():
                        each.plot(step, one[name], color=colour, linewidth=1.3, label=label)
            each.set(title=title)
            each.set_ylim(top=1.05)
        for each in axes.ravel()[len(titles) :]:
            each.set_axis_off()
        for each in axes.ravel()[max(len(titles) - columns, 0) : len(titles)]:  # below which there is none
            each.set_xlabel("step")
        handles, labels = axes.ravel()[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        return figure


def draw_diagram(sweep: xr.Dataset, path: Path) -> Path:
    """The phase diagram over attention bias and learning rate."""
    return write(diagram(sweep), path)


def diagram(sweep: xr.Dataset) -> Figure:
    """When half of the outputs are right, and how long the plateau lasts, over attention bias and learning rate: medians over seeds."""
    axes = set(sweep["done"].dims)
    require(axes == {"bias", "learning_rate", "seed"}, f"The diagram is over bias, learning_rate and seed; this sweep is over {', '.join(sorted(axes))}.")  # fmt: skip
    sweep = sweep.sortby(["bias", "learning_rate"])
    bias, rate = sweep["bias"].values, sweep["learning_rate"].values
    over = {"xlabel": "attention bias $c$", "ylabel": "learning rate of Adam"}

    def median(name: str) -> np.ndarray:
        """Over seeds that are done, rates in rows; what never came is the latest, and a median that never comes is NaN."""
        steps = sweep[name].fillna(np.inf).where(sweep["done"]).median("seed").transpose("learning_rate", "bias").values
        require(np.isfinite(steps).any(), f"There is no diagram of {name}: no cell of this sweep has one in most of its seeds.")  # fmt: skip
        return np.where(np.isfinite(steps), steps, np.nan)

    with panels(1, 3, width=13.0, height=4.0) as (figure, (left, middle, right)):
        for each, name, title in (
            (left, "accuracy_50", "(a) Half of the outputs right"),
            (middle, "plateau_length", "(b) Length of the plateau"),
        ):
            steps = median(name)
            cells(each, bias, rate, steps, norm=LogNorm(), cmap="viridis", label="steps, median over seeds")
            each.set(title=title, **over)
        half = median("accuracy_50")
        for each, steps, shade in zip(rate, half, np.linspace(0.75, 0.0, rate.size), strict=True):
            right.plot(bias, each * steps, "o-", color=str(shade), markersize=3, label=f"{each:.2g}")
        right.set(xscale="log", yscale="log", xlabel=over["xlabel"], ylabel="learning rate x step, half right", title="(c) In units of time")  # fmt: skip
        right.legend(title="learning rate", ncols=2)
        return figure
