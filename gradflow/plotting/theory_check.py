"""The paper on one page: a panel for each theorem or group of lemmas, with every run, its exponent, the paper's, and the verdict.

`grid` is a dataset of `observe.scaling.grid`, `verdicts` are those of `theory.ledger`. Dots are runs, solid lines their fits on
logarithms, dashes the paper's exponents and limits; colours are the two scales of the start where nothing else is said.
"""

from collections.abc import Sequence
from textwrap import fill

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradflow.observe.scaling import COORDINATES
from gradflow.plotting.style import BLACK, BLUE, GREEN, ORANGE, PINK, RED, THEORY, panels
from gradflow.theory.exponents import slope
from gradflow.theory.ledger import Verdict

_STARTS = (BLUE, ORANGE, PINK, GREEN)
_MARKS = {True: ("✓", GREEN), False: ("✗", RED), None: ("–", "0.4")}
_DOTS = dict(linestyle="none", marker="o", markersize=3, alpha=0.45, markeredgewidth=0)


def one_page(grid: xr.Dataset, verdicts: Sequence[Verdict]) -> Figure:
    """Twelve panels in the order of the paper."""
    verdict_on = {verdict.entry.measured: verdict for verdict in reversed(verdicts) if not verdict.entry.printed}
    page = {
        "initial_output": ("Start: outputs (Lemma D.8)", _start_outputs),
        "initial_rate": ("Start: rates (Lemmas 4.1, 4.2)", _start_rates),
        "T1": ("Phase 1: its length (Theorem 3.1)", _phase_1),
        "change_A_until_T1": ("Phase 1: attention still (E.28)", _phase_1_changes),
        "G_random_at_T1": ("Phase 1: random words (E.27)", _random_words),
        "lemma_4_5": ("Phase 2: order of gradients (4.3, 4.5)", _order_of_gradients),
        "R_at_end": ("Phase 2: balance of gradients (F.6)", _balance),
        "s2_s3_gap": ("Phase 2: the two signals (4.4, F.5)", _two_signals),
        "loss_constant_least": ("Phase 2: loss (Theorem F.8)", _loss),
        "signal_score": ("End: attention learned (Theorem 3.3)", _scores),
        "random_score": ("End: random words learn 1/n (3.3)", _random_scores),
        "generalisation_then": ("End: fresh sentences (Theorem 3.3)", _generalisation),
    }
    with panels(3, 4, width=14.4, height=9.6) as (figure, axes):
        for ax, (measured, (title, draw)) in zip(axes.flat, page.items(), strict=True):
            draw(ax, grid)
            _title(ax, title, verdict_on[measured])
        _key(figure, axes[0, 0], grid)
        return figure


def _title(axes: Axes, title: str, verdict: Verdict) -> None:
    mark, colour = _MARKS[verdict.holds]
    if verdict.text.startswith("holds only"):
        mark, colour = "◐", ORANGE
    axes.set_title(title, fontweight="bold", pad=30)
    told = fill(verdict.text, 44, max_lines=2)
    for text, x, shade in ((mark, 0, colour), (told, 12, "0.25")):
        note = axes.annotate(
            text, (0, 1), (x, 27), xycoords="axes fraction", textcoords="offset points", va="top", fontsize=8.5, color=shade
        )  # fmt: skip
        note.set_in_layout(False)  # else long verdicts narrow the panels


def _key(figure: Figure, axes: Axes, grid: xr.Dataset) -> None:
    handles = [
        axes.plot([], [], "o", color=colour, label=rf"$\sigma_0\sqrt{{Lm}} = {start:g}$")[0]
        for start, colour in _starts(grid).items()
    ]
    handles += axes.plot([], [], color="0.4", label="fit") + axes.plot([], [], label="the paper", **THEORY)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=10)


# ---------------------------------------------------------------------------------------------------------- the panels


def _start_outputs(axes: Axes, grid: xr.Dataset) -> None:
    x = grid["sigma0"] * grid["sigma1"] * (grid["L"] * grid["m"] * grid["m1"]) ** 0.5
    for start, colour in _starts(grid).items():
        chosen = grid["start"].values == start
        axes.plot(x.values[chosen], grid["initial_output"].values[chosen], color=colour, **_DOTS)
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, ends, **THEORY)
    axes.axhline(0.01, color="0.6", linewidth=0.9)
    axes.annotate(
        "0.01", (1, 0.01), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="0.4", fontsize=8
    )
    axes.set(xscale="log", yscale="log", xlabel=r"$\sigma_0\sigma_1\sqrt{L\,m\,m_1}$", ylabel=r"$\max_i |F_i(0)|$")


def _start_rates(axes: Axes, grid: xr.Dataset) -> None:
    unit = (grid["sigma0"] ** 2 + grid["sigma1"] ** 2) * grid["m"] * grid["m1"]
    x = grid["initial_output"].values
    for name, colour, label in (("initial_rate", BLUE, r"$\mu_1, \mu_2$"), ("initial_rate_mu3", RED, r"$\mu_3$")):
        axes.plot(x.ravel(), (grid[name] / unit).values.ravel(), color=colour, label=label, **_DOTS)
    for level, text in ((1 / 6, "1/6"), (1 / 3, "1/3, as printed in E.4")):
        axes.axhline(level, **THEORY)
        axes.annotate(text, (0.02, level), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    axes.set(
        xscale="log",
        xlabel=r"$\max_i |F_i(0)|$",
        ylabel=r"$\dot G(0) \;/\; (\sigma_0^2+\sigma_1^2)\,m\,m_1$",
        ylim=(-0.02, 0.45),
    )
    axes.legend(loc="upper left", ncols=2, markerscale=2)


def _phase_1(axes: Axes, grid: xr.Dataset) -> None:
    x = grid["sigma1"] ** 2 * grid["m"] * grid["m1"]
    chosen = _agree(grid, "m", "m1", "readout")
    _by_start(axes, grid.isel(setting=chosen), x.isel(setting=chosen), "T1", -1)
    axes.set(xlabel=r"$\sigma_1^2\,m\,m_1$", ylabel=r"$T_1$")


def _phase_1_changes(axes: Axes, grid: xr.Dataset) -> None:
    line = grid.isel(setting=_agree(grid, "m") & _first_start(grid))
    marks = {
        "change_A_until_T1": (BLUE, r"$|\Delta A|$", -1.5),
        "change_Gamma_K_until_T1": (GREEN, r"$|\Delta \Gamma_K|$", -2),
    }
    for name, (colour, label, paper) in marks.items():
        _fitted(axes, line["m"], line[name], colour, paper, label=label)
    axes.set(xlabel=r"width $m$", ylabel="largest change until $T_1$")
    _legend(axes, "lower left")


def _random_words(axes: Axes, grid: xr.Dataset) -> None:
    line = grid.isel(setting=_agree(grid, "n"))
    _by_start(axes, line, line["n"], "G_random_at_T1", None)
    axes.set(xlabel=r"sentences $n$", ylabel=r"$\max |G(T_1)|$ of random words")


def _order_of_gradients(axes: Axes, grid: xr.Dataset) -> None:
    line = grid.isel(setting=_agree(grid, "n"))
    for start, colour in _starts(grid).items():
        chosen = line.isel(setting=line["start"].values == start)
        for name, marker in (("lemma_4_3_at_T1", "o"), ("lemma_4_5", "v")):
            axes.plot(chosen["n"].values, chosen[name].values, color=colour, **(_DOTS | {"marker": marker}))
    for label, marker in ((r"at $T_1$ (4.3)", "o"), ("least in Phase 2 (4.5)", "v")):
        axes.plot([], [], color="0.4", label=label, **(_DOTS | {"marker": marker, "markersize": 5}))
    axes.axhline(0, **THEORY)
    axes.set(xscale="log", xlabel=r"sentences $n$", ylabel=r"largest $C$", ylim=(-0.5, 0.5))
    _sizes(axes, line["n"])
    axes.legend(loc="lower right")


def _balance(axes: Axes, grid: xr.Dataset) -> None:
    axes.axhspan(1, 2, color="0.92", zorder=0)
    _curves(axes, grid, grid["R"])
    axes.set(
        xscale="log", xlabel=r"$\sigma_1^2 m m_1\, t$", ylabel=r"$R=(s_2+s_3+s_4-s_1)/(s_1-s_2)$", ylim=(-0.5, 2.5)
    )


def _two_signals(axes: Axes, grid: xr.Dataset) -> None:
    _curves(axes, grid, abs(np.log(grid["s2_over_s3"])))
    axes.axhline(np.log(2), **THEORY)
    axes.annotate(
        "a factor of 2", (1, np.log(2)), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
    )
    axes.set(xscale="log", yscale="log", xlabel=r"$\sigma_1^2 m m_1\, t$", ylabel=r"$|\ln(s_2/s_3)|$", ylim=(1e-7, 5))


def _loss(axes: Axes, grid: xr.Dataset) -> None:
    _curves(axes, grid, grid["loss"])
    clock = grid["clock"].values
    late = clock > 100
    constant = float((grid["loss_constant_least"] / (grid["sigma1"] ** 2 * grid["m"] * grid["m1"])).median())
    axes.plot(clock[late], 1 / (constant * clock[late]), **THEORY)
    axes.annotate(rf"$1 \,/\, {constant:.2g}\,\tau$", (0.06, 0.08), xycoords="axes fraction")
    axes.set(xscale="log", yscale="log", xlabel=r"$\tau = \sigma_1^2 m m_1\, t$", ylabel="training loss")


def _scores(axes: Axes, grid: xr.Dataset) -> None:
    line = grid.isel(setting=_agree(grid, "m") & _first_start(grid))
    marks = {
        "signal_score": (BLUE, r"$C_{12}, C_{21}, -C_{31}, -C_{32}$", -1.5),
        "random_score": ("0.5", "largest of a random word", None),
    }
    for name, (colour, label, paper) in marks.items():
        _fitted(axes, line["m"], line[name], colour, paper, label=label)
    axes.set(xlabel=r"width $m$", ylabel=r"change of $W_K^\top W_Q$")
    axes.set_ylim(bottom=float(line["random_score"].min()) / 100)
    _legend(axes, "lower left")


def _random_scores(axes: Axes, grid: xr.Dataset) -> None:
    line = grid.isel(setting=_agree(grid, "n"))
    _by_start(axes, line.assign(ratio=line["random_score"] / line["signal_score"]), line["n"], "ratio", -1)
    axes.set(xlabel=r"sentences $n$", ylabel="random words' / signals' scores")


def _generalisation(axes: Axes, grid: xr.Dataset) -> None:
    line = grid.isel(setting=_agree(grid, "m"))
    _by_start(axes, line, line["m"], "generalisation_then", None)
    m = np.unique(line["m"])
    axes.plot(m, 1 / m, color=BLACK, label="training loss, 1/m")
    axes.set(xlabel=r"width $m$", ylabel="loss on fresh sentences")
    _legend(axes, "lower left")


# ---------------------------------------------------------------------------------------------------------------- helpers


def _starts(grid: xr.Dataset) -> dict[float, str]:
    return dict(zip(sorted(set(grid["start"].values), reverse=True), _STARTS, strict=False))


def _first_start(grid: xr.Dataset) -> np.ndarray:
    return grid["start"].values == grid["start"].values.max()


def _agree(grid: xr.Dataset, *free: str) -> np.ndarray:
    """The settings that agree with the most frequent value of every coordinate but the free ones and the start."""
    chosen = np.ones(grid.sizes["setting"], bool)
    for name in COORDINATES:
        if name not in (*free, "start"):
            values, counts = np.unique(grid[name], return_counts=True)
            chosen &= grid[name].values == values[counts.argmax()]
    return chosen


def _by_start(axes: Axes, grid: xr.Dataset, x: xr.DataArray, name: str, paper: float | None) -> None:
    for start, colour in _starts(grid).items():
        chosen = grid["start"].values == start
        _fitted(axes, x[chosen], grid[name][chosen], colour, paper)


def _fitted(
    axes: Axes, x: xr.DataArray, y: xr.DataArray, colour: str, paper: float | None, label: str | None = None
) -> None:
    """All runs, their common fit, and the paper's exponent through the middle of it."""
    axes.set(xscale="log", yscale="log")
    told = np.isfinite(y.values) & (y.values > 0)
    at = np.broadcast_to(x.values[:, None], y.shape)[told]
    values = y.values[told]
    axes.plot(at, values, color=colour, **_DOTS)
    if len(np.unique(at)) < 2:
        return
    found, ends = slope(at, values), np.array([at.min(), at.max()])
    middle = np.exp(np.log(at).mean()), np.exp(np.log(values).mean())
    axes.plot(
        ends,
        middle[1] * (ends / middle[0]) ** found,
        color=colour,
        label=f"{label + ': ' if label else ''}slope {found:.2f}",
    )
    if paper is not None:
        axes.plot(ends, middle[1] * (ends / middle[0]) ** paper, **THEORY)
    _legend(axes, "best")
    if at.max() < 1000:
        _sizes(axes, x)


def _legend(axes: Axes, where: str) -> None:
    """A legend, unless too few runs are there to fit anything."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=where)


def _sizes(axes: Axes, x: xr.DataArray) -> None:
    axes.set_xticks(np.unique(x), [f"{each:g}" for each in np.unique(x)])
    axes.set_xticks([], minor=True)


def _curves(axes: Axes, grid: xr.Dataset, curves: xr.DataArray) -> None:
    """Median, and the range of all runs, of the widths at the base setting, for each start."""
    base = _agree(grid, "m")
    for start, colour in _starts(grid).items():
        values = curves.isel(setting=base & (grid["start"].values == start)).values.reshape(-1, grid.sizes["clock"])[
            :, 1:
        ]
        clock = grid["clock"].values[1:]
        axes.fill_between(clock, np.nanmin(values, 0), np.nanmax(values, 0), color=colour, alpha=0.2, linewidth=0)
        axes.plot(clock, np.nanmedian(values, 0), color=colour)
    axes.set_xlim(clock[0], clock[-1])
