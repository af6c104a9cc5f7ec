"""The theorems and lemmas of Yang et al. (2024), arXiv 2410.09605, held to a grid of runs: each with a verdict.

A statement about orders cannot be told from one run: its constant is free. On a grid (`observe.scaling`) it can: what is
measured, over what the paper says of it, must neither grow nor fall with the sizes. For each of n, L, m, m1 that the grid varies
by a factor of 4 or more (which the presets of `simulations.theory_check` do not for L: the vocabulary grows like n L; and sigma1,
where the statement names it), such a TREND is the exponent of that ratio in that variable, all others fixed: least squares
on logarithms for each seed, and the 95 % interval of Student's t for the mean over the seeds.

    order     what the verdict asks of measured / scale              constant that is shown
    Theta     positive; every trend's interval meets [-w, w]         median over the runs
    O         no trend's interval lies above w                       largest
    Omega     positive; no trend's interval lies below -w            least
    1/poly    every trend in m lies below -w, w with room for log m  the exponent in m
    within    every run lies between two given numbers               median over the runs

A trend is told from three values or more that span a factor of 4. It is no growth or fall if it levels off: corrections at finite
size are of relative order 1/x (the late limits are rational in 1/n), and `levels_off` tells them from powers of x and of log x.
Where it does not and the verdict depends on it, the verdict is that it cannot be told. w is 0.05. A tilde hides powers of
logarithms of n L m m1; for one such power w grows by the exponent that it has along the trend. A bound whose ratio falls along
some trend holds "with room". What fails on the grid, or cannot be told from its trends, is tried under each of `CONDITIONS`, then
under two at once: "holds only when" and "holds when" name the first under which it holds with at least one trend left in
every variable. Nothing else enters a verdict.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from scipy.stats import f as fisher

from gradflow.observe.scaling import COORDINATES
from gradflow.theory.claims import Claim
from gradflow.theory.exponents import Exponent, exponent, slope

TOLERANCE = 0.05
LEAST_SEEDS, LEAST_VALUES, LEAST_SPAN = 3, 3, 4.0


def levels_off(x: np.ndarray, values: np.ndarray) -> bool | None:
    """Whether `values` (seed, x) level off; None where they may, and may as well go as a power of x or of log x.

    To level off is c (1 + b/x)^k with k = 1, -1, 2 or -2 and |b| < max x: a constant, and a correction that at the largest x
    is smaller than it. (2: Gram matrices and scores are products of G's.) Each family has two numbers a seed, and one is told
    from another where its sum of squared residuals is less by the 95 % point of Fisher's F. They do not level off where
    a power of x is told from it, or where they bend the other way.
    """
    order = np.argsort(x)
    slopes = np.diff(np.log(values).mean(axis=0)[order]) / np.diff(np.log(x[order]))
    if abs(slopes[-1]) >= abs(slopes[0]):
        return False
    power = _misfit(np.log(x), values)
    logarithm = _misfit(np.log(np.log(x)), values) if x.min() > 1 else math.inf
    levels = math.inf
    for k in (1, -1, 2, -2):
        y = values ** (1 / k)
        basis = np.stack([1 / y, 1 / (x * y)], axis=-1)  # residuals relative to y, as those of logarithms are
        c_and_cb = np.linalg.solve(basis.mT @ basis, basis.mT @ np.ones((*y.shape, 1)))
        near = (c_and_cb[:, 0] > 0) & (np.abs(c_and_cb[:, 1]) < x.max() * c_and_cb[:, 0])
        if near.all():
            levels = min(levels, k**2 * ((basis @ c_and_cb - 1) ** 2).sum())
    freedom = len(values) * (len(x) - 2)
    told = fisher.ppf(0.95, freedom, freedom)
    return True if told * levels < min(power, logarithm) else False if levels > told * power else None


def _misfit(basis: np.ndarray, values: np.ndarray) -> float:
    """Sum of squared residuals of a line in `basis` through the logarithms of each seed."""
    return np.polyfit(basis, np.log(values.T), 1, full=True)[1].sum()


class Trend(NamedTuple):
    """The exponent of a ratio in one coordinate, how far from 0 it may be, and whether it levels off (module docstring)."""

    coordinate: str
    exponent: Exponent
    width: float
    levels_off: bool | None

    @property
    def directions(self) -> set[int]:
        """What it may do in the end: 1 rise, -1 fall, 0 neither; one of them where that is told."""
        steep = int(self.exponent.low > self.width) - int(self.exponent.high < -self.width)
        return {True: {0}, False: {steep}, None: {0, steep}}[self.levels_off]

    def __str__(self) -> str:
        mean, low, high = self.exponent
        end = ", levels off" if self.levels_off else ", or levels off" if len(self.directions) > 1 else ""
        return f"{self.coordinate}^{mean:+.3f} [{low:+.3f}, {high:+.3f}]{end}"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A statement of the paper: `measured` (a variable of the grid) is of an order, times `scale(grid)`.

    tilde       the statement hides logarithms
    low, high   for `within`
    printed     what is tested is a misprint, word for word; the corrected statement has an entry of its own
    """

    name: str
    source: str
    statement: str
    measured: str
    order: Literal["Theta", "O", "Omega", "1/poly", "within"]
    scale: Callable[[xr.Dataset], xr.DataArray | float] = lambda grid: 1.0
    tilde: bool = False
    low: float = -math.inf
    high: float = math.inf
    why: str = "as printed"
    printed: bool = False


@dataclasses.dataclass(frozen=True)
class Verdict:
    """An entry, what the grid says of it, and the numbers behind that."""

    entry: Entry
    text: str
    holds: bool | None
    ratio: xr.DataArray
    trends: list[Trend]

    @property
    def steepest(self) -> Trend | None:
        return max(self.trends, key=lambda trend: abs(trend.exponent.mean), default=None)

    def claim(self) -> Claim:
        entry = self.entry
        tolerance = _RULES.get(entry.order, f"{entry.low:g} to {entry.high:g}: {entry.why}")
        return Claim(
            entry.name,
            entry.source,
            entry.statement,
            constant(entry.order, self.ratio, self.trends),
            tolerance,
            self.holds,
        )


_RULES = {
    "Theta": "no trend: every exponent's interval meets [-w, w]",
    "O": "no growth: no exponent's interval above w",
    "Omega": "positive, and no exponent's interval below -w",
    "1/poly": "the exponent's interval in m below -w",
}

CONDITIONS: Mapping[str, Callable[[xr.Dataset], xr.DataArray]] = {
    "|F(0)| <= 0.01": lambda grid: grid["initial_output"].max("seed") <= 0.01,
    "sigma0 sqrt(L m) >= 0.1": lambda grid: grid["start"] >= 0.1,
    "n >= L^2": lambda grid: grid["n"] >= grid["L"] ** 2,
    "n >= 48": lambda grid: grid["n"] >= 48,
    "L >= 4": lambda grid: grid["L"] >= 4,
    "m >= 1024": lambda grid: grid["m"] >= 1024,
}


def ledger(grid: xr.Dataset, entries: Iterable[Entry]) -> list[Verdict]:
    """The verdict on every entry."""
    return [judge(entry, grid) for entry in entries]


def judge(entry: Entry, grid: xr.Dataset) -> Verdict:
    """The verdict on an entry, on the whole grid and, where it fails or is not told from its trends there, under the conditions."""
    scale = xr.ones_like(grid[entry.measured]) * entry.scale(grid)
    ratio = grid[entry.measured] / scale
    whole = _on(entry, ratio, scale)
    if whole.holds or (whole.holds is None and not whole.trends):
        return whole
    lead = "holds only when" if whole.holds is False else f"{whole.text}; holds when"
    masks = {name: holds_for(grid).values for name, holds_for in CONDITIONS.items()}
    for names in (*combinations(masks, 1), *combinations(masks, 2)):
        where = np.logical_and.reduce([masks[name] for name in names])
        if where.any() and not where.all():
            part = _on(entry, ratio[where], scale[where])
            told = {trend.coordinate for trend in whole.trends} <= {trend.coordinate for trend in part.trends}
            if part.holds and (told or entry.order == "within"):
                text = f"{lead} {' and '.join(names)}" + part.text.removeprefix("holds")
                return dataclasses.replace(whole, text=text)
    return whole


def _on(entry: Entry, ratio: xr.DataArray, scale: xr.DataArray) -> Verdict:
    found = trends(entry, ratio, scale)
    text, holds = _rule(entry, ratio, found)
    told = int(np.isfinite(ratio.values).sum() + np.isinf(ratio.values).sum())
    of_runs = f" (in {told} of {ratio.size} runs, where it could be measured)" if holds and told < ratio.size else ""
    return Verdict(entry, text + of_runs, holds, ratio, found)


def trends(entry: Entry, ratio: xr.DataArray, scale: xr.DataArray) -> list[Trend]:
    """Every trend that the grid allows: settings that agree in all coordinates but one, that can be told.

    L is followed at fixed n / (L - 2), on which the random words' share in the late limits depends (`max_margin`): at fixed n
    its trend would be that of memorisation. The scales of the start are no sizes that grow: `start` makes no trend, and
    `readout` only where the statement names sigma1.
    """
    places = np.stack([ratio[name].values for name in COORDINATES], axis=1)
    places[:, 0] /= places[:, 1] - 2
    values, unit, made = ratio.values, scale.values[:, 0], []
    usable = np.isfinite(values) & (values > 0)
    for column, coordinate in enumerate(COORDINATES):
        _, same = np.unique(np.delete(places, column, axis=1), axis=0, return_inverse=True)
        for group in np.unique(same):
            line = np.flatnonzero((same == group) & (usable.mean(axis=1) > 0.5))
            if not line.size:
                continue
            seeds = usable[line].all(axis=0)
            named = {"start": False, "readout": np.ptp(unit[line]) > 1e-9 * unit[line].max()}.get(coordinate, True)
            x = places[line, column]
            tells = len(x) >= LEAST_VALUES and x.max() >= LEAST_SPAN * x.min() and seeds.sum() >= LEAST_SEEDS
            if named and tells:
                told, width = values[line][:, seeds].T, _width(entry, coordinate, places[line])
                made.append(Trend(coordinate, exponent(x, told), width, levels_off(x, told)))
    return made


def _width(entry: Entry, coordinate: str, places: np.ndarray) -> float:
    """w of the module docstring, on a line of settings."""
    per_word, L, m, m1 = places.T[:4]
    if entry.order == "1/poly":
        sizes = m
    elif entry.tilde and coordinate != "readout":
        sizes = per_word * (L - 2) * L * m * m1
    else:
        return TOLERANCE
    along = places[:, COORDINATES.index(coordinate)]
    return TOLERANCE + abs(slope(along, np.log(sizes)))


# ------------------------------------------------------------------------------------------------------------ the rules


def _rule(entry: Entry, ratio: xr.DataArray, found: list[Trend]) -> tuple[str, bool | None]:
    """The verdict in words, and whether it holds (module docstring)."""
    order, told = entry.order, ratio.values[~np.isnan(ratio.values)]
    if order == "within":
        wrong = (told < entry.low) | (told > entry.high)
    elif order == "1/poly":
        wrong = ~np.isfinite(told)
    else:
        wrong = ~np.isfinite(told) | ((told <= 0) & (order != "O"))
    if told.size and wrong.any():
        return f"does not hold in {wrong.sum()} of {told.size} runs", False
    if order == "1/poly":
        found = [trend for trend in found if trend.coordinate == "m"]
    if told.size == 0 or not (found or order == "within"):
        return "cannot be told", None
    against = {
        "Theta": lambda direction: direction != 0,
        "O": lambda direction: direction > 0,
        "Omega": lambda direction: direction < 0,
        "1/poly": lambda direction: direction >= 0,
        "within": lambda direction: False,
    }[order]
    worst = _steepest(trend for trend in found if all(map(against, trend.directions)))
    if worst:
        return f"does not hold: {'goes as' if order == '1/poly' else 'off by'} {worst}", False
    untold = _steepest(trend for trend in found if any(map(against, trend.directions)))
    if untold:
        return f"cannot be told: goes as {untold}", None
    if order == "within":
        return "holds", True
    if order == "1/poly":
        return f"holds: goes as {_steepest(found)}", True
    spare = _steepest(trend for trend in found if 0 not in trend.directions)
    room = f", with room ({spare.coordinate}^{spare.exponent.mean:+.2f})" if spare else ""
    level = _steepest(trend for trend in found if trend.levels_off and max(map(abs, trend.exponent)) > trend.width)
    levelling = f", levelling off (here {level.coordinate}^{level.exponent.mean:+.2f})" if level else ""
    return f"holds with constant {constant(order, ratio, found):.3g}{room}{levelling}", True


def _steepest(found: Iterable[Trend]) -> Trend | None:
    return max(found, key=lambda trend: abs(trend.exponent.mean), default=None)


def constant(order: str, ratio: xr.DataArray, found: list[Trend]) -> float:
    """The number that is shown (module docstring); NaN where there is none."""
    told = ratio.values[np.isfinite(ratio.values)]
    if order == "1/poly":
        along = _steepest(trend for trend in found if trend.coordinate == "m")
        return along.exponent.mean if along else math.nan
    pick = {"Theta": np.median, "within": np.median, "O": np.max, "Omega": np.min}[order]
    return float(pick(told)) if told.size else math.nan


def table(verdicts: Sequence[Verdict]) -> str:
    """The ledger as Markdown, a line for each entry: the statements, and below them the paper's misprints word for word."""
    starts = np.unique(verdicts[0].ratio["start"])
    header = (
        "verdict",
        "claim",
        "source",
        *(f"measured / scale, start {start:g}" for start in starts),
        "steepest trend",
    )
    parts = []
    for printed in (False, True):
        shown = [verdict for verdict in verdicts if verdict.entry.printed is printed]
        rows = [
            (v.text, v.entry.name, v.entry.source, *(_range(v.ratio.isel(setting=v.ratio["start"].values == start)) for start in starts), str(v.steepest or ""))
            for v in shown
        ]  # fmt: skip
        lines = [header, tuple("---" for _ in header), *rows]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        if rows:
            parts.append(f"Misprints, word for word:\n\n{text}" if printed else text)
    return "\n\n".join(parts)


def _range(ratio: xr.DataArray) -> str:
    """Median, least and largest of all runs that got there."""
    told = ratio.values[~np.isnan(ratio.values)]
    return f"{np.median(told):.3g} ({told.min():.3g} to {told.max():.3g})" if told.size else ""
