"""Pictures of a sweep of the co-occurrence simulation over attention width m and scale sigma1 of W: T1, and the balance of gradients."""

import json
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from gradflow.errors import require
from gradflow.observe.phase_diagram import mean_start
from gradflow.plotting.diagram import cells
from gradflow.plotting.style import BLACK, BLUE, RED, THEORY, panels, power_of_ten, write
from gradflow.theory import max_margin

_OVER = {"xlabel": "attention width $m$", "ylabel": r"$\sigma_1$"}


def draw_all(sweep: xr.Dataset, folder: Path) -> list[Path]:
    """Draw the picture of a sweep, as `open_sweep` reads it, into a folder."""
    return [write(one_page(sweep), Path(folder) / "phase_diagram.png")]


def one_page(sweep: xr.Dataset) -> Figure:
    """T1 with the mean start's contours; what random outputs at the start add to it; and the balance, at the end and on the way."""
    axes = set(sweep["done"].dims)
    require(
        axes == {"m", "sigma1", "seed"} and min(sweep.sizes["m"], sweep.sizes["sigma1"]) > 1,
        f"The diagram is over seeds and two or more values of m and of sigma1; this sweep is over {dict(sweep['done'].sizes)}.",
    )
    base = json.loads(sweep.attrs["base"])
    require(base["random_words"] == "unique", "The mean start is that of unique random words; these are iid.")
    require(
        bool(np.isfinite(sweep["T1"]).any()), "No member of this sweep has come to the end of Phase 1 and twice as far."
    )
    sweep = sweep.sortby(["m", "sigma1"])  # a sweep that has grown has its new values last
    sizes = {name: base[name] for name in ("n", "L", "m1", "sigma0", "initialisation")}
    n, L, m1 = (sizes[name] for name in ("n", "L", "m1"))
    m, sigma1 = sweep["m"].values, sweep["sigma1"].values
    told = mean_start(m, sigma1, **sizes)
    with panels(2, 2, width=11.0, height=8.6) as (figure, ((top_left, top_right), (left, right))):
        t1, R = (sweep[name].median("seed").transpose("sigma1", "m").values for name in ("T1", "R_at_end"))
        cells(top_left, m, sigma1, t1, norm=LogNorm(), cmap="viridis", label="$T_1$, median over seeds")
        for label, values, style in (
            ("measured, a contour each decade", t1, {"colors": "white", "linewidths": 2.0}),
            ("from the mean start", told["T1"].values, {"colors": RED, "linewidths": 1.6, "linestyles": "dashed"}),
        ):
            top_left.contour(m, sigma1, np.log10(values), levels=range(-9, 10), **{"linestyles": "solid"} | style)
            top_left.plot([], [], color=style["colors"], linestyle=style.get("linestyles", "solid"), label=label)
        top_left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=True, facecolor="0.75")
        top_left.set(title=f"(a) End of Phase 1, $n = {n}$, $L = {L}$, $m_1 = {m1}$", **_OVER)
        _against_outputs(top_right, sweep, told)
        limit, late = max_margin.class_limits(n, L).R, f"$S_0 t = {power_of_ten(float(sweep['clock'][-1]))}$"
        cells(left, m, sigma1, R - limit, norm=Normalize(0, 0.03), cmap="cividis", label=f"$R - R^*$ at {late}, median over seeds", extend="both")  # fmt: skip
        left.set(title=f"(c) Balance of gradients: $R$ = {np.nanmin(R):.3f} to {np.nanmax(R):.3f}, $R^*$ = {limit:.3f}", **_OVER)  # fmt: skip
        _along_training(right, sweep, limit)
        return figure


def _against_outputs(axes: Axes, sweep: xr.Dataset, told: xr.Dataset) -> None:
    """T1 over that of the mean start, against the largest output at the start."""
    dims = ("m", "sigma1", "seed")
    ratio, output = (each.transpose(*dims) for each in (sweep["T1"] / told["T1"], sweep["initial_output"]))
    colour = np.broadcast_to(np.log2(sweep["m"].values)[:, None, None], ratio.shape)
    points = axes.scatter(
        output.values.ravel(), ratio.values.ravel(), c=colour.ravel(), s=7, cmap="viridis", linewidths=0
    )
    axes.figure.colorbar(points, ax=axes, label=r"$\log_2 m$")
    axes.axhline(1, **THEORY)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="largest output at the start, $|F(0)|$",
        ylabel="$T_1$ / that of the mean start",
    )
    axes.set_title("(b) What random outputs at the start cost")


def _along_training(axes: Axes, sweep: xr.Dataset, limit: float) -> None:
    """R over time in units of each member's own T1: the median and the middle 90 % of all members."""
    over = np.geomspace(0.1, 1e4, 121)
    stacked = sweep[["R", "T1_clock"]].stack(member=("m", "sigma1", "seed"))
    clock = sweep["clock"].values
    lines = np.array(
        [
            np.interp(over * t1, clock, R, left=np.nan, right=np.nan)
            for R, t1 in zip(stacked["R"].transpose("member", "clock").values, stacked["T1_clock"].values, strict=True)
            if np.isfinite(t1)
        ]
    )
    seen = np.isfinite(lines).any(axis=0)
    over, (low, middle, high) = over[seen], np.nanquantile(lines[:, seen], (0.05, 0.5, 0.95), axis=0)
    axes.fill_between(over, low, high, color=BLUE, alpha=0.25, linewidth=0, label=f"90 % of {len(lines)} runs")
    axes.plot(over, middle, color=BLUE, label="median")
    axes.axhline(limit, label="limit $R^*$ (max-margin)", **THEORY)
    axes.axvline(1, color=BLACK, linewidth=0.8)
    axes.set(xscale="log", xlabel="$t / T_1$", ylabel="$R$", ylim=(-1, 2.5), title="(d) Balance along training")
    axes.legend(loc="lower right")
