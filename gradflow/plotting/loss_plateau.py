"""Pictures of training on a sequence task: the plateau, what happens during it, and the attention maps before and after."""

from itertools import cycle
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gradflow.observe.loss_plateau import strategy
from gradflow.plotting.style import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, THEORY, YELLOW, panels, write

_PLACES = {
    "embedding": (SKY, "embedding"),
    "attention": (GREEN, "attention's output"),
    "after_attention": (ORANGE, "after attention"),
    "after_mlp": (PINK, "after the MLP"),
    "final": (BLACK, "after the final norm"),
}


def draw_all(runs: xr.Dataset, summary: xr.Dataset, folder: Path) -> list[Path]:
    """Draw every picture into a folder."""
    drawn = {"overview": overview(runs, summary), "maps": maps(runs, summary)}
    return [write(figure, Path(folder) / f"{name}.png") for name, figure in drawn.items()]


def typical(summary: xr.Dataset) -> int:
    """The seed of which half of the outputs are right at the median step; one that never does counts as the latest."""
    steps = summary["accuracy_50"].fillna(np.inf).values
    return int(summary["seed"][np.argsort(steps, kind="stable")[steps.size // 2]])


def overview(runs: xr.Dataset, summary: xr.Dataset) -> Figure:
    """Loss with its closed-form levels, outputs, attention progress, repetition and collapse, of the typical seed; others in grey."""
    seed = typical(summary)
    run, numbers = runs.sel(seed=seed), summary.sel(seed=seed)
    with panels(2, 3, width=13.0, height=7.0, sharex=True) as (figure, axes):
        (loss, outputs, lead), (tokens, repeats, collapse) = axes
        step = run["step"].values
        for other in runs["seed"].values:
            loss.plot(step, runs["loss"].sel(seed=other), color="0.8", linewidth=0.9)
        loss.plot(step, run["loss"], color=BLUE, label=f"seed {seed}")
        for name, label in {"initial": r"$\ln$ vocabulary", "marginal": "all outputs at their marginals", "plateau": "first outputs right", "floor": "all right"}.items():  # fmt: skip
            if np.isfinite(numbers[f"told_{name}"]):
                loss.axhline(float(numbers[f"told_{name}"]), **THEORY)
                loss.annotate(label, (1, float(numbers[f"told_{name}"])), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points", ha="right", fontsize=7.5)  # fmt: skip
        loss.set(ylabel="cross-entropy (nat)", title="(a) Loss")
        mesh = outputs.pcolormesh(step, 1 + np.arange(run.sizes["output"]), run["accuracy"].T, norm=Normalize(0, 1), cmap="cividis", shading="nearest", rasterized=True)  # fmt: skip
        figure.colorbar(mesh, ax=outputs, label="share right")
        outputs.set(ylabel="output", title="(b) Which outputs are right")
        outputs.yaxis.get_major_locator().set_params(integer=True)
        outputs.grid(False)
        progress = run["progress"].isel(strategy=strategy(run))
        asked = np.flatnonzero(progress.notnull().any("step"))  # of other layers nothing is asked
        for layer, style in zip(asked, cycle(("-", "--", ":", "-.")), strict=False):
            label = "attention progress" + (f", layer {layer + 1}" if run.sizes["layer"] > 1 else "")
            lead.plot(step, progress.isel(layer=layer), color=RED, linestyle=style, label=label)
        lead.plot(step, run["accuracy"].mean("output"), color=BLUE, label="accuracy")
        for name, colour in {"progress_half": RED, "accuracy_half": BLUE}.items():
            lead.axvline(float(numbers[name]), color=colour, linewidth=0.8, linestyle=":")
        ahead = float(numbers["lead"])
        told = f"Attention is ahead by {ahead:.0f} steps" if np.isfinite(ahead) else "Attention and accuracy"
        lead.set(ylim=(0, 1.03), title=f"(c) {told}")
        lead.legend(loc="best")
        by_token = run["loss_by_token"]
        for index in range(run.sizes["output"]):
            colour = ORANGE if index == 0 else "0.6"
            label = {0: "first output", 1: "the others"}.get(index)
            tokens.plot(step, by_token.isel(token=run.sizes["token"] - run.sizes["output"] + index), color=colour, linewidth=1.0 if index else 1.6, zorder=2 if index else 3, label=label)  # fmt: skip
        tokens.set(xlabel="step", ylabel="cross-entropy (nat)", title="(d) Loss of each output")
        tokens.legend(loc="lower left")
        repeats.plot(step, run["repetition"], color=PINK, label=r"equal neighbours $\rho$")
        repeats.axhline(float(numbers["repetition_data"]), **THEORY)
        repeats.annotate(r"$\rho$ of the data", (1, float(numbers["repetition_data"])), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points", ha="right", fontsize=7.5)  # fmt: skip
        repeats.plot(step, run["agreement"], color=SKY, linewidth=1.0, label=r"equal the first, $\alpha_1$")
        repeats.set(xlabel="step", ylim=(0, 1.03), title="(e) Repetition in the outputs")
        repeats.legend(loc="upper right")
        for place in run["place"].values:
            colour, label = _PLACES[place.rpartition("/")[2]]
            first = place.count("/") == 0 or place.startswith("layers/0/")
            collapse.plot(step, run["cosine"].sel(place=place), color=colour, linestyle="-" if first else "--", label=label if first else None)  # fmt: skip
        collapse.set(xlabel="step", title="(f) Cosine between hidden states of outputs")
        collapse.set_ylim(top=1.03)
        collapse.legend(loc="best")
        for each in (loss, lead, tokens, repeats, collapse):
            _shade(each, numbers)
        return figure


def maps(runs: xr.Dataset, summary: xr.Dataset) -> Figure:
    """Attention maps of the output rows and cosines between their hidden states: at the start, in the plateau's middle, at the end."""
    seed = typical(summary)
    run, numbers = runs.sel(seed=seed), summary.sel(seed=seed)
    middle = (float(numbers["plateau_start"]) + float(numbers["plateau_end"])) / 2
    last = float(run["step"][-1])
    half = {"on the plateau": middle} if np.isfinite(middle) else {"half-way": last / 2}
    times = {"start": 0, **half, "end": last}
    layers = run.sizes["layer"]
    with panels(layers + 1, 3, width=10.5, height=3.1 * (layers + 1)) as (figure, axes):
        for column, (name, step) in zip(axes.T, times.items(), strict=True):
            at = run.sel(step=step, method="nearest")
            for layer in range(layers):
                size = at["map"].isel(layer=layer).sum("head")
                mesh = column[layer].imshow(size / size.sum("column"), cmap="viridis", norm=Normalize(0, 1), aspect="auto", extent=(-0.5, size.sizes["column"] - 0.5, size.sizes["output"] + 0.5, 0.5))  # fmt: skip
                column[layer].set(xlabel="position", ylabel="output", title=f"$|A|$, {name} (step {int(at['step'])})")
            count = at.sizes["output"] + 0.5
            shown = column[layers].imshow(at["cosine_of_rows"], cmap="cividis", norm=Normalize(0, 1), extent=(0.5, count, count, 0.5))  # fmt: skip
            column[layers].set(xlabel="output", ylabel="output", title="cosine of hidden states")
            for each in column:
                each.grid(False)
                each.yaxis.get_major_locator().set_params(integer=True)
        figure.colorbar(mesh, ax=axes[:layers].ravel().tolist(), label="share of the row")
        figure.colorbar(shown, ax=axes[layers].ravel().tolist(), label="cosine", extend="min")
        return figure


def _shade(axes: Axes, numbers: xr.Dataset) -> None:
    """Tint the plateau; nothing where there is none."""
    start, end = (float(numbers[f"plateau_{name}"]) for name in ("start", "end"))
    if start < end:
        axes.axvspan(start, end, color=YELLOW, alpha=0.18, linewidth=0, zorder=0)
