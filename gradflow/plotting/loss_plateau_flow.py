"""Pictures of the loss plateau in continuous time, from the datasets of `observe.plateau_flow`."""

from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradflow.plotting.style import BLACK, BLUE, DISCRETE, GREEN, ORANGE, PINK, RED, SKY, THEORY, YELLOW, panels, write

_COLOURS = {"Q": BLUE, "K": SKY, "V": ORANGE, "O": YELLOW, "mlp": GREEN, "embeddings": PINK, "norms": "0.6", "head": BLACK}  # fmt: skip
_TIME = "time t = learning rate x steps"


def draw_all(gradient: xr.Dataset, adam: xr.Dataset, saddle: xr.Dataset, escape: xr.Dataset, folder: Path) -> list[Path]:  # fmt: skip
    """Draw every picture into a folder."""
    drawn = {
        "losses": losses(gradient, adam),
        "saddle": saddle_picture(saddle),
        "escape": escape_picture(escape),
        "conserved": conserved(gradient, adam),
    }
    return [write(figure, Path(folder) / f"{name}.png") for name, figure in drawn.items()]


def losses(gradient: xr.Dataset, adam: xr.Dataset) -> Figure:
    """The loss of both flows and of their discrete counterparts, with the levels in closed form."""
    with panels(1, 2, width=11, height=4, sharey=True) as (figure, (left, right)):
        for axes, runs, title in ((left, gradient, "(a) gradient flow and descent"), (right, adam, "(b) Adam")):
            time = runs["time"].values
            for colour, name in zip((BLUE, ORANGE, GREEN), runs["run"].values, strict=True):
                loss = runs["loss"].sel(run=name).values
                if colour == BLUE:
                    axes.plot(time, loss, color=colour, label=name)
                else:
                    axes.plot(time, loss, color=colour, label=name, markevery=0.03, linewidth=0.6, marker="o", markersize=3, markerfacecolor="white")  # fmt: skip
            _levels(axes, runs)
            axes.set(xlabel=_TIME, title=title)
            axes.margins(x=0)
            axes.legend(loc="upper right")
        left.set_ylabel("population loss [nat]")
        return figure


def saddle_picture(saddle: xr.Dataset) -> Figure:
    """Along the plateau: the gradient, eigenvalues and growth, where the lowest direction lives, the end as predicted."""
    with panels(1, 4, width=14, height=4) as (figure, (slope, ends, lives, end)):
        time = saddle["time"].values
        slope.plot(time, saddle["gradient"], color=BLUE, marker="o", markersize=3)
        slope.set(yscale="log", ylabel="norm of the gradient", title="(a) gradient")
        ends.plot(time, saddle["highest"], color="0.6", marker="o", markersize=3, label="largest eigenvalue")
        ends.errorbar(time, -saddle["lowest"], saddle["error"], color=RED, marker="o", markersize=3, label="smallest, times -1")  # fmt: skip
        growth = saddle["growth"].values
        ends.plot(time, np.where(growth > 0, growth, np.nan), color=BLUE, marker="s", markersize=3, label="growth of attention's gradient")  # fmt: skip
        ends.set(yscale="log", ylabel="1 / time", title="(b) spectrum and growth")
        ends.legend(loc="center right")
        lives.stackplot(time, saddle["share"].values.T, colors=[_COLOURS[name] for name in saddle["group"].values], labels=list(saddle["group"].values), linewidth=0)  # fmt: skip
        lives.set(ylim=(0, 1), ylabel="share of squared norm", title="(c) lowest direction")
        figure.legend(*lives.get_legend_handles_labels(), loc="outside lower center", ncols=8, title="(c):", fontsize=8)
        end.plot(time, saddle["predicted"], color=BLUE, marker="o", markersize=3, label="predicted from here")
        end.axhline(saddle.attrs["end"], label="measured", **THEORY)
        end.set(ylabel="end of the plateau", title="(d) end, by fourth-order blow-up")
        end.set_ylim(bottom=0)
        end.legend()
        for axes in (slope, ends, lives, end):
            axes.set_xlabel("time t")
            axes.margins(x=0)
        return figure


def escape_picture(escape: xr.Dataset) -> Figure:
    """The end of the plateau by initial scale, with the power of the fourth-order saddle."""
    with panels(width=5.2, height=4) as (figure, axes):
        scales, ends = escape["scale"].values, escape["end"].values
        axes.plot(scales, ends, color=BLUE, label=["measured, a point a seed"] + [None] * (ends.shape[1] - 1), **DISCRETE)  # fmt: skip
        for colour, part in zip((ORANGE, RED), escape["part"].values, strict=True):
            told = escape["predicted"].sel(part=part).values
            labels = [f"predicted from {part:g} of it"] + [None] * (ends.shape[1] - 1)
            axes.plot(scales, told, color=colour, linestyle="none", marker="x", markersize=4, label=labels)
        if np.isfinite(ends).all():  # every run came to the end
            fine, mean = np.geomspace(scales[0], scales[-1], 200), ends.mean(axis=1)
            factor = np.exp(np.mean(np.log(mean) + 2 * np.log(scales)))
            axes.plot(fine, factor * fine**-2.0, label=r"$\propto s^{-2}$", **THEORY)
            design = np.stack([np.ones_like(scales), -np.log(scales)], axis=1) / mean[:, None]
            a, b = np.linalg.lstsq(design, np.ones_like(mean), rcond=None)[0]
            line = a - b * np.log(fine)
            axes.plot(
                fine, np.where(line > 0, line, np.nan), color="0.6", linestyle=":", label=r"best $a + b\,\ln(1/s)$"
            )
        axes.set(xscale="log", yscale="log", xlabel="initial scale s, in units of 0.02", ylabel="end of the plateau, t")
        axes.set_xticks(scales, [f"{scale:g}" for scale in scales])
        ticks = [
            tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500) if axes.get_ylim()[0] < tick < axes.get_ylim()[1]
        ]
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.legend()
        return figure


def conserved(gradient: xr.Dataset, adam: xr.Dataset) -> Figure:
    """How far the conserved quantities move, in gradient flow and in Adam's flow."""
    with panels(1, 2, width=11, height=3.8, sharey=True) as (figure, (left, right)):
        cycle = (BLUE, SKY, PINK, "0.5", BLACK, RED, GREEN, YELLOW, ORANGE, "0.7")
        for axes, runs, title in ((left, gradient, "(a) gradient flow"), (right, adam, "(b) Adam's flow")):
            size = float(runs["size"].max())
            for colour, law in zip(cycle, runs["law"].values, strict=False):
                drift = runs["drift"].sel(law=law).values / size
                style = "--" if law == "stream" else "-"
                label = "stream (up to eps)" if law == "stream" else law
                axes.plot(runs["time"], np.where(drift > 0, drift, np.nan), color=colour, linestyle=style, linewidth=1.2, label=label)  # fmt: skip
            axes.set(yscale="log", xlabel=_TIME, title=title)
            axes.margins(x=0)
        left.set_ylabel("|I(t) - I(0)| / |weights|")
        right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return figure


def _levels(axes: Axes, runs: xr.Dataset) -> None:
    levels = {
        "all at their marginals": runs.attrs["marginal"],
        "best without attention": runs.attrs["without_attention"],
        r"$y_1$ right, else marginals": runs.attrs["plateau"],
        "floor": runs.attrs["floor"],
    }
    above = 1
    for name, level in levels.items():
        axes.axhline(level, **THEORY)
        axes.annotate(name, (0.99, level), xycoords=("axes fraction", "data"), xytext=(0, 3 * above), textcoords="offset points", ha="right", va="bottom" if above > 0 else "top", fontsize=7)  # fmt: skip
        above = -1 if name == "all at their marginals" else 1
