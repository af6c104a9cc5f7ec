"""Pictures of interventions on a loss plateau: the bias of attention, when it begins, and parts copied from a trained model."""

from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.figure import Figure

from gradflow.plotting.style import BLACK, BLUE, GREEN, ORANGE, RED, panels, write

_PARTS = {"KQ": RED, "KQOV": ORANGE, "MLP": BLUE, "embeddings": GREEN}


def draw_all(results: xr.Dataset, folder: Path) -> list[Path]:
    """Draw every picture into a folder."""
    return [write(overview(results), Path(folder) / "interventions.png")]


def overview(results: xr.Dataset) -> Figure:
    """Accuracy under each intervention, median over seeds; and when half of the outputs are right, every seed."""
    names = [str(name) for name in results["intervention"].values]
    strengths = {float(name[4:]): name for name in names if name.startswith("c = ") and "from" not in name} | {
        1.0: "none"
    }
    strengths = dict(sorted(strengths.items()))
    starts = [name for name in names if "from" in name]
    shades = colormaps["viridis"](np.linspace(0.05, 0.9, len(strengths)))
    by_strength = {name: (shade, f"c = {c:g}") for (c, name), shade in zip(strengths.items(), shades, strict=True)}
    warm = colormaps["plasma"](np.linspace(0.1, 0.8, len(starts)))
    by_start = {name: (shade, f"from step {name.rpartition(' ')[2]}") for name, shade in zip(starts, warm, strict=True)}
    copied = {f"{part} copied": (colour, part) for part, colour in _PARTS.items() if f"{part} copied" in names}
    none = {"none": (BLACK, "none")}
    step = results["step"].values
    with panels(2, 3, width=13.0, height=7.2) as (figure, ((left, middle, right), (when, collapse, repeats))):
        for axes, shown, title in (
            (left, by_strength, "(a) Attention biased by c"),
            (middle, none | by_start, f"(b) Biased by {max(strengths):g} from a step on"),
            (right, none | copied, "(c) Parts of a trained model, kept"),
        ):
            for name, (colour, label) in shown.items():
                accuracy = results["accuracy"].sel(intervention=name)
                axes.plot(step, accuracy.median("seed"), color=colour, label=label)
                axes.fill_between(
                    step, accuracy.min("seed"), accuracy.max("seed"), color=colour, alpha=0.12, linewidth=0
                )
            axes.set(xlabel="step", ylabel="accuracy", ylim=(0, 1.03), title=title)
            axes.legend(loc="best")
        rows = {**by_strength, **by_start, **copied}
        rows |= {
            f"{part} random": (colour, f"{part}, random")
            for part, colour in _PARTS.items()
            if f"{part} random" in names
        }
        last = float(step[-1])
        for row, (name, (colour, _)) in enumerate(rows.items()):
            half = results["accuracy_50"].sel(intervention=name).values
            never = ~np.isfinite(half)
            when.plot(half[~never], np.full((~never).sum(), row), "o", color=colour, markersize=4)
            when.plot(np.full(never.sum(), last), np.full(never.sum(), row), ">", color=colour, markersize=5)
        when.axvline(
            float(results["accuracy_50"].sel(intervention="none").median()), color="0.6", linewidth=0.8, linestyle=":"
        )
        labels = [f"{label} copied" if name.endswith("copied") else label for name, (_, label) in rows.items()]
        when.set(
            yticks=range(len(rows)),
            yticklabels=labels,
            xlabel="step (triangles: not by the end)",
            title="(d) Half of the outputs right",
        )
        when.tick_params(axis="y", labelsize=7)
        when.invert_yaxis()
        for axes, name, title in (
            (collapse, "cosine", "(e) Cosine of hidden states, as in (a)"),
            (repeats, "repetition", r"(f) Repetition $\rho$, as in (a)"),
        ):
            for each, (colour, label) in by_strength.items():
                axes.plot(step, results[name].sel(intervention=each).median("seed"), color=colour, label=label)
            axes.set(xlabel="step", title=title)
            axes.set_ylim(top=1.03)
            axes.legend(loc="center right" if name == "cosine" else "upper right")
        return figure
