"""Pictures of the limits of wide networks and many samples, from the three datasets of `observe.large_n`."""

from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from gradflow.observe.large_n import POPULATION, distance
from gradflow.plotting.diagram import cells
from gradflow.plotting.style import BLUE, DISCRETE, GREEN, ORANGE, PINK, THEORY, panels, power_of_ten, write
from gradflow.theory import four_point, max_margin
from gradflow.theory.exponents import slope
from gradflow.theory.large_n import CONFIDENCE, MANY_SAMPLES, from_population, limits, of_width

_SCALES = {0.5: (ORANGE, r"$\sigma_0 \propto m^{-1/2}$, the theorems'"), 1.0: (BLUE, r"$\sigma_0 \propto m^{-1}$")}
_LEVELS = (0.5, 1.0, 1.4, 1.49, 1.499, 1.4999)


def draw_all(random: xr.Dataset, orbits: xr.Dataset, diagram: xr.Dataset, folder: Path) -> list[Path]:
    """Draw both pictures into a folder."""
    drawn = {"convergence": convergence(random, orbits), "phase_diagram": phase_diagram(diagram)}
    return [write(figure, Path(folder) / f"{name}.png") for name, figure in drawn.items()]


def convergence(random: xr.Dataset, orbits: xr.Dataset) -> Figure:
    """Distance of random networks from the flow of the mean start against the width, and of both from the population against n."""
    with panels(1, 2, width=10.4, height=4.2) as (figure, (left, right)):
        _against_width(left, random, orbits)
        _against_samples(right, random, orbits)
        return figure


def phase_diagram(diagram: xr.Dataset) -> Figure:
    """Where R ends over n and L, with the predicted contours; and its distance from R*, which stays on the border."""
    n, L, end = diagram["samples"].values, diagram["L"].values, float(diagram["time"][-1])
    R, limit = (each.transpose("L", "samples").values for each in (diagram["R"].isel(time=-1), limits(diagram)))
    late = f"$S_0 t = {power_of_ten(end)}$"
    with panels(1, 2, width=10.8, height=4.4, sharey=True) as (figure, (left, right)):
        short, apart = np.maximum(four_point.LIMIT_R - R, 1e-6), abs(R - limit)
        cells(left, n, L, short, norm=LogNorm(1e-5, 10), cmap="YlGnBu", label=f"$3/2 - R$ at {late}", extend="both")
        cells(right, n, L, apart, norm=LogNorm(1e-5, 2e-2), cmap="magma", label=f"$|R - R^*|$ at {late}", extend="both")
        fine_n, fine_L = np.geomspace(n[0], n[-1], 90), np.geomspace(L[0], L[-1], 45)
        predicted = [[max_margin.class_limits(each, length).R for each in fine_n] for length in fine_L]
        lines = left.contour(fine_n, fine_L, predicted, levels=_LEVELS, colors="black", linewidths=0.8)
        left.clabel(lines, fontsize=8, fmt="%g")
        left.plot([], [], color="black", linewidth=0.8, label="$R^*$, predicted")
        for axes in (left, right):
            axes.plot(max_margin.least_samples(fine_L), fine_L, color=ORANGE, linewidth=2, label="border: $I_4$ tight")
            axes.plot(fine_L**2, fine_L, color=PINK, linestyle="--", linewidth=1.6, label="$n = L^2$, Condition 1")
            axes.set(xlabel="training sentences $n$")
        left.set(ylabel="words in a sentence, $L$", title="Balance of gradients at the end")
        right.set_title("Distance from the predicted balance")
        left.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")
        return figure


def _against_width(axes: Axes, random: xr.Dataset, orbits: xr.Dataset) -> None:
    n, widths = random["samples"].values[-1], random["width"].values
    for (power, (colour, label)), aside in zip(_SCALES.items(), (1 / 1.09, 1.09), strict=True):  # both start alike
        chosen = {"samples": n, "exponent": power}
        apart = distance(random.sel(chosen), orbits.sel(chosen), "G")
        for each in apart.transpose("seed", "width").values:
            axes.plot(widths * aside, each, color=colour, alpha=0.6, **DISCRETE)
        found = of_width(apart)
        median = apart.median("seed").values
        axes.plot(
            widths,
            median,
            color=colour,
            label=rf"{label}: slope ${found.mean:.3f} \pm {found.half:.3f}$ ({CONFIDENCE:.1%})",
        )
    axes.plot(widths, median[0] * (widths / widths[0]) ** -0.5, label="slope $-1/2$", **THEORY)
    axes.set(xscale="log", yscale="log", xlabel="attention width $m$", ylabel=r"largest $|G - G_\mathrm{mean\ start}|$")
    axes.set_title(f"Random networks against the mean start, $n = {n:g}$")
    axes.set_ylim(bottom=axes.get_ylim()[0] / 3)  # room for the legend
    axes.legend(loc="lower left")


def _against_samples(axes: Axes, random: xr.Dataset, orbits: xr.Dataset) -> None:
    by_n = from_population(orbits, "G").sel(exponent=1.0).isel(width=-1)
    many = by_n.sel(samples=by_n["samples"] >= MANY_SAMPLES)
    n = many["samples"].values
    label = f"mean start: slope ${slope(n, many.values):.4f}$" if n.size > 1 else "mean start"
    axes.plot(by_n["samples"], by_n, color=GREEN, marker="s", markersize=3.5, label=label)
    if n.size:
        axes.plot(n, 1.7 * many.values[0] * n[0] / n, label="slope $-1$", **THEORY)
    wide = random.sel(exponent=1.0)
    from_mean = distance(wide, orbits.sel(exponent=1.0), "G").isel(samples=-1).median("seed")
    apart = distance(wide, orbits.sel(exponent=1.0, samples=POPULATION), "G").transpose("width", "samples", "seed")
    for each, colour, x, side in ((0, ORANGE, 0.99, "right"), (-1, BLUE, 0.01, "left")):
        m, added = int(random["width"][each]), float(from_mean[each])
        of_each = apart["samples"].values.repeat(apart["seed"].size)
        axes.plot(of_each, apart[each].values.ravel(), color=colour, label=f"random networks, $m = {m}$", **DISCRETE)
        axes.axhline(added, color=colour, linewidth=1, linestyle=":")
        axes.annotate(f"a random start at $m = {m}$ adds", (x, added), xycoords=("axes fraction", "data"),
            ha=side, va="bottom", fontsize=8, color=colour)  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="training sentences $n$", ylabel=r"largest $|G - G_\mathrm{population}|$"
    )
    axes.set_title(r"Both against the population, $\sigma_0 \propto m^{-1}$")
    axes.legend(loc="lower left")
