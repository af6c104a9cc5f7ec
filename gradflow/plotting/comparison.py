"""Pictures of discrete training against gradient flow.

`comparison` is a dataset of `observe.comparison`; `runs` maps names to labelled runs of `observe.cooccurrence`, the flow
as "trajectory" and first, descents by "gd_...", SGD by "sgd_...". Time is shown as S0 t.
"""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from gradflow.observe.phases import cooccurrence_events, unstable
from gradflow.plotting.style import BLACK, BLUE, DISCRETE, GREEN, ORANGE, RED, THEORY, panels, write
from gradflow.theory import cooccurrence
from gradflow.theory.discretisation import RESOLVED
from gradflow.theory.exponents import slope

Runs = Mapping[str, xr.Dataset]
_TIME = r"time, $S_0 t$"
_ORDERS = {1: (BLUE, "gradient flow"), 2: (ORANGE, "modified, order 2"), 3: (GREEN, "modified, order 3")}


def draw_all(comparison: xr.Dataset, runs: Runs, folder: Path) -> list[Path]:
    """Draw every picture into a folder."""
    runs = dict(sorted(runs.items(), key=lambda item: (_KINDS.index(_kind(item[0])), *_strength(item[1]))))
    of_comparison = {"distance": distance, "conservation": conservation}
    of_runs = {"stability": stability, "phases": phases, "claims": claims}
    return [write(draw(comparison), Path(folder) / f"{name}.png") for name, draw in of_comparison.items()] + [
        write(draw(runs), Path(folder) / f"{name}.png") for name, draw in of_runs.items()
    ]


def distance(comparison: xr.Dataset) -> Figure:
    """Distance of descent from flow: against the learning rate by order, and over time with what the certificate told."""
    sharpest = float(comparison["sharpness"].max())
    rates = comparison["learning_rate"].values
    resolved = rates * sharpest <= RESOLVED * (1 + 1e-9)
    with panels(1, 2, width=9.6, height=3.9) as (figure, (left, right)):
        for order, (colour, label) in _ORDERS.items():
            values = comparison["distance_from_order"].sel(order=order).values
            exponent = slope(rates[resolved], values[resolved]) if resolved.sum() > 1 else np.nan
            line = values[0] * (rates / rates[0]) ** order
            left.plot(rates * sharpest, line, color=colour, linewidth=1, label=f"{label}: slope {exponent:.3f}")
            left.plot(rates * sharpest, values, color=colour, **DISCRETE)
        left.set(
            xscale="log", yscale="log", xlabel="learning rate x largest sharpness", ylabel="|descent - flow| at the end"
        )
        left.set_xticks(rates * sharpest, [f"{rate * sharpest:.2g}" for rate in rates])
        left.set_xticks([], minor=True)
        left.set_title("Order of the distance (lines: slopes 1, 2, 3)")
        left.legend()
        _over_time(right, comparison, comparison["distance"], comparison["predicted_distance"])
        right.set(yscale="log", ylabel="|descent - flow|", title="Distance: measured, and told by the certificate")
        right.set_ylim(bottom=right.get_ylim()[0] / 3)
        right.legend(title="learning rate x sharpness", loc="lower center", ncols=4)
        return figure


def conservation(comparison: xr.Dataset) -> Figure:
    """What flow conserves and descent breaks: the change measured, told, and left, for the matrices C1 and C2."""
    with panels(1, 2, width=9.6, height=3.7) as (figure, axes):
        for ax, quantity in zip(axes, ("C1", "C2"), strict=True):
            moved, told, left = (
                comparison[name].sel(quantity=quantity) for name in ("drift", "predicted_drift", "drift_residual")
            )
            _over_time(ax, comparison, moved, told)
            for row in left.values:
                ax.plot(_clock(comparison), row[1:], color="0.6", linewidth=0.9)
            ax.plot([], [], color="0.6", linewidth=0.9, label="what is left")
            ax.set(yscale="log", ylabel=f"|change of {quantity}|")
        axes[0].set_title(r"$C_1 = W_K W_K^\top - W_Q W_Q^\top$ under descent")
        axes[1].set_title(r"$C_2 = W^\top W - W_V W_V^\top$ under descent")
        axes[0].legend(title="learning rate x sharpness", ncols=2)
        return figure


def stability(runs: Runs) -> Figure:
    """Learning rate times sharpness along each descent, and its loss: above 2 no flow describes it."""
    with panels(2, 1, width=7.0, height=6.4, sharex=True) as (figure, (top, bottom)):
        shown = {name: run for name, run in runs.items() if _kind(name) != "sgd"}
        for name, run in shown.items():
            style = _style(name, runs)
            clock, loss = float(run["S0"]) * run["time"].values, run["loss"].values
            bottom.plot(clock, loss, **style)
            if name == "trajectory":
                continue
            product, beyond = run.attrs["learning_rate"] * run["sharpness"].values, unstable(run)
            top.plot(clock, product, **style)
            for ax, values in ((top, product), (bottom, loss)):
                ax.plot(clock[beyond], values[beyond], "o", color=style["color"], markersize=4)
        top.axhline(2, **THEORY)
        first = min(_clock(run)[0] for name, run in shown.items() if name != "trajectory")
        top.set_xscale("symlog", linthresh=first)
        top.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=first))
        top.set(yscale="log", ylabel="learning rate x sharpness", xlim=(0, _clock(runs["trajectory"])[-1]))
        top.set_title("Where flow stops describing descent: learning rate x sharpness above 2 (dots)")
        bottom.set(yscale="log", xlabel=_TIME, ylabel="training loss")
        bottom.legend(loc="lower left")
        return figure


def phases(runs: Runs) -> Figure:
    """Balance of gradients and loss by class of the flow, of descent at several rates, and of SGD at several batch sizes."""
    kinds = {"gd": "gradient descent, rate (x sharpness at the start)", "sgd": "SGD without replacement"}
    with panels(2, 2, width=10.4, height=7.4, sharex=True, sharey="row") as (figure, axes):
        for column, (kind, title) in zip(axes.T, kinds.items(), strict=True):
            shown = [name for name in runs if _kind(name) == kind]
            for name in (*shown, "trajectory"):
                run, style = runs[name], _style(name, runs)
                S0 = float(run["S0"])
                column[0].plot(_clock(run), run["R"].values[1:], **style)
                for names, line in ((["I1"], "-"), (["I2", "I3"], "--")):
                    values = run["loss_by_class"].sel(sentence_class=names).mean("sentence_class").values[1:]
                    column[1].plot(_clock(run), values, **(style | {"linestyle": line, "label": None}))
                t1 = cooccurrence_events(run)["T1"].time
                if np.isfinite(t1) and t1 > 0:
                    column[1].plot(
                        S0 * t1,
                        np.interp(t1, run["time"], run["loss"]),
                        "v",
                        color=style["color"],
                        markersize=6,
                        zorder=5,
                    )
            column[0].set(ylim=(-0.5, 3.5))
            column[0].axhline(1, color="0.8", linewidth=0.8, zorder=0)
            column[0].legend(
                title=title, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, alignment="left", title_fontsize=10
            )
            column[1].set(xscale="log", yscale="log", xlabel=_TIME)
            column[1].set_xlim(left=0.05)
        axes[0, 0].set_ylabel(r"$R = (s_2+s_3+s_4-s_1)/(s_1-s_2)$")
        axes[1, 0].set_ylabel("loss by class")
        for label, line in (("both signals, $I_1$", "-"), ("one signal, $I_2$ and $I_3$", "--")):
            axes[1, 0].plot([], [], color="0.3", linestyle=line, label=label)
        axes[1, 0].plot([], [], "v", color="0.3", label="$T_1$, on the total loss")
        axes[1, 0].legend(loc="lower left")
        return figure


def claims(runs: Runs) -> Figure:
    """Which claims of the theory survive: those on which the runs do not agree, or that fail in all, by run."""
    verdicts = {_label(name, run): cooccurrence.claims(run) for name, run in runs.items()}
    table = np.array([[_VERDICTS[claim.holds] for claim in column] for column in verdicts.values()]).T
    shown = (table != table[:, :1]).any(axis=1) | (table == _VERDICTS[False]).any(axis=1)
    names = [claim.name for claim in next(iter(verdicts.values()))]
    rows = [name[:69] for name, keep in zip(names, shown, strict=True) if keep]
    agreed = int((table[~shown, 0] == _VERDICTS[True]).sum())
    with panels(width=5.6 + 0.48 * len(verdicts), height=1.5 + 0.24 * len(rows)) as (figure, axes):
        axes.imshow(table[shown], cmap=ListedColormap([RED, "0.88", BLUE]), vmin=-1, vmax=1, aspect="auto", alpha=0.75)
        axes.set(xticks=range(len(verdicts)), yticks=range(len(rows)), yticklabels=rows)
        axes.set_xticklabels(verdicts, rotation=60, ha="right")
        axes.grid(False)
        axes.set_xticks(np.arange(len(verdicts)) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(rows)) - 0.5, minor=True)
        axes.grid(True, which="minor", color="white", linewidth=1.2)
        axes.tick_params(which="minor", length=0)
        figure.suptitle(
            f"Claims: blue holds, orange fails, grey cannot be told; {agreed} more hold in every run",
            x=0.01,
            ha="left",
            fontsize=10,
        )
        return figure


_KINDS = ("trajectory", "gd", "sgd")
_VERDICTS = {True: 1, False: -1, None: 0}


def _over_time(axes: Axes, comparison: xr.Dataset, measured: xr.DataArray, told: xr.DataArray) -> None:
    """A measured quantity (circles) over what was told of it (lines), by learning rate."""
    sharpest = float(comparison["sharpness"].max())
    rates = comparison["learning_rate"].values
    for rate, colour, circles, line in zip(rates, _shades(len(rates)), measured.values, told.values, strict=True):
        axes.plot(_clock(comparison), line[1:], color=colour, label=f"{rate * sharpest:.3g}")
        axes.plot(_clock(comparison), circles[1:], color=colour, **DISCRETE)
    axes.set_xlabel(_TIME)


def _clock(run: xr.Dataset) -> np.ndarray:
    """S0 t at the save points after the start."""
    return float(run.attrs["S0"] if "S0" in run.attrs else run["S0"]) * run["time"].values[1:]


def _style(name: str, runs: Runs) -> dict:
    """Colour and label of a run among its kind; the flow is black and wide."""
    if name == "trajectory":
        return {"color": BLACK, "linewidth": 2.2, "label": "gradient flow", "zorder": 1.5}
    peers = [each for each in runs if _kind(each) == _kind(name)]
    return {"color": _shades(len(peers))[peers.index(name)], "linewidth": 1.3, "label": _label(name, runs[name])}


def _label(name: str, run: xr.Dataset) -> str:
    """What a run is called; a descent with its learning rate, and in brackets that times the sharpness at the start."""
    product = run.attrs["learning_rate"] * float(run["sharpness"][0])
    return run.attrs["label"] + (f" ({product:.2g})" if _kind(name) == "gd" else "")


def _kind(name: str) -> str:
    return name.split("_")[0]


def _strength(run: xr.Dataset) -> tuple:
    return run.attrs["learning_rate"], -run.attrs["batch_size"]


def _shades(count: int) -> np.ndarray:
    """Distinct shades from dark to light, for values in order."""
    return matplotlib.colormaps["plasma"](np.linspace(0.05, 0.85, count))
