"""One run in a few numbers, and many runs as one dataset: what is needed to see how the theory's constants scale.

`summary` reduces a run of `observe.cooccurrence` to what the theorems of Yang et al. (2024) speak of: values at the start, at
T1 (every sample right for the first time), over Phase 2, and at the end. `record` makes them and some curves one dataset, of the
same variables whatever became of the run, and `grid` stacks those over (setting, seed). A setting is six numbers, and the
grid's coordinates:

    n, L, m, m1    training sentences, words in each, attention width, neurons
    start          sigma0 sqrt(L m), which Condition 1 lets be any constant up to logarithms
    readout        sigma1 sqrt(m1), the same
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from gradflow.observe.phases import at_time, cooccurrence_events, lemma_4_3_constant

COORDINATES = ("n", "L", "m", "m1", "start", "readout")


class Setting(NamedTuple):
    """What is varied between the runs of a grid (module docstring)."""

    n: int
    L: int
    m: float
    m1: float
    start: float
    readout: float = 1.0

    @property
    def sigma0(self) -> float:
        return self.start / (self.L * self.m) ** 0.5

    @property
    def sigma1(self) -> float:
        return self.readout / self.m1**0.5

    @property
    def rate(self) -> float:
        """The mean of S at the start, sigma1^2 m m1."""
        return self.readout**2 * self.m

    @property
    def score(self) -> float:
        """Standard deviation of the entries of A at the start, sigma0^2 sqrt(m)."""
        return self.sigma0**2 * self.m**0.5


_LONG_NAMES = {
    "initial_output": "largest |F| at the start",
    "initial_attention": "largest |p - 1/L| at the start",
    "initial_rate": "mean of dG/dt of mu1 and mu2 at the start",
    "initial_rate_constant": "the same over |u|^2 + m1 |v|^2 as drawn, v the value of the word",
    "initial_rate_mu3": "|dG/dt| of mu3 at the start",
    "peak_over_start": "one-signal losses: largest over first",
    "peak_over_T1": "one-signal losses: time of the largest over T1; NaN where they only fall",
    "T1": "first time that every sample is right; infinite where that never is, missing where the run ends before 2 T1",
    "T_half": "T_0.5: from here to T1 Lemma 4.3 holds with C = 0.05; infinite where it never does",
    "G12_at_T1": "smaller of G(mu1), G(mu2) at T1",
    "minus_G3_at_T1": "-G(mu3) at T1",
    "G_random_at_T1": "largest |G| of a random word at T1",
    "loss_at_T1": "training loss at T1",
    "margin_at_2T1": "smallest margin at 2 T1",
    "lemma_4_3_at_T1": "largest C of Lemma 4.3 at T1",
    "rate_at_T1": "smaller of dG1/dt, dG2/dt at T1",
    "s2_minus_s3_until_T1": "largest |s2 - s3| / n until T1",
    **{f"change_{name}_until_T1": f"largest change of {name} until T1" for name in ("A", "Gamma_K", "Gamma_Q", "Gamma_V", "S", "attention")},
    "score_signs": "share of Phase 2 in which A21, A12 rise and A31, A32 fall",
    "Gamma_V_signs": "share of Phase 2 in which the signs of Corollary F.13 hold",
    "order_of_gradients": "share of Phase 2 in which s4 <= min(s2, s3), max(s2, s3) <= s1 <= s2 + s3 + s4",
    "S_rises": "share of Phase 2 in which S rises",
    "G12_later": "smallest G(mu1), G(mu2) from 2 T1 on",
    "minus_G3_later": "smallest -G(mu3) from 2 T1 on",
    "minus_G3_growth": "growth of -G(mu3) per factor e of time, at the end",
    "sum_later": "smallest G1 + G2 + G3 from 2 T1 on",
    "pair_sums_later": "smallest -(G1 + G3), -(G2 + G3) from 2 T1 on",
    "G_ratio": "largest ratio between G1, G2 and -G3 from 2 T1 on",
    "largest_G": "largest |G| of mu1, mu2, mu3",
    "s2_s3_gap": "largest |s2 - s3| / min(s2, s3) in Phase 2",
    "s2_s3_gap_at_end": "|s2 - s3| / min(s2, s3) at the end",
    "s2_s3_ratio": "larger of s2/s3, s3/s2 in Phase 2",
    "sum_over_gap_3": "largest sum g / (s2 + s3 + s4 - s1) in Phase 2",
    "sum_over_gap_12": "largest sum g / (s1 - s2), sum g / (s1 - s3) in Phase 2",
    "smallest_R": "smallest R in Phase 2",
    "largest_R": "largest R in Phase 2",
    "R_at_end": "R at the end",
    "rate_ratio": "largest ratio between dG1/dt and dG2/dt in Phase 2",
    "lemma_4_5": "smallest C of Lemma 4.5 in Phase 2",
    "gradient_spread": "largest g_i / g_j within a class in Phase 2",
    "loss_constant_least": "smallest (1/L(t) - 1/L(T1)) / (t - T1) from 2 T1 on",
    "loss_constant_largest": "largest (1/L(t) - 1/L(T1)) / (t - T1) from 2 T1 on",
    "time_to_small_loss": "time at which the training loss is 1/m",
    "generalisation_then": "generalisation loss at that time",
    "change_S": "S at the end - S at T1",
    "readout_excess": "readout's rate over S, - 1, at the end",
    "change_Gamma_V": "largest change of Gamma_V since the start, at the end",
    "change_Gamma_KQ": "largest change of Gamma_K, Gamma_Q since the start, at the end",
    "change_G_random": "largest change of a random word's G since T1",
    "random_part": "largest |random words' part of F| at the end",
    "random_part_growth": "its growth per factor e of time, at the end",
    "score_rate_least": "smallest dA21, dA12, -dA31, -dA32 over the loss in Phase 2",
    "score_rate_largest": "largest dA21, dA12, -dA31, -dA32 over the loss in Phase 2",
    "signal_score": "mean of C12, C21, -C31, -C32 at the end",
    "signal_score_then": "the same at the time at which the training loss is 1/m",
    "signal_score_spread": "largest over smallest of C12, C21, -C31, -C32 at the end",
    "largest_signal_score": "largest change of a score between mu1, mu2, mu3 since T1",
    "random_score": "largest change of a score that involves a random word",
    "signal_attention": "rise of p(mu2 | mu1), p(mu1 | mu2) in I1 since T1",
    "change_attention": "largest |p(t) - p(0)| at the end",
}  # fmt: skip
# over S0 t, at the save points, for pictures
CURVES = {"loss": "training loss", "R": "(s2 + s3 + s4 - s1) / (s1 - s2)", "s2_over_s3": "s2 / s3"}
# changes of attention, which is of order 1, below which they are rounding: they count as not measured
ROUNDING = 1e-13
_OF_ATTENTION = ("initial_attention", "change_attention_until_T1", "signal_attention", "change_attention")


def summary(run: xr.Dataset) -> dict[str, float]:
    """The numbers of `_LONG_NAMES`; those that need Phase 2 are missing where the run does not reach 2 T1."""
    dG, one_signal = run["dG"].values[0], run["loss_by_class"].sel(sentence_class=["I2", "I3"]).mean("sentence_class")
    events = cooccurrence_events(run)
    t1 = events["T1"].time
    seen = {
        "initial_output": abs(run["margin"][0]).max(),
        "initial_attention": run["attention_deviation"][0],
        "initial_rate": dG[:2].mean(),
        "initial_rate_constant": dG[:2].mean() / (run["S0"] + run.attrs["m1"] * np.diag(run["Gamma_V0"])[:2].mean()),
        "initial_rate_mu3": abs(dG[2]),
        "peak_over_start": one_signal.max() / one_signal[0],
    }
    if not events["T1"].happened:
        seen["T1"] = np.inf
    elif run["time"][-1] > 2 * t1 > 0:
        half = events["T0.5"]
        seen |= {"T1": t1, "T_half": half.time if half.happened else np.inf}
        seen |= {"peak_over_T1": events["one-signal peak"].time / t1}
        seen |= _until_T1(run, t1) | _signals(run, t1) | _balance(run, t1) | _loss(run, t1) | _attention(run, t1)
    seen = {name: float(value) for name, value in seen.items()}
    return seen | {name: np.nan for name in _OF_ATTENTION if abs(seen.get(name, 0)) < ROUNDING}


def _until_T1(run: xr.Dataset, t1: float) -> dict[str, object]:
    then, before = {name: at_time(run[name], t1) for name in ("G", "dG", "loss", "S")}, run.sel(time=slice(t1))
    changes = ("A", "Gamma_K", "Gamma_Q", "Gamma_V", "attention")
    s = run["gradient_by_class"].sel(time=slice(t1)).values / run.attrs["n"]
    return {
        "G12_at_T1": then["G"][:2].min(),
        "minus_G3_at_T1": -then["G"][2],
        "G_random_at_T1": abs(then["G"][3:]).max(),
        "loss_at_T1": then["loss"],
        "margin_at_2T1": at_time(run["margin"], 2 * t1).min(),
        "lemma_4_3_at_T1": np.interp(t1, run["time"], lemma_4_3_constant(run)),
        "rate_at_T1": then["dG"][:2].min(),
        "s2_minus_s3_until_T1": np.abs(s[:, 1] - s[:, 2]).max(),
        "change_S_until_T1": max(abs(before["S"] - run["S0"]).max(), abs(then["S"] - run["S0"])),
        **{
            f"change_{name}_until_T1": max(before[f"change_{name}"].max(), at_time(run[f"change_{name}"], t1))
            for name in changes
        },
    }


def _signals(run: xr.Dataset, t1: float) -> dict[str, object]:
    """What Theorem 3.2 and Lemmas F.4 to F.15 say of the readout, of Gamma_V and of G."""
    phase_2, later = run.sel(time=slice(t1, None)), run.sel(time=slice(2 * t1, None))
    at_t1, end = {name: at_time(run[name], t1) for name in ("G", "S")}, run.isel(time=-1)
    dV = phase_2["dGamma_V"].values
    rising = (dV[:, 0, 1] > 0) & (dV[:, 0, 0] > 0) & (dV[:, 1, 1] > 0)
    G1, G2, G3 = later["G"].values[:, :3].T
    sizes = np.stack([G1, G2, -G3])
    random_part = _random_part(run)
    return {
        "Gamma_V_signs": (rising & (dV[:, 0, 2] < 0) & (dV[:, 1, 2] < 0)).mean(),
        "S_rises": (np.diff(phase_2["S"].values) > 0).mean(),
        "G12_later": min(G1.min(), G2.min()),
        "minus_G3_later": (-G3).min(),
        "minus_G3_growth": _growth(run, -run["G"].values[:, 2]),
        "sum_later": (G1 + G2 + G3).min(),
        "pair_sums_later": min((-G1 - G3).min(), (-G2 - G3).min()),
        "G_ratio": (sizes.max(axis=0) / sizes.min(axis=0)).max() if (sizes > 0).all() else np.inf,
        "largest_G": abs(run["G"][:, :3]).max(),
        "change_S": end["S"] - at_t1["S"],
        "readout_excess": end["readout_rate"] / end["S"] - 1,
        "change_Gamma_V": end["change_Gamma_V"],
        "change_G_random": abs(end["G"].values - at_t1["G"])[3:].max(),
        "random_part": random_part[-1],
        "random_part_growth": _growth(run, random_part),
    }


def _balance(run: xr.Dataset, t1: float) -> dict[str, object]:
    """Lemmas 4.4, 4.5, F.2, F.5, F.6: automatic balancing of gradients in Phase 2."""
    phase_2 = run.sel(time=slice(t1, None))
    s1, s2, s3, s4 = phase_2["gradient_by_class"].values.T
    gap = np.abs(s2 - s3) / np.minimum(s2, s3)
    total, gap_3, gap_12 = s1 + s2 + s3 + s4, s2 + s3 + s4 - s1, np.minimum(s1 - s2, s1 - s3)
    dG1, dG2 = phase_2["dG"].values[:, :2].T
    in_order = (s4 <= np.minimum(s2, s3)) & (np.maximum(s2, s3) <= s1) & (s1 <= s2 + s3 + s4)
    return {
        "s2_s3_gap": gap.max(),
        "s2_s3_gap_at_end": gap[-1],
        "s2_s3_ratio": np.maximum(s2 / s3, s3 / s2).max(),
        "sum_over_gap_3": _largest(total, gap_3),
        "sum_over_gap_12": _largest(total, gap_12),
        "smallest_R": phase_2["R"].min(),
        "largest_R": phase_2["R"].max(),
        "R_at_end": phase_2["R"][-1],
        "rate_ratio": _largest(np.maximum(dG1, dG2), np.minimum(dG1, dG2)),
        "lemma_4_5": lemma_4_3_constant(phase_2).min(),
        "gradient_spread": phase_2["gradient_spread"].max(),
        "order_of_gradients": in_order.mean(),
    }


def _loss(run: xr.Dataset, t1: float) -> dict[str, object]:
    """Theorems F.8 and 3.3: how fast the loss falls, and what that is worth on fresh sentences."""
    t, loss, aim = run["time"].values, run["loss"].values, 1 / run.attrs["m"]
    later = t >= 2 * t1
    constants = (1 / loss[later] - 1 / np.interp(t1, t, loss)) / (t[later] - t1)
    seen = {"loss_constant_least": constants.min(), "loss_constant_largest": constants.max()}
    if loss[-1] < aim:
        after = int(np.flatnonzero(loss >= aim)[-1]) + 1
        near = slice(after - 1, after + 1)
        log_t = np.interp(-np.log(aim), -np.log(loss[near]), np.log(t[near]))
        fresh, scores = run["generalisation_loss"].values, _signal_scores(run).mean(axis=1)
        seen |= {
            "time_to_small_loss": np.exp(log_t),
            "generalisation_then": np.exp(np.interp(log_t, np.log(t[near]), np.log(fresh[near]))),
            "signal_score_then": np.interp(log_t, np.log(t[near]), scores[near]),
        }
    return seen


def _attention(run: xr.Dataset, t1: float) -> dict[str, object]:
    """Lemmas 4.7, F.16, F.17, F.19 and Theorem 3.3: the scores, the softmax and the Gram matrices of keys and queries."""
    phase_2, end = run.sel(time=slice(t1, None)), run.isel(time=-1)
    rates = _of_signals(phase_2["dA"].values)
    per_loss = rates / phase_2["loss"].values[:, None]
    signals = _signal_scores(run)[-1]
    p = run["attention"].sel(sentence_class="I1")
    rise = p.values[-1] - at_time(p, t1)
    return {
        "score_signs": (rates > 0).all(axis=1).mean(),
        "score_rate_least": per_loss.min(),
        "score_rate_largest": per_loss.max(),
        "signal_score": signals.mean(),
        "signal_score_spread": _largest(signals.max(), signals.min()),
        "largest_signal_score": abs(end["A"].values - at_time(run["A"], t1)).max(),
        "random_score": end["change_A_random"],
        "signal_attention": (rise[1, 0] + rise[0, 1]) / 2,
        "change_attention": end["change_attention"],
        "change_Gamma_KQ": max(end["change_Gamma_K"], end["change_Gamma_Q"]),
    }


def _of_signals(A: np.ndarray) -> np.ndarray:
    """A21, A12, -A31, -A32, which Theorem 3.2 says rise, at each time."""
    return np.stack([A[:, 1, 0], A[:, 0, 1], -A[:, 2, 0], -A[:, 2, 1]], axis=1)


def _signal_scores(run: xr.Dataset) -> np.ndarray:
    """C21, C12, -C31, -C32 of Theorem 3.3 at each time."""
    return _of_signals((run["A"] - run["A"][0]).values)


def _random_part(run: xr.Dataset) -> np.ndarray:
    """The largest |sum of G over the random words of a sentence| at each time: their part of F at uniform attention."""
    tokens, G = run["tokens"].values, run["G"].values
    return np.abs(np.where(tokens >= 3, G[:, tokens], 0).sum(axis=2)).max(axis=1)


def _growth(run: xr.Dataset, values: np.ndarray) -> float:
    """Growth per factor e of time over the last decade: what grows like log t keeps it, and what is bounded loses it."""
    t = run["time"].values
    return float(values[-1] - np.interp(np.log(t[-1] / 10), np.log(t[1:]), values[1:])) / np.log(10)


def _largest(above: np.ndarray, below: np.ndarray) -> float:
    """The largest quotient; infinite where a denominator is not positive."""
    return float(np.max(above / below)) if np.min(below) > 0 else np.inf


def record(run: xr.Dataset, clock: np.ndarray) -> xr.Dataset:
    """What is kept of a run: its summary, NaN where it did not get there, and some curves over `clock`.

    clock   the times of the run in units of the readout's rate at the start, or of its mean: the same numbers for all that are stacked
    """
    seen = summary(run)
    return xr.Dataset(
        {name: ((), seen.get(name, np.nan), _described(long_name)) for name, long_name in _LONG_NAMES.items()}
        | {name: ("clock", run[name].values, _described(long_name)) for name, long_name in CURVES.items()},
        {"clock": ("clock", clock, _described("S0 t, time in units of the readout's initial rate"))},
    )


def grid(runs: Mapping[tuple[Setting, int], xr.Dataset], seeds: Sequence[int]) -> xr.Dataset:
    """Records of runs over (setting, seed); NaN where a run is missing or did not get there.

    `runs` maps (setting, seed) to what `record` made of the run.
    """
    settings = list(dict.fromkeys(setting for setting, _ in runs))
    first = next(iter(runs.values()))
    missing = xr.full_like(first, np.nan)
    rows = [[runs.get((setting, seed), missing) for seed in seeds] for setting in settings]
    variables = {
        name: (
            ("setting", "seed", *each.dims),
            np.array([[run[name].values for run in row] for row in rows]),
            each.attrs,
        )
        for name, each in first.items()
    }
    coords = {
        name: ("setting", np.array(each, float))
        for name, each in zip(COORDINATES, zip(*settings, strict=True), strict=True)
    }
    coords |= {name: ("setting", [getattr(setting, name) for setting in settings]) for name in ("sigma0", "sigma1")}
    clock = ("clock", first["clock"].values, {"long_name": "sigma1^2 m m1 t"})
    return xr.Dataset(variables, coords | {"seed": list(seeds), "clock": clock})


def _described(long_name: str) -> dict[str, str]:
    return {"long_name": long_name, "units": "1"}
