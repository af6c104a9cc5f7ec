"""The look: sizes, colours, how phases are shaded, how a figure is written."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = matplotlib.color_sequences["okabe_ito"]

THEORY = {"color": "0.15", "linestyle": (0, (4, 2)), "linewidth": 1.1}
DISCRETE = {"linestyle": "none", "marker": "o", "markersize": 3.2, "markerfacecolor": "white", "markeredgewidth": 0.9}

_RC = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
}


@contextlib.contextmanager
def panels(
    rows: int = 1, columns: int = 1, *, width: float = 6.4, height: float = 3.6, **options
) -> Iterator[tuple[Figure, Axes]]:
    """A figure in the package's look, with its axes (an array for more than one)."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height))
        yield figure, figure.subplots(rows, columns, **options)


def shade_phases(axes: Axes, t1: float, *, label: bool = True) -> None:
    """Tint Phase 1 (until t1) and name both phases at the top; nothing where t1 is not finite."""
    if not t1 < float("inf"):
        return
    left, right = axes.get_xlim()
    axes.axvspan(left, t1, color=SKY, alpha=0.13, linewidth=0, zorder=0)
    axes.axvline(t1, color=BLUE, linewidth=0.8, alpha=0.7)
    axes.set_xlim(left, right)
    if label:
        for x, text, side in ((t1, "Phase 1 ", "right"), (t1, " Phase 2", "left")):
            axes.annotate(text, (x, 1), xycoords=("data", "axes fraction"), ha=side, va="top", fontsize=8, color=BLUE)


def write(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return path


def power_of_ten(value: float) -> str:
    """The number to three digits, as LaTeX: 10^8, or 3 x 10^7."""
    digits, power = f"{value:.2e}".split("e")
    times = "" if float(digits) == 1 else rf"{float(digits):g} \times "
    return f"{times}10^{{{int(power)}}}"
