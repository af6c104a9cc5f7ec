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
from matplotlib.ticker import SymmetricalLogLocator

from gradflow.observe.phases import cooccurrence_events
from gradflow.plotting.style import (
    BLACK,
    BLUE,
    DISCRETE,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SKY,
    THEORY,
    panels,
    shade_phases,
    write,
)
from gradflow.theory import max_margin

Runs = Mapping[str, xr.Dataset]

_CLASSES = {
    "I1": (GREEN, r"$I_1$: both signals"),
    "I2": (ORANGE, r"$I_2$: $\mu_1$ only"),
    "I3": (SKY, r"$I_3$: $\mu_2$ only"),
    "I4": (PINK, r"$I_4$: neither"),
}
_FIGURE_1_SCORES = {
    (2, 1): (BLUE, "-"),
    (1, 2): (ORANGE, "-"),
    (3, 1): (BLUE, ":"),
    (3, 2): (ORANGE, ":"),
    (1, 1): (GREEN, "--"),
    (2, 2): (PINK, "--"),
}
_TIME = r"time, $S_0 t$"
_SIGNAL_COLOURS = dict(zip(("mu1", "mu2", "mu3"), (BLUE, ORANGE, RED), strict=True))


def draw_all(runs: Runs, folder: Path) -> list[Path]:
    """Draw every picture that the runs allow into a folder."""
    drawn = [
        write(draw(runs), Path(folder) / f"{name}.png")
        for name, draw in PICTURES.items()
        if name != "flow_over_descent"
    ]
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
    clock, rate = _clock(descent), float(flow["S0"])
    t = descent["time"].values[1:]
    shared = np.isin(t, flow["time"].values)
    apart = np.abs(descent["G"].values[1:][shared] - flow["G"].sel(time=t[shared]).values)
    with panels(2, 1, width=6.4, height=5.4, sharex=True, height_ratios=(2, 1)) as (figure, (top, bottom)):
        visible = _clock(flow) <= 2 * clock[-1]
        for word, (signal, colour) in enumerate(_SIGNAL_COLOURS.items()):
            top.plot(
                _clock(flow)[visible],
                flow["G"].values[1:, word][visible],
                color=colour,
                label=rf"$G(\mu_{signal[-1]})$",
            )
            top.plot(clock, descent["G"].values[1:, word], color=colour, markevery=3, **DISCRETE)
            bottom.plot(clock[shared], apart[:, word], color=colour)
        top.plot([], [], color="0.3", label=descent.attrs["method"], **DISCRETE)
        top.set(xscale="log", ylabel="output of a word", title="Gradient descent (circles) over gradient flow (lines)")
        top.set_xlim(clock[0] / 4, 2 * clock[-1])
        top.legend(loc="upper left", bbox_to_anchor=(0, 0.95))
        bottom.set(yscale="log" if (apart > 0).any() else "linear", xlabel=_TIME, ylabel="|descent - flow|")
        for axes in (top, bottom):
            shade_phases(axes, cooccurrence_events(flow)["T1"].time * rate, label=axes is top)
        return figure


def attention_maps(runs: Runs) -> Figure:
    """Mean attention between kinds of words in the sentences of class I1, times L: at the start, and its change since."""
    flow = runs["flow"]
    t1 = cooccurrence_events(flow)["T1"].time
    at_t1 = min(int(np.searchsorted(flow["time"].values, t1)), flow.sizes["time"] - 1)
    p = flow["attention"].sel(sentence_class="I1").values * flow.attrs["L"]
    maps = {r"start, $L\,p - 1$": p[0] - 1, "change until $T_1$": p[at_t1] - p[0], "change until the end": p[-1] - p[0]}
    scale_of_change = max(np.nanmax(np.abs(p[-1] - p[0])), np.nanmax(np.abs(p[at_t1] - p[0])))
    scales = (np.nanmax(np.abs(p[0] - 1)), scale_of_change, scale_of_change)
    names = [r"$\mu_1$", r"$\mu_2$", r"$\mu_3$", "random"]
    with panels(1, 3, width=9.4, height=2.9) as (figure, axes):
        for ax, (title, each), scale in zip(axes, maps.items(), scales, strict=True):
            image = ax.imshow(each, cmap="RdBu_r", vmin=-scale, vmax=scale)
            ax.set(
                title=title, xticks=range(4), xticklabels=names, xlabel="query word", yticks=range(4), yticklabels=names
            )
            ax.grid(False)
            bar = figure.colorbar(image, ax=ax, shrink=0.9)
            bar.formatter.set_powerlimits((-2, 2))
        axes[0].set_ylabel("key word")
        return figure


def figure_1(runs: Runs) -> Figure:
    """Figure 1 of the paper, from gradient descent as in its Appendix A: (a) attention scores, (b) training loss by class."""
    descent = runs["descent"]
    learning_rate = descent.attrs["learning_rate"]
    epoch = descent["time"].values / learning_rate
    t1 = cooccurrence_events(descent)["T1"].time / learning_rate
    with panels(1, 2, width=9.6, height=3.9) as (figure, (left, right)):
        for (key, query), (colour, style) in _FIGURE_1_SCORES.items():
            left.plot(
                epoch,
                descent["A"].values[:, key - 1, query - 1],
                color=colour,
                linestyle=style,
                label=rf"$\mu_{key}^\top W_K^\top W_Q\,\mu_{query}$",
            )
        right.plot(epoch, descent["loss"], color=BLACK, linewidth=2.2, label="all samples")
        for name, (colour, label) in _CLASSES.items():
            right.plot(epoch, descent["loss_by_class"].sel(sentence_class=name), color=colour, label=label)
        left.set(ylabel="score", title="(a) attention scores")
        right.set(ylabel="training loss", title="(b) training loss")
        for axes in (left, right):
            axes.set(xlabel="epoch of gradient descent", xscale="symlog", xlim=(0, epoch[-1]))
            axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1))
            shade_phases(axes, t1)
        left.legend(loc="center left", bbox_to_anchor=(0, 0.5))
        right.legend(loc="upper right", bbox_to_anchor=(1, 0.93))
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
    t1 = cooccurrence_events(flow)["T1"].time * float(flow["S0"])
    _loss_lines(axes, runs)
    axes.set(xscale="log", yscale="log", xlabel=_TIME, ylabel="loss", ylim=(1e-10, 3))
    axes.set_ylim(bottom=max(1e-10, 0.5 * float(flow["loss_by_class"][-1].min())))
    axes.set_xlim(_clock(flow)[[0, -1]])
    axes.legend(loc="lower left")
    shade_phases(axes, t1)
    if t1 < _clock(flow)[-1] / 1e5:
        zoom = axes.inset_axes((0.64, 0.5, 0.34, 0.42))
        _loss_lines(zoom, runs)
        zoom.set(xlim=(0, 2 * t1), ylim=(0, 1.1 * float(flow["loss_by_class"].max())))
        zoom.tick_params(labelsize=7)
        zoom.set_title("Phase 1, linear axes", fontsize=8)
        shade_phases(zoom, t1, label=False)


def _loss_lines(axes: Axes, runs: Runs) -> None:
    flow = runs["flow"]
    axes.plot(_clock(flow), flow["loss"].values[1:], color=BLACK, linewidth=2.2, label="all samples")
    for name, (colour, label) in _CLASSES.items():
        of_class = {run: each["loss_by_class"].sel(sentence_class=name).values[1:] for run, each in runs.items()}
        axes.plot(_clock(flow), of_class["flow"], color=colour, label=label)
        if "infinite_width" in runs:
            axes.plot(_clock(runs["infinite_width"]), of_class["infinite_width"], **THEORY)
        if "descent" in runs:
            axes.plot(_clock(runs["descent"]), of_class["descent"], color=colour, markevery=6, **DISCRETE)
    if "infinite_width" in runs:
        axes.plot([], [], label="infinite width", **THEORY)
    if "descent" in runs:
        axes.plot([], [], color="0.3", label="gradient descent", **DISCRETE)


def _balance(axes: Axes, runs: Runs) -> None:
    flow = runs["flow"]
    curves = {
        "R": (BLUE, r"$R = (s_2+s_3+s_4-s_1)/(s_1-s_2)$"),
        "s1_over_s2": (GREEN, r"$s_1/s_2$"),
        "s2_over_s3": (RED, r"$s_2/s_3$"),
    }
    limits = max_margin.limits(flow["tokens"].values, flow["label"].values, flow["class"].values, flow.attrs["d"])
    for name, (colour, label) in curves.items():
        limit = getattr(limits, name)
        axes.plot(_clock(flow), flow[name].values[1:], color=colour, label=label)
        axes.axhline(limit, **THEORY)
        axes.annotate(
            f"{limit:.4g}", (1, limit), xycoords=("axes fraction", "data"), ha="left", va="center", fontsize=8
        )
    axes.set(xscale="log", xlabel=_TIME, ylabel="ratio", ylim=(-0.6, 3.3))
    axes.set_xlim(_clock(flow)[[0, -1]])
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 0.92))
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
        axes.fill_between(
            _clock(flow), -envelope, envelope, color="0.8", alpha=0.6, linewidth=0, label="any random word"
        )
    axes.set(xscale="log", xlabel=_TIME, ylabel="change of score" if change else "score")
    axes.set_xlim(_clock(flow)[[0, -1]])
    figure = axes.figure
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    shade_phases(axes, cooccurrence_events(flow)["T1"].time * float(flow["S0"]))
