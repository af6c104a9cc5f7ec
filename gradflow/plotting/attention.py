"""Pictures of where attention matters, from the datasets of `observe.attention`."""

from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from gradflow.observe.attention import advantage, largest_score, part
from gradflow.plotting.style import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, panels, write
from gradflow.theory.attention import BORDER, border, predicted_score

_SIZE = r"$m\,m_1$"
_GAIN = "loss with attention frozen / loss, less 1"
_MARKED = {"theorems": ("*", "theorems' regime"), "experiment": ("X", "paper's experiment")}
_REGIMES = {
    "theorems": "the theorems' regime",
    "experiment": "the paper's experiment",
    "large values": r"narrow, $\sigma_0 \gg \sigma_1$",
    "rich": "narrow, small weights",
}


def draw_all(population: xr.Dataset, samples: xr.Dataset, networks: xr.Dataset, folder: Path) -> list[Path]:
    """Draw every picture into a folder."""
    drawn = {
        "diagrams": diagrams(population, samples),
        "regimes": regimes(population),
        "prediction": prediction(population, samples, networks),
    }
    return [write(figure, Path(folder) / f"{name}.png") for name, figure in drawn.items()]


def diagrams(population: xr.Dataset, samples: xr.Dataset) -> Figure:
    """What attention does for the loss, over width and scales, width and richness, width and samples; with the predicted border."""
    L, end = population.attrs["L"], float(population["time"][-1])
    scales, richness = (part(population, name) for name in ("scales", "richness"))
    with panels(1, 3, width=12.6, height=4.2) as (figure, (left, middle, right)):
        values = np.unique(scales["values"])
        ratio = values / (1 - values)
        mesh = _diagram(left, scales, ratio)
        _predicted(left, [border(each, 1e-6, L, end) for each in values], ratio)
        left.set(ylabel=r"$\sigma_0^2 / \sigma_1^2$", title=r"(a) scales of the weights, $\varepsilon = 10^{-6}$")
        rich = np.unique(richness["richness"])
        _diagram(middle, richness, rich)
        _predicted(middle, [border(0.5, each, L, end) for each in rich], rich)
        middle.set(ylabel=r"richness $\varepsilon$", title=r"(b) lazy to rich, $\sigma_0 = \sigma_1$")
        of_samples = part(samples, "samples")
        _diagram(right, of_samples, np.unique(of_samples["n"]))
        right.set(ylabel="training sentences n", title=r"(c) samples, $\varphi = 0.99$, $\varepsilon = 0.01$")
        for axes, vertical in ((left, lambda m: float(m["values"] / (1 - m["values"]))), (middle, lambda m: float(m["richness"]))):  # fmt: skip
            for name, (marker, label) in _MARKED.items():
                member = part(population, name).isel(member=0)
                axes.plot(float(member["size"]), vertical(member), marker, color="white", markeredgecolor=BLACK, markersize=11, label=label, linestyle="none")  # fmt: skip
        left.legend(loc="upper right", frameon=True, framealpha=0.9)
        middle.plot([], [], color="white", linewidth=2.2, label=f"scores move by {BORDER:g}")
        middle.plot([], [], color=RED, linestyle=(0, (4, 2)), linewidth=2, label="predicted")
        middle.legend(loc="upper right", frameon=True, facecolor="0.6", framealpha=0.9)
        figure.colorbar(mesh, ax=[left, middle, right], label=_GAIN, pad=0.01)
        return figure


def regimes(population: xr.Dataset) -> Figure:
    """The two phases in four regimes: losses by class with attention and without, scores, and the work of each matrix."""
    with panels(3, 4, width=12.6, height=8.0, sharex=True, sharey="row") as (figure, axes):
        for column, (name, title) in zip(axes.T, _REGIMES.items(), strict=True):
            member = part(population, name).isel(member=0, time=slice(1, None))
            t = member["time"].values
            classes = {"I1": (GREEN, "$I_1$: both"), "I2": (ORANGE, "$I_2, I_3$: one"), "I4": (PINK, "$I_4$: neither")}
            for word_class, (colour, label) in classes.items():
                column[0].plot(t, member["loss_by_class"].sel(sentence_class=word_class), color=colour, label=label)
                column[0].plot(t, member["loss_by_class_frozen"].sel(sentence_class=word_class), color=colour, linestyle=":", linewidth=1.1)  # fmt: skip
            for (key, query), colour in {("mu2", "mu1"): BLUE, ("mu3", "mu1"): RED, ("mu1", "mu1"): SKY}.items():
                label = rf"$\mu_{key[-1]}$ from $\mu_{query[-1]}$"
                column[1].plot(t, member["score"].sel(key=key, query=query), color=colour, label=label)
            work = member["work"] / member["work"].sum("matrix")
            parts = [work.sel(matrix="W"), work.sel(matrix="W_V"), work.sel(matrix=["W_K", "W_Q"]).sum("matrix")]
            column[2].stackplot(
                t, *parts, colors=[SKY, ORANGE, RED], labels=["$W$", "$W_V$", "$W_K, W_Q$"], linewidth=0
            )
            share = float(parts[2][-1])
            column[2].text(
                0.98,
                0.96,
                f"$W_K, W_Q$: {100 * share:.1g} %",
                transform=column[2].transAxes,
                ha="right",
                va="top",
                fontsize=9,
            )
            size = float(member["size"])
            column[0].set_title(f"{title}\n" + rf"$\varphi = {float(member['values']):.2g}$, $\varepsilon = {_power(float(member['richness']))}$, $m m_1 = {size:.0f}$", fontsize=9)  # fmt: skip
            column[0].set(xscale="log", yscale="log")
            column[1].set_yscale("symlog", linthresh=1e-5)
            column[2].set(xlabel=r"time in the readout's clock, $\tau$", ylim=(0, 1))
        axes[0, 0].set_ylabel("loss by class\n(dotted: attention frozen)")
        axes[1, 0].set_ylabel("change of the score\n$A / \\sqrt{m}$ (key from query)")
        axes[2, 0].set_ylabel("part in the fall of the loss")
        axes[0, 0].legend(loc="lower left")
        axes[1, 0].legend(loc="upper left")
        axes[2, 0].legend(loc="lower left", frameon=True, framealpha=0.9)
        return figure


def prediction(population: xr.Dataset, samples: xr.Dataset, networks: xr.Dataset) -> Figure:
    """Scores and their effect on the loss against the prediction, for all members; random networks against their mean start."""
    end = population.isel(time=-1)
    told, score, gain = predicted_score(population), largest_score(end).values, advantage(end).values - 1
    colour = dict(c=np.log10(end["richness"].values), cmap="viridis", s=9, linewidths=0)
    with panels(1, 3, width=12.6, height=4.0) as (figure, (left, middle, right)):
        span = np.array([told.min(), told.max()])
        left.plot(span, span, color="0.3", linewidth=1, label="as predicted")
        points = left.scatter(told, score, **colour)
        left.axhline(BORDER, color=RED, linewidth=0.9, linestyle="--", label=f"border, {BORDER}")
        left.set(xscale="log", yscale="log", xlabel="predicted change of the largest score", ylabel="measured")
        left.set_title(f"(a) {end.sizes['member']} initialisations and widths")
        left.legend(loc="upper left")
        middle.scatter(score, gain, **colour)
        middle.axvline(BORDER, color=RED, linewidth=0.9, linestyle="--")
        middle.set(xscale="log", yscale="log", xlabel="change of the largest score", ylabel=_GAIN)
        middle.set_title("(b) what it does for the loss")
        figure.colorbar(points, ax=[left, middle], label=r"$\log_{10} \varepsilon$", pad=0.01)
        mean_start = largest_score(part(samples, "mean start").isel(time=-1)).values
        for kind, hue in enumerate((BLUE, ORANGE, GREEN)):
            network = networks.isel(kind=kind)
            label = f"m = {int(network['m'])}, $m_1$ = {int(network['m1'])}, $\\varphi$ = {float(network['values']):g}, $\\varepsilon$ = {float(network['richness']):g}"  # fmt: skip
            right.plot(np.full(networks.sizes["seed"], mean_start[kind]), network["score"], "o", color=hue, markersize=4, label=label)  # fmt: skip
        span = np.array([mean_start.min(), mean_start.max()])
        right.plot(span, span, color="0.3", linewidth=1, label="equal")
        right.set(xscale="log", yscale="log", xlabel="largest score from the mean start", ylabel="from random weights")
        right.set_title(f"(c) random networks, n = {networks.attrs['n']}")
        right.legend(loc="upper left", fontsize=7)
        return figure


def _diagram(axes: Axes, diagram: xr.Dataset, other: np.ndarray):
    """Attention's gain over size and the other axis, with the measured border."""
    size, end = np.unique(diagram["size"]), diagram.isel(time=-1)
    gain, score = (each.values.reshape(other.size, size.size) for each in (advantage(end) - 1, largest_score(end)))
    mesh = axes.pcolormesh(
        size, other, gain, norm=LogNorm(1e-4, 10), cmap="cividis", shading="nearest", rasterized=True
    )
    axes.contour(
        size, other, np.log(score), levels=[np.log(BORDER)], colors="white", linewidths=2.2, linestyles="solid"
    )
    axes.set(xscale="log", yscale="log", xlabel=_SIZE)
    axes.grid(False)
    return mesh


def _predicted(axes: Axes, size: np.ndarray, other: np.ndarray) -> None:
    """The predicted border."""
    limits = axes.get_xlim(), axes.get_ylim()
    axes.plot(size, other, color=RED, linestyle=(0, (4, 2)), linewidth=2)
    axes.set(xlim=limits[0], ylim=limits[1])


def _power(value: float) -> str:
    exponent = int(np.floor(np.log10(value)))
    return f"{value / 10.0**exponent:.2g} \\cdot 10^{{{exponent}}}"
