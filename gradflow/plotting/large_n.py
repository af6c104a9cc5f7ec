"""Pictures of the limits of wide networks and many samples, from the three datasets of `observe.large_n`."""

from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from gradflow.observe.large_n import POPULATION, distance
from gradflow.plotting.style import BLUE, DISCRETE, GREEN, ORANGE, THEORY, panels, write
from gradflow.theory import max_margin
from gradflow.theory.discretisation import slope
from gradflow.theory.large_n import MANY_SAMPLES, exponent, from_population, limits

_SCALES = {0.5: (ORANGE, r"$\sigma_0 \propto m^{-1/2}$, the theorems'"), 1.0: (BLUE, r"$\sigma_0 \propto m^{-1}$")}
_LEVELS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.4, 1.45, 1.49)


def draw_all(random: xr.Dataset, orbits: xr.Dataset, diagram: xr.Dataset, folder: Path) -> list[Path]:
    """Draw both pictures into a folder."""
    drawn = {"convergence": convergence(random, orbits), "phase_diagram": phase_diagram(diagram)}
    return [write(figure, Path(folder) / f"{name}.png") for name, figure in drawn.items()]


def convergence(random: xr.Dataset, orbits: xr.Dataset) -> Figure:
    """Distance of random networks from the orbit flow against the width, and of both from the population against n."""
    with panels(1, 2, width=10.4, height=4.2) as (figure, (left, right)):
        _against_width(left, random, orbits)
        _against_samples(right, random, orbits)
        return figure


def _against_width(axes: Axes, random: xr.Dataset, orbits: xr.Dataset) -> None:
    n, widths = random["samples"].values[-1], random["width"].values
    for power, (colour, label) in _SCALES.items():
        chosen = {"samples": n, "exponent": power}
        apart = distance(random.sel(chosen), orbits.sel(chosen), "G")
        shift = 1.09 if power == 1.0 else 1 / 1.09  # side by side where both start alike
        for each in apart.transpose("seed", "width").values:
            axes.plot(widths * shift, each, color=colour, alpha=0.6, **DISCRETE)
        found, error = exponent(apart)
        name = rf"{label}: slope ${found:.3f} \pm {error:.3f}$"
        axes.plot(widths, apart.median("seed").transpose("width").values, color=colour, label=name)
    axes.plot(widths, apart.median("seed").values[0] * (widths / widths[0]) ** -0.5, label="slope $-1/2$", **THEORY)
    axes.set(xscale="log", yscale="log", xlabel="attention width $m$", ylabel=r"largest $|G - G_\mathrm{mean\ start}|$")
    axes.set_title(f"Random networks against the mean start, $n = {n:g}$")
    axes.legend(loc="lower left")


def _against_samples(axes: Axes, random: xr.Dataset, orbits: xr.Dataset) -> None:
    by_n = from_population(orbits, "G").sel(exponent=1.0).isel(width=-1)
    many = by_n.sel(samples=by_n["samples"] >= MANY_SAMPLES)
    found = slope(many["samples"].values, many.values)
    axes.plot(by_n["samples"], by_n, color=GREEN, marker="s", markersize=3.5, label=f"mean start: slope ${found:.4f}$")
    axes.plot(
        many["samples"],
        1.6 * many.values[0] * (many["samples"].values / many["samples"].values[0]) ** -1.0,
        label="slope $-1$",
        **THEORY,
    )
    apart = distance(random.sel(exponent=1.0), orbits.sel(exponent=1.0, samples=POPULATION), "G")
    start = distance(random.sel(exponent=1.0), orbits.sel(exponent=1.0), "G").median("seed").isel(samples=-1)
    for each, colour in ((0, ORANGE), (-1, BLUE)):
        m = int(random["width"][each])
        axes.plot(
            apart["samples"].values.repeat(apart["seed"].size),
            apart.isel(width=each).transpose("samples", "seed").values.ravel(),
            color=colour, label=f"random networks, $m = {m}$", **DISCRETE,
        )  # fmt: skip
        axes.axhline(float(start[each]), color=colour, linewidth=1, linestyle=":")
        axes.annotate(
            f"what a random start adds at $m = {m}$",
            (1, float(start[each])),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color=colour,
        )
    axes.set(
        xscale="log", yscale="log", xlabel="training sentences $n$", ylabel=r"largest $|G - G_\mathrm{population}|$"
    )
    axes.set_title(r"Both against the population, $\sigma_0 \propto m^{-1}$")
    axes.legend(loc="lower left")


def phase_diagram(diagram: xr.Dataset) -> Figure:
    """R at the end over n and L with its limit's contours, and its distance from that limit, which is slow on the border."""
    measured, limit = diagram["R"].isel(time=-1), limits(diagram)
    end = float(diagram["time"][-1])
    with panels(1, 2, width=11.0, height=4.4, sharey=True) as (figure, (left, right)):
        image = left.pcolormesh(measured["samples"], measured["L"], measured.values.T, cmap="viridis", vmin=0, vmax=1.5)
        figure.colorbar(image, ax=left, label=f"$R$ at $S_0 t$ = {end:.0e}")
        n, L = np.geomspace(*measured["samples"].values[[0, -1]], 90), np.geomspace(*measured["L"].values[[0, -1]], 45)
        predicted = [[max_margin.class_limits(each, length).R for each in n] for length in L]
        lines = left.contour(n, L, predicted, levels=_LEVELS, colors="white", linewidths=0.9)
        left.clabel(lines, fontsize=7, fmt="%g")
        off = abs(measured - limit).clip(1e-6)
        image = right.pcolormesh(off["samples"], off["L"], off.values.T, cmap="cividis", norm=LogNorm(1e-6, 3e-2))
        figure.colorbar(image, ax=right, label=r"$|R - R^*|$", extend="both")
        for axes in (left, right):
            axes.plot(max_margin.least_samples(L), L, color=ORANGE, label="border")
            axes.set(xscale="log", yscale="log", xlabel="training sentences $n$")
            axes.grid(False)
        left.set_ylabel("words in a sentence, $L$")
        return figure
