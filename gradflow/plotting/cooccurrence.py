"""The pictures of a co-occurrence run. Each function takes labelled runs (`observe.cooccurrence.dataset`) and returns a figure.

`runs` maps "flow", "infinite_width" and "descent" to datasets; all but the first may be missing. Time is shown as S0 t, in
units of the readout's initial rate, on a log axis, which leaves out t = 0.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradflow.observe.phases import cooccurrence_events
from gradflow.plotting.style import BLACK, BLUE, DISCRETE, GREEN, ORANGE, PINK, RED, SKY, THEORY, panels, shade_phases, write
from gradflow.theory import four_point
from gradflow.theory.cooccurrence import balance_limits

Runs = Mapping[str, xr.Dataset]

_CLASSES = {
    "I1": (GREEN, r"$I_1$: both signals"),
    "I2": (ORANGE, r"$I_2$: $\mu_1$ only"),
    "I3": (SKY, r"$I_3$: $\mu_2$ only"),
    "I4": (PINK, r"$I_4$: neither"),
}
_SIGNAL_COLOURS = dict(zip(("mu1", "mu2", "mu3"), (BLUE, ORANGE, RED), strict=True))


def draw_all(runs: Runs, folder: Path) -> list[Path]:
    """Draw every picture that the runs allow into a folder."""
    drawn = [write(draw(runs), Path(folder) / f"{name}.png") for name, draw in PICTURES.items() if name != "flow_over_descent"]
    if "descent" in runs:
        drawn.append(write(flow_over_descent(runs), Path(folder) / "flow_over_descent.png"))
    return drawn


def two_phases(runs: Runs) -> Figure:
    """Loss by class and balance of gradients under each other: theory over simulation, phases shaded."""
    with panels(2, 1, width=6.6, height=6.0, sharex=True) as (figure, (top, bottom)):
        _loss_by_class(top, runs)
        _balance(bottom, runs)
        top.set_xlabel("")
        top.set_title("Loss by class: gradient flow, its infinite-width limit, gradient descent")
        bottom.set_title("Automatic balancing of gradients, with the predicted limits")
        return figure


def loss_by_class(runs: Runs) -> Figure:
    """Figure 1(b) of the paper: training loss in total and by class."""
    with panels() as (figure, axes):
        _loss_by_class(axes, runs)
        axes.set_title("Training loss in total and by class")
        return figure


def balance(runs: Runs) -> Figure:
    """Ratios of the gradients of the classes against their predicted limits."""
    with panels() as (figure, axes):
        _balance(axes, runs)
        axes.set_title("Automatic balancing of gradients")
        return figure


def scores(runs: Runs) -> Figure:
    """Figure 1(a) of the paper: attention scores between the signals and the common word along training."""
    with panels(height=4.0) as (figure, axes):
        _score_lines(axes, runs["flow"], change=False)
        axes.set_title(r"Attention scores $\mu_i^\top W_K^\top W_Q\,\mu_j$")
        return figure


def score_changes(runs: Runs) -> Figure:
    """Change of the scores since the start, with the largest change of any score that involves a random word."""
    with panels(height=4.0) as (figure, axes):
        _score_lines(axes, runs["flow"], change=True)
        axes.set_title(r"Change of attention scores since the start, $\Delta A$")
        return figure


def flow_over_descent(runs: Runs) -> Figure:
    """Gradient descent over gradient flow: outputs of the three fixed words, and the distance between the two."""
    flow, descent = runs["flow"], runs["descent"]
    rate = float(flow["S0"])
    t = descent["time"].values[1:]
    with panels(2, 1, width=6.4, height=5.4, sharex=True, height_ratios=(2, 1)) as (figure, (top, bottom)):
        for word, (signal, colour) in enumerate(_SIGNAL_COLOURS.items()):
            top.plot(_clock(flow), flow["G"].values[1:, word], color=colour, label=rf"$G(\mu_{signal[-1]})$")
            trained = descent["G"].values[1:, word]
            top.plot(rate * t, trained, color=colour, markevery=3, **DISCRETE)
            followed = np.interp(np.log(t), np.log(flow["time"].values[1:]), flow["G"].values[1:, word])
            bottom.plot(rate * t, np.abs(trained - followed), color=colour)
        top.plot([], [], color="0.3", label=descent.attrs["method"].split(",")[0], **DISCRETE)
        top.set(xscale="log", ylabel="output of a word", title="Gradient descent (circles) over gradient flow (lines)")
        top.set_xlim(_clock(flow)[0], 3 * rate * t[-1])
        top.legend(ncols=2)
        bottom.set(yscale="log", xlabel=r"time, $S_0 t$", ylabel="|descent - flow|")
        for axes in (top, bottom):
            shade_phases(axes, cooccurrence_events(flow)["T1"].time * rate, label=axes is top)
        return figure


def attention_maps(runs: Runs) -> Figure:
    """Mean attention between kinds of words in the sentences of class I1: at the start, at T1 and at the end, times L."""
    flow = runs["flow"]
    t1 = cooccurrence_events(flow)["T1"].time
    moments = [("start", 0), ("$T_1$", int(np.searchsorted(flow["time"].values, t1)) if np.isfinite(t1) else 0), ("end", -1)]
    maps = [flow["attention"].sel(sentence_class="I1").values[at] * flow.attrs["L"] - 1 for _, at in moments]
    largest = max(np.nanmax(np.abs(each)) for each in maps)
    names = [r"$\mu_1$", r"$\mu_2$", r"$\mu_3$", "random"]
    with panels(1, 3, width=8.4, height=3.1, sharey=True) as (figure, axes):
        for ax, (name, _), each in zip(axes, moments, maps, strict=True):
            image = ax.imshow(each, cmap="RdBu_r", vmin=-largest, vmax=largest)
            ax.set(title=name, xticks=range(4), xticklabels=names, xlabel="query word", yticks=range(4), yticklabels=names)
            ax.grid(False)
        axes[0].set_ylabel("key word")
        figure.colorbar(image, ax=axes, label=r"$L\,p - 1$", shrink=0.85)
        return figure


PICTURES = {
    "two_phases": two_phases,
    "loss_by_class": loss_by_class,
    "balance": balance,
    "scores": scores,
    "score_changes": score_changes,
    "attention_maps": attention_maps,
    "flow_over_descent": flow_over_descent,
}


def _clock(run: xr.Dataset) -> np.ndarray:
    """S0 t at the save points after the start."""
    return float(run["S0"]) * run["time"].values[1:]


def _loss_by_class(axes: Axes, runs: Runs) -> None:
    flow = runs["flow"]
    axes.plot(_clock(flow), flow["loss"].values[1:], color=BLACK, linewidth=2.2, label="all samples")
    for name, (colour, label) in _CLASSES.items():
        axes.plot(_clock(flow), flow["loss_by_class"].sel(sentence_class=name).values[1:], color=colour, label=label)
    if "infinite_width" in runs:
        limit = runs["infinite_width"]
        for name in _CLASSES:
            axes.plot(_clock(limit), limit["loss_by_class"].sel(sentence_class=name).values[1:], **THEORY)
        axes.plot([], [], label=r"infinite width", **THEORY)
    if "descent" in runs:
        descent = runs["descent"]
        for name, (colour, _) in _CLASSES.items():
            axes.plot(_clock(descent), descent["loss_by_class"].sel(sentence_class=name).values[1:], color=colour, markevery=6, **DISCRETE)
        axes.plot([], [], color="0.3", label="gradient descent", **DISCRETE)
    axes.set(xscale="log", yscale="log", xlabel=r"time, $S_0 t$", ylabel="loss")
    axes.set_xlim(_clock(flow)[[0, -1]])
    axes.legend(loc="lower left")
    shade_phases(axes, cooccurrence_events(flow)["T1"].time * float(flow["S0"]))


def _balance(axes: Axes, runs: Runs) -> None:
    flow = runs["flow"]
    curves = {"R": (BLUE, r"$R = (s_2+s_3+s_4-s_1)/(s_1-s_2)$"), "s1_over_s2": (GREEN, r"$s_1/s_2$"), "s2_over_s3": (RED, r"$s_2/s_3$")}
    limits = (four_point.LIMIT_R, 7 / 5, 1.0)
    if flow.attrs["random_words"] == "unique":
        unique = balance_limits(flow.attrs["n"], flow.attrs["L"])
        limits = (unique.R, unique.s1_over_s2, 1.0)
    for (name, (colour, label)), limit in zip(curves.items(), limits, strict=True):
        axes.plot(_clock(flow), flow[name].values[1:], color=colour, label=label)
        axes.axhline(limit, **THEORY)
        axes.annotate(f"{limit:.4g}", (1, limit), xycoords=("axes fraction", "data"), ha="left", va="center", fontsize=8)
    axes.set(xscale="log", xlabel=r"time, $S_0 t$", ylabel="ratio", ylim=(-0.6, 3.3))
    axes.set_xlim(_clock(flow)[[0, -1]])
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.9))
    shade_phases(axes, cooccurrence_events(flow)["T1"].time * float(flow["S0"]))


def _score_lines(axes: Axes, flow: xr.Dataset, *, change: bool) -> None:
    values = flow["A"].values - (flow["A"].values[0] if change else 0)
    styles = {0: "-", 1: "--", 2: ":"}
    for query, (signal, colour) in enumerate(_SIGNAL_COLOURS.items()):
        for key in range(3):
            label = rf"key $\mu_{key + 1}$, query $\mu_{signal[-1]}$"
            axes.plot(_clock(flow), values[1:, key, query], color=colour, linestyle=styles[key], label=label)
    if change:
        envelope = flow["change_A_random"].values[1:]
        axes.fill_between(_clock(flow), -envelope, envelope, color="0.8", alpha=0.6, linewidth=0, label="any random word")
    axes.set(xscale="log", xlabel=r"time, $S_0 t$", ylabel="change of score" if change else "score")
    axes.set_xlim(_clock(flow)[[0, -1]])
    figure = axes.figure
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    shade_phases(axes, cooccurrence_events(flow)["T1"].time * float(flow["S0"]))
