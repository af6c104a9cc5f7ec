"""The theorems and lemmas of Yang et al. (2024), arXiv 2410.09605, held to a grid of runs: each with a verdict.

A statement about orders cannot be told from one run: its constant is free. On a grid (`observe.scaling`) it can: the
measured quantity, over what the paper says of it, must neither grow nor fall with what the statement leaves free. For each
of n, L, m, m1 and the two scales of the start, such a TREND is the exponent of that ratio in that variable, all others
fixed: least squares on logarithms for each seed, and the 95 % interval of Student's t over the seeds. Starts at different
widths share their random numbers, so that the seeds' exponents hardly scatter.

    order     what the verdict asks of measured / scale              constant that is shown
    Theta     positive; every trend's interval meets [-w, w]         median over the grid, least to largest
    O         no trend's interval lies above w                       largest
    Omega     positive; no trend's interval lies below -w            least
    1/poly    the trend in m lies below -w                           its exponent in m
    within    every run between two numbers that the paper prints    least to largest

w is 0.05, for corrections at finite size; a statement with a tilde hides powers of log(n L m m1), and w grows by the exponent
that one such logarithm has along the trend. A bound that falls throughout some trend "holds with room". What fails on the
grid is tried under each of `CONDITIONS`, in order: "holds only when" names the first under which it holds.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from scipy.stats import t as student

from gradflow.observe.scaling import COORDINATES
from gradflow.theory.claims import Claim
from gradflow.theory.discretisation import slope

TOLERANCE = 0.05
LEAST_SEEDS, LEAST_VALUES = 3, 3


class Exponent(NamedTuple):
    """An exponent with the 95 % interval of its mean over seeds."""

    mean: float
    low: float
    high: float


def exponent(x: np.ndarray, values: np.ndarray) -> Exponent:
    """The exponent of `values` (seed, x) in `x`: the mean of the seeds' slopes on logarithms, with Student's t interval."""
    slopes = np.array([slope(x, each) for each in values])
    half = student.ppf(0.975, len(slopes) - 1) * slopes.std(ddof=1) / math.sqrt(len(slopes))
    return Exponent(float(slopes.mean()), float(slopes.mean() - half), float(slopes.mean() + half))


class Trend(NamedTuple):
    """The exponent of a ratio in one coordinate, and how far from 0 it may be (module docstring)."""

    coordinate: str
    exponent: Exponent
    width: float

    @property
    def rises(self) -> bool:
        return self.exponent.low > self.width

    @property
    def falls(self) -> bool:
        return self.exponent.high < -self.width

    def __str__(self) -> str:
        mean, low, high = self.exponent
        return f"{self.coordinate}^{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


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
    "|F(0)| <= 0.1": lambda grid: grid["initial_output"].max("seed") <= 0.1,
    "sigma0 sqrt(L m) >= 0.1": lambda grid: grid["start"] >= 0.1,
    "n >= L^2": lambda grid: grid["n"] >= grid["L"] ** 2,
    "n >= 2 L^2": lambda grid: grid["n"] >= 2 * grid["L"] ** 2,
    "m >= 4096": lambda grid: grid["m"] >= 4096,
    "m <= n^2 L^2": lambda grid: grid["m"] <= (grid["n"] * grid["L"]) ** 2,
}  # fmt: skip


def ledger(grid: xr.Dataset, entries: Iterable[Entry] | None = None) -> list[Verdict]:
    """The verdict on every entry."""
    return [judge(entry, grid) for entry in (ENTRIES if entries is None else entries)]


def judge(entry: Entry, grid: xr.Dataset) -> Verdict:
    """The verdict on an entry, on the whole grid and, where it fails there, under each condition."""
    whole = _on(entry, grid)
    if whole.holds is not False:
        return whole
    for condition, holds_for in CONDITIONS.items():
        where = holds_for(grid).values
        if where.any() and not where.all():
            part = _on(entry, grid.isel(setting=where))
            if part.holds:
                return dataclasses.replace(
                    whole, text=f"holds only when {condition}: {part.text.removeprefix('holds ')}"
                )
    return whole


def trends(entry: Entry, ratio: xr.DataArray) -> list[Trend]:
    """Every trend that the grid allows: settings that agree in all coordinates but one, with three or more values of it."""
    made = []
    places = np.stack([ratio[name].values for name in COORDINATES], axis=1)
    for column, coordinate in enumerate(COORDINATES):
        others = np.delete(places, column, axis=1)
        for fixed in np.unique(others, axis=0):
            line = np.flatnonzero((others == fixed).all(axis=1))
            x, values = places[line, column], ratio.values[line].T
            told = (np.isfinite(values) & (values > 0)).all(axis=1)
            if len(x) >= LEAST_VALUES and told.sum() >= LEAST_SEEDS:
                made.append(Trend(coordinate, exponent(x, values[told]), _width(entry, coordinate, x, ratio[line[0]])))
    return made


def _width(entry: Entry, coordinate: str, x: np.ndarray, setting: xr.DataArray) -> float:
    if not entry.tilde or coordinate not in ("n", "L", "m", "m1"):
        return TOLERANCE
    sizes = math.prod(float(setting[name]) for name in ("n", "L", "m", "m1"))
    return TOLERANCE + slope(x, np.log(sizes / float(setting[coordinate]) * x))


def _on(entry: Entry, grid: xr.Dataset) -> Verdict:
    ratio = grid[entry.measured] / entry.scale(grid)
    found = trends(entry, ratio)
    text, holds = _rule(entry, ratio, found)
    return Verdict(entry, text, holds, ratio, found)


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
        "Theta": lambda trend: trend.rises or trend.falls,
        "O": lambda trend: trend.rises,
        "Omega": lambda trend: trend.falls,
        "1/poly": lambda trend: not trend.falls,
        "within": lambda trend: False,
    }[order]
    worst = _steepest(trend for trend in found if against(trend))
    if worst:
        return f"does not hold: {'goes as' if order == '1/poly' else 'off by'} {worst}", False
    if order == "within":
        return "holds", True
    if order == "1/poly":
        return f"holds: goes as {_steepest(found)}", True
    spare = _steepest(trend for trend in found if order != "Theta" and (trend.falls or trend.rises))
    room = f", with room ({spare.coordinate}^{spare.exponent.mean:+.2f})" if spare else ""
    return f"holds with constant {constant(order, ratio, found):.3g}{room}", True


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


def table(verdicts: Iterable[Verdict]) -> str:
    """The ledger as a Markdown table, a line each."""
    rows = [
        (v.text, v.entry.name, v.entry.source, v.entry.statement, _range(v), str(v.steepest or "")) for v in verdicts
    ]
    header = ("verdict", "claim", "source", "statement", "measured over its scale", "steepest trend")
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _range(verdict: Verdict) -> str:
    told = verdict.ratio.values[~np.isnan(verdict.ratio.values)]
    return f"{np.median(told):.3g} ({told.min():.3g} to {told.max():.3g})" if told.size else ""


# --------------------------------------------------------------------------------------------------- what the paper says


def _rate(g: xr.Dataset) -> xr.DataArray:
    return g["sigma1"] ** 2 * g["m"] * g["m1"]


def _noise(g: xr.Dataset) -> xr.DataArray:
    return g["sigma0"] * g["sigma1"] * (g["m"] * g["m1"]) ** 0.5


def _initial_rate(g: xr.Dataset) -> xr.DataArray:
    return (g["sigma0"] ** 2 + g["sigma1"] ** 2) * g["m"] * g["m1"]


def _initial_rate_mu3(g: xr.Dataset) -> xr.DataArray:
    neuron = g["sigma1"] ** 2 * (g["m"] * g["m1"]) ** 0.5 + g["sigma0"] ** 2 * (g["m"] * g["L"]) ** 0.5
    return g["m1"] * neuron + _initial_rate(g) * g["initial_output"]


def _score(g: xr.Dataset) -> xr.DataArray:
    return g["sigma0"] ** 2 * g["m"] ** 0.5 / _rate(g) * (1 / g["L"] + g["m"] ** -0.5)


def _random_score(g: xr.Dataset) -> xr.DataArray:
    return g["sigma0"] ** 2 * g["m"] ** 0.5 / _rate(g) * (1 / (g["n"] * g["L"]) + g["m"] ** -0.5)


def _score_rate(g: xr.Dataset) -> xr.DataArray:
    return g["sigma0"] ** 2 * g["m"] ** 0.5 / g["L"]


def _log_log(g: xr.Dataset) -> xr.DataArray:
    return np.log(g["m"]) * math.log(float(g["clock"][-1])) / _rate(g)


def _second_rate(g: xr.Dataset) -> xr.DataArray:
    return (g["sigma0"] ** 2 * (g["m"] ** 0.5 * g["L"] + g["m"]) + (g["L"] + 1) / g["m"]) / (g["sigma1"] ** 2 * g["m"])


def _random_G(g: xr.Dataset) -> xr.DataArray:
    return 1 / g["n"] + g["m1"] * (
        g["L"] * (g["sigma0"] ** 2 * g["m"] ** 0.5 + 1 / g["m"]) + g["sigma0"] ** 2 * g["m"]
    ) / _rate(g)


_ALWAYS = dict(low=1.0, why="the share of save points in Phase 2; the theorem says always")

ENTRIES = (
    # the start
    Entry("|F(0)| = O(sigma0 sigma1 sqrt(L m m1 log(L n)))", "Lemma D.8", "O", "initial_output", "O", lambda g: _noise(g) * (g["L"] * np.log(g["L"] * g["n"])) ** 0.5),
    Entry("|F(0)| <= 0.01", "Lemma D.8", "<= 0.01", "initial_output", "within", high=0.01),
    Entry("|p(0) - 1/L| = O~(1/(L m))", "Corollary D.2", "O~", "initial_attention", "O", lambda g: 1 / (g["L"] * g["m"]), tilde=True),
    Entry("rate of mu1, mu2 at the start = Theta((sigma0^2 + sigma1^2) m m1)", "Lemmas 4.1, E.4", "Theta", "initial_rate", "Theta", _initial_rate),
    Entry("... with the constant 1/6", "Lemma E.4, corrected", "1/4 - 1/12", "initial_rate", "within", _initial_rate, low=1 / 6 - 0.01, high=1 / 6 + 0.01, why="+- 0.01, as in its proof"),
    Entry("... with the constant 1/3 of the proof", "Lemma E.4, proof", "1/3 +- 0.01", "initial_rate", "within", _initial_rate, low=1 / 3 - 0.01, high=1 / 3 + 0.01, printed=True),
    Entry("rate of mu3 at the start is smaller", "Lemmas 4.2, E.16", "O~", "initial_rate_mu3", "O", _initial_rate_mu3, tilde=True),
    # Phase 1
    Entry("T1 = Theta(1 / (sigma1^2 m m1))", "Theorems 3.1, E.26", "O~(1/m)", "T1", "Theta", lambda g: 1 / _rate(g), tilde=True),
    Entry("G(mu1), G(mu2) >= Omega(1) at T1", "Theorem 3.1", "Omega", "G12_at_T1", "Omega"),
    Entry("G(mu3) <= -Omega(1) at T1", "Theorem 3.1", "Omega", "minus_G3_at_T1", "Omega"),
    Entry("loss at T1 = Theta(1)", "Theorem 3.1", "Theta", "loss_at_T1", "Theta"),
    Entry("every margin = Omega(1) (at 2 T1)", "Theorem E.27", "Omega", "margin_at_2T1", "Omega"),
    Entry("random words: G(T1) = O~(sigma0 sigma1 sqrt(m m1))", "Theorem E.27", "O~", "G_random_at_T1", "O", _noise, tilde=True),
    Entry("|Delta A| = O~(m^-1.5 (1/L + m^-0.5)) until T1", "Theorem E.28", "O~", "change_A_until_T1", "O", lambda g: g["m"] ** -1.5 * (1 / g["L"] + g["m"] ** -0.5), tilde=True),
    Entry("|Delta Gamma_K| = O~(m^-2) until T1", "Theorem E.28", "O~", "change_Gamma_K_until_T1", "O", lambda g: g["m"] ** -2, tilde=True),
    Entry("|Delta Gamma_Q| = O~(m^-2) until T1", "Theorem E.28", "O~", "change_Gamma_Q_until_T1", "O", lambda g: g["m"] ** -2, tilde=True),
    Entry("|Delta Gamma_V| = O~(1/m) until T1", "Theorem E.28", "O~", "change_Gamma_V_until_T1", "O", lambda g: 1 / g["m"], tilde=True),
    Entry("|Delta S| = O~(m1^2 / m) until T1", "Theorem E.28, summed", "O~", "change_S_until_T1", "O", lambda g: g["m1"] ** 2 / g["m"], tilde=True),
    Entry("|p(t) - p(0)| = O~(1/(L m^2) (1/L + m^-0.5)) until T1", "Corollary E.24", "O~", "change_attention_until_T1", "O", lambda g: g["m"] ** -2 / g["L"] * (1 / g["L"] + g["m"] ** -0.5), tilde=True),
    Entry("one-signal losses first rise", "Lemma 4.2", "> 1", "peak_over_start", "within", low=1 + 1e-9, why="a rise is a rise"),
    Entry("... and fall before T1", "Lemma 4.3", "< 1", "peak_over_T1", "within", high=1.0, why="the peak comes first"),
    Entry("C of Lemma 4.3 at T1 is a constant", "Lemmas 4.3, E.19", "Omega", "lemma_4_3_at_T1", "Omega"),
    Entry("T_0.5 = O(1 / (sigma1^2 m m1))", "Theorem E.19", "O", "T_half", "O", lambda g: 1 / _rate(g)),
    Entry("rates of mu1, mu2 at T1 >= Omega((sigma0^2 + sigma1^2) m m1)", "Theorem E.19", "Omega", "rate_at_T1", "Omega", _initial_rate),
    Entry("|s2 - s3| / n = O(|F(0)|) until T1", "Proposition E.21", "O", "s2_minus_s3_until_T1", "O", lambda g: g["initial_output"]),
    # Phase 2
    Entry("A21, A12 rise and A31, A32 fall", "Theorem 3.2", "always", "score_signs", "within", **_ALWAYS),
    Entry("Gamma_V: 12, 11, 22 rise and 13, 23 fall", "Theorem 3.2, Corollaries 4.6, F.13", "always", "Gamma_V_signs", "within", **_ALWAYS),
    Entry("G(mu1), G(mu2) >= Omega(1)", "Theorem 3.2", "Omega", "G12_later", "Omega"),
    Entry("-G(mu3) >= Omega(1)", "Theorem 3.2, corrected", "Omega", "minus_G3_later", "Omega"),
    Entry("-G(mu3) <= Omega(1): bounded (growth per factor e of time)", "Theorem 3.2, item 3", "<= Omega(1)", "minus_G3_growth", "within", high=TOLERANCE, why="what is bounded stops growing", printed=True),
    Entry("G1 + G2 + G3 >= Omega(1)", "Theorem 3.2", "Omega", "sum_later", "Omega"),
    Entry("G1 + G3, G2 + G3 <= -Omega(1)", "Theorem 3.2", "Omega", "pair_sums_later", "Omega"),
    Entry("G1 / G2, G1 / -G3, G2 / -G3 = Theta(1) (largest ratio)", "Corollary F.7", "Theta", "G_ratio", "Theta"),
    Entry("|G| of the signals = O(log m)", "Definition F.1", "O", "largest_G", "O", lambda g: np.log(g["m"])),
    Entry("S rises", "Lemma F.4", "always", "S_rises", "within", **_ALWAYS),
    Entry("S(t) - S(T1) = O(m1 log m log t / (sigma1^2 m m1))", "Corollary F.9, Lemma F.10", "O", "change_S", "O", lambda g: g["m1"] * _log_log(g)),
    Entry("|Delta Gamma_V| = O(log m log t / (sigma1^2 m m1))", "Lemma F.11", "O", "change_Gamma_V", "O", _log_log),
    Entry("the readout's second rate is small", "Corollary F.12", "O~", "readout_excess", "O", _second_rate, tilde=True),
    Entry("random words: |G(t) - G(T1)| = O~(1/n + ...)", "Lemma F.14", "O~", "change_G_random", "O", _random_G, tilde=True),
    Entry("random words' part of F = O(1)", "Corollary F.15", "O", "random_part", "O"),
    Entry("... at all times (growth per factor e of time)", "Corollary F.15", "O(1)", "random_part_growth", "within", high=TOLERANCE, why="what is bounded stops growing"),
    # balance of gradients
    Entry("|s2 - s3| / min(s2, s3) <= C << 1", "Lemmas 4.4, F.5", "<< 1", "s2_s3_gap", "within", high=0.5, why="C << 1 is read as <= 0.5"),
    Entry("... at the end", "Lemmas 4.4, F.5", "<< 1", "s2_s3_gap_at_end", "within", high=0.5, why="C << 1 is read as <= 0.5"),
    Entry("1/2 <= s2 / s3 <= 2 (the larger of s2/s3, s3/s2)", "Definition F.1", "<= 2", "s2_s3_ratio", "within", high=2.0),
    Entry("sum g / (s2 + s3 + s4 - s1) = O(1)", "Lemmas 4.5, F.6", "O", "sum_over_gap_3", "O"),
    Entry("sum g / (s1 - s2), sum g / (s1 - s3) = O(1)", "Lemmas 4.5, F.6", "O", "sum_over_gap_12", "O"),
    Entry("dG1 / dG2 = Theta(1) (larger over smaller)", "Lemma F.6", "Theta", "rate_ratio", "Theta"),
    Entry("R in [1, 3] in Phase 2 (least)", "Lemma F.6", ">= 1", "smallest_R", "within", low=1.0),
    Entry("R in [1, 3] in Phase 2 (largest)", "Lemma F.6", "<= 3", "largest_R", "within", high=3.0),
    Entry("R* in (1, 2): R at the end", "Lemma F.6", "(1, 2)", "R_at_end", "within", low=1.0, high=2.0),
    Entry("C of Lemma 4.5 in Phase 2 is a constant", "Lemmas 4.5, F.6", "Omega", "lemma_4_5", "Omega"),
    Entry("max g_i / g_j within a class = O(1)", "Corollary F.2", "O", "gradient_spread", "O"),
    Entry("s4 <= min(s2, s3), max(s2, s3) <= s1 <= s2 + s3 + s4", "Definition F.1", "always", "order_of_gradients", "within", **_ALWAYS),
    # loss
    Entry("L(t) = 1 / (Theta(sigma1^2 m m1)(t - T1) + 1/L(T1)): least", "Theorem F.8", "Theta", "loss_constant_least", "Theta", _rate),
    Entry("... largest", "Theorem F.8", "Theta", "loss_constant_largest", "Theta", _rate),
    Entry("training loss 1/m at a time Theta(m / (sigma1^2 m m1))", "Theorems 3.3, F.20", "Theta", "time_to_small_loss", "Theta", lambda g: g["m"] / _rate(g)),
    Entry("generalisation loss at that time = 1/poly(m)", "Theorem 3.3", "1/poly(m)", "generalisation_then", "1/poly"),
    # attention
    Entry("dA21, dA12, -dA31, -dA32 over the loss = Theta~(sigma0^2 sqrt(m) / L): least", "Lemmas 4.7, F.16", "Theta~", "score_rate_least", "Theta", _score_rate, tilde=True),
    Entry("... largest", "Lemmas 4.7, F.16", "Theta~", "score_rate_largest", "Theta", _score_rate, tilde=True),
    Entry("largest change of a signal score = Theta(...)", "Lemma F.16", "Theta", "largest_signal_score", "Theta", _score),
    Entry("C12, C21, -C31, -C32 = Theta(sigma0^2 sqrt(m) (1/L + m^-0.5) / (sigma1^2 m m1))", "Theorem 3.3", "Theta", "signal_score", "Theta", _score),
    Entry("... of one order (largest over smallest)", "Theorem 3.3", "Theta", "signal_score_spread", "Theta"),
    Entry("random words: |C| = O~(sigma0^2 sqrt(m) (1/(n L) + m^-0.5) / (sigma1^2 m m1))", "Theorem 3.3, Lemma F.16", "O~", "random_score", "O", _random_score, tilde=True),
    Entry("random words: |C| = O~(1/n) of the signals'", "Theorem 3.3", "O~", "random_score", "O", lambda g: g["signal_score"] / g["n"], tilde=True),
    Entry("rise of p(mu2 | mu1) ~ Delta A / (L sqrt(m))", "Corollary F.17, corrected", "Theta~", "signal_attention", "Theta", lambda g: _score(g) / (g["L"] * g["m"] ** 0.5), tilde=True),
    Entry("rise of p(mu2 | mu1) ~ Delta A / L", "Corollary F.17", "Theta~", "signal_attention", "Theta", lambda g: _score(g) / g["L"], tilde=True, printed=True),
    Entry("|p(t) - p(0)| = O(1/L^2)", "Definition F.1, Corollary F.17", "O", "change_attention", "O", lambda g: g["L"] ** -2),
    Entry("|Delta Gamma_K|, |Delta Gamma_Q| = O~(sigma0^2 / (sigma1^2 m m1))", "Lemma F.19", "O~", "change_Gamma_KQ", "O", lambda g: g["sigma0"] ** 2 / _rate(g), tilde=True),
)  # fmt: skip
