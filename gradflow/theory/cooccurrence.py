"""What theory says of training on the word co-occurrence task, and the claims that hold a run to it.

Sources: the theorems and lemmas of Yang, Kailkhura, Wang, Liang (2024), arXiv 2410.09605, and two sharp predictions: the
late-time limits of `theory.max_margin` and the leading-order flow of `theory.four_point`.

The theorems speak of orders, Omega(1), O(1), Theta(1), and leave their constants and logarithms open. A claim on a run
needs numbers for them; they are the same for every claim and every run:

    Omega(1)            at least 0.1
    O(1)                at most 30
    of the same order   within a factor of 10
    "at T1"             T1 is the first time that every sample is right, where the smallest margin is 0 by definition; what
                        the theorem says of the margins at a time of that order is read at 2 T1
"""

import math

import numpy as np
import xarray as xr

from gradflow.observe.phases import Event, at_time, cooccurrence_events, lemma_4_3_constant
from gradflow.theory import four_point, max_margin
from gradflow.theory.claims import Claim, at_least, at_most, near

OMEGA_ONE, ORDER_ONE, SAME_ORDER = 0.1, 30.0, 10.0
_OMEGA = "Omega(1) is read as >= 0.1"
_ORDER = "O(1) is read as <= 30"
_FACTOR = "the same order is read as a factor of 10"
_ALWAYS = "the share of save points in Phase 2; the theorem says always"

# From this readout clock on, the late-time limits are compared.
LATE = 1e7


def readout_clock(run: xr.Dataset) -> np.ndarray:
    """tau(t) = int (S + m1 r.Gamma_V r / r.r) dt: S0 t, corrected for the growth of the readout's rate at finite width."""
    rate, t = run["readout_rate"].values, run["time"].values
    return np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(t))])


def claims(run: xr.Dataset) -> list[Claim]:
    """Every claim of the paper on a run, then the sharp ones. `run` comes from `observe.cooccurrence.dataset`."""
    events = cooccurrence_events(run)
    view = _View(run, events)
    return [*_initial(view), *_phase_1(view), *_phase_2(view), *_balance(view), *_sharp(view)]


class _View:
    """A run with what the claims ask of it again and again."""

    def __init__(self, run: xr.Dataset, events: dict[str, Event]):
        self.run, self.events = run, events
        self.n, self.L, self.m, self.m1 = (run.attrs[name] for name in ("n", "L", "m", "m1"))
        self.sigma0, self.sigma1 = run.attrs["sigma0"], run.attrs["sigma1"]
        self.rate = self.sigma1**2 * self.m * self.m1  # the mean of S at the start
        self.t = run["time"].values
        self.t1 = events["T1"].time
        self.trained = (
            events["T1"].happened and self.t[-1] > 2 * self.t1 > 0
        )  # right by chance at the start: no Phase 1
        self.phase_2 = self.t > self.t1 if self.trained else np.zeros(self.t.size, bool)
        self.largest_initial_output = float(np.abs(run["margin"][0]).max())

    def at(self, name: str, time: float) -> np.ndarray:
        """A variable at a time."""
        return at_time(self.run[name], time)

    def during_phase_2(self, name: str) -> np.ndarray:
        """A variable at the save points after T1 (at the last one, should there be none)."""
        return self.run[name].values[self.phase_2 if self.phase_2.any() else slice(-1, None)]


def _initial(v: _View) -> list[Claim]:
    deviation = float(v.run["attention_deviation"][0]) * v.L * v.m
    rate = (v.sigma0**2 + v.sigma1**2) * v.m * v.m1
    dG = v.run["dG"].values[0]
    F0 = v.largest_initial_output
    return [
        at_most("at the start |F| <= 0.01", "Condition 1", "<= 0.01", F0, 0.01, "as printed"),
        at_most("at the start |p - 1/L| = O(1/(L m))", "Condition 1", "O(1) * 1/(L m)", deviation, ORDER_ONE, _ORDER),
        near(
            "initial rate of a_j w_j.W_V mu_{1,2} is (sigma0^2 + sigma1^2) m / 6",
            "Lemma 4.1", 1 / 6, float(dG[:2].mean() / rate), F0 / 6 + 3 * (2 / v.m) ** 0.5 / 6,
            "g_i is within |F(0)|/4 of 1/2 on 2/3 of the samples, and S within 3 standard deviations of its mean",
        ),
        at_most(
            "initial rate of mu3 is O(max |F(0)|) of that scale",
            "Lemma 4.2", "O(1)", float(abs(dG[2]) / rate / F0) if F0 > 0 else 0.0, ORDER_ONE, _ORDER,
        ),
    ]  # fmt: skip


def _phase_1(v: _View) -> list[Claim]:
    G, source = v.at("G", v.t1), "Theorem 3.1"
    noise = v.sigma0 * v.sigma1 * math.sqrt(v.m * v.m1)
    attention_scale = v.m**-1.5 * (1 / v.L + v.m**-0.5)
    peak = v.events["one-signal peak"]
    one_signal = v.run["loss_by_class"].sel(sentence_class=["I2", "I3"]).mean("sentence_class").values
    half, constant = v.events["T0.5"], lemma_4_3_constant(v.run)
    between = (v.t >= half.time) & (v.t <= v.t1)
    return [
        at_most("T1 sigma1^2 m m1 = O(1)", source, "O(1)", v.t1 * v.rate, ORDER_ONE, _ORDER),
        at_least("G(mu1) >= Omega(1) at T1", source, "Omega(1)", G[0], OMEGA_ONE, _OMEGA),
        at_least("G(mu2) >= Omega(1) at T1", source, "Omega(1)", G[1], OMEGA_ONE, _OMEGA),
        at_least("-G(mu3) >= Omega(1) at T1", source, "Omega(1)", -G[2], OMEGA_ONE, _OMEGA),
        at_most("random words: |G| = O(sigma0 sigma1 sqrt(m m1)) at T1", "E.26-28", "O(1)", float(np.abs(G[3:]).max() / noise), ORDER_ONE, _ORDER),
        at_least("every margin = Omega(1) at 2 T1", source, "Omega(1)", float(v.at("margin", 2 * v.t1).min()), OMEGA_ONE, _OMEGA, v.trained),
        at_least("the loss is still Theta(1) at T1", source, "Theta(1)", float(v.at("loss", v.t1)), OMEGA_ONE, _OMEGA),
        at_most("|Delta A| = O(m^-1.5 (1/L + m^-0.5)) at T1", "E.26-28", "O(1)", float(v.at("change_A", v.t1) / attention_scale), ORDER_ONE, _ORDER),
        at_most("|Delta Gamma_K| = O(m^-2) at T1", "E.26-28", "O(1)", float(v.at("change_Gamma_K", v.t1) * v.m**2), ORDER_ONE, _ORDER),
        at_most("|Delta Gamma_Q| = O(m^-2) at T1", "E.26-28", "O(1)", float(v.at("change_Gamma_Q", v.t1) * v.m**2), ORDER_ONE, _ORDER),
        at_least("one-signal losses first rise (peak / start)", "Lemma 4.2", "> 1", float(one_signal.max() / one_signal[0]) if peak.happened else 1.0, 1 + 1e-9, "a rise is a rise"),
        at_most("... and fall before T1 (peak time / T1)", "Lemma 4.3", "< 1", peak.time / (v.t1 or math.nan), 1.0, "the peak comes first"),
        at_least("C of (1+C) max(dG1,dG2) <= -dG3 <= (1-C)(dG1+dG2) on [T0.5, T1]", "Lemma 4.3", "> 0", float(constant[between].min()) if between.any() else math.nan, 1e-9, "any C > 0; T0.5 is read off at C = 0.05"),
    ]  # fmt: skip


def _phase_2(v: _View) -> list[Claim]:
    dA, dV = v.during_phase_2("dA"), v.during_phase_2("dGamma_V")
    change = v.run["A"].values[-1] - v.run["A"].values[0]
    coefficients = np.array([change[0, 1], change[1, 0], -change[2, 0], -change[2, 1]])
    signs = [
        *((f"A[mu{k},mu{q}] rises", dA[:, k - 1, q - 1]) for k, q in ((2, 1), (1, 2))),
        *((f"A[mu3,mu{q}] falls", -dA[:, 2, q - 1]) for q in (1, 2)),
        *((f"Gamma_V[mu{a},mu{b}] rises", dV[:, a - 1, b - 1]) for a, b in ((1, 2), (1, 1), (2, 2))),
        *((f"Gamma_V[mu{a},mu3] falls", -dV[:, a - 1, 2]) for a in (1, 2)),
    ]
    late = v.t >= 2 * v.t1
    G = v.run["G"].values[late if v.trained else slice(-1, None), :3]
    sums = [("G1+G2+G3", G.sum(axis=1)), ("-(G1+G3)", -G[:, 0] - G[:, 2]), ("-(G2+G3)", -G[:, 1] - G[:, 2])]
    constants = _loss_constants(v)
    one_order = float(coefficients.max() / coefficients.min()) if coefficients.min() > 0 else math.inf
    random_part = float(v.run["change_A_random"][-1] / coefficients.mean() * v.n)
    return [
        *(at_least(f"{name} in Phase 2", "Theorem 3.2", "always", float((rate > 0).mean()), 1.0, _ALWAYS, v.trained) for name, rate in signs),
        *(at_least(f"{name} >= Omega(1) from 2 T1 on", "Theorem 3.2", "Omega(1)", float(value.min()), OMEGA_ONE, _OMEGA, v.trained) for name, value in sums),
        at_most("(1/L(t) - 1/L(T1)) / (sigma1^2 m m1 (t - T1)) is constant (max / min)", "Theorem F.8", "Theta(1)", float(constants.max() / constants.min()), SAME_ORDER, _FACTOR, v.trained),
        at_most("the training loss ends below 1/m", "Theorem 3.3", "1/poly(m)", float(v.run["loss"][-1]), 1 / v.m, "the first power, for 1/poly(m)", v.trained),
        at_most("the generalisation loss ends below 1/m", "Theorem 3.3", "1/poly(m)", float(v.run["generalisation_loss"][-1]), 1 / v.m, "the first power, for 1/poly(m)", v.trained),
        at_most("C12, C21, -C31, -C32 are positive and of one order (max / min)", "Theorem 3.3", "Theta(1)", one_order if math.isfinite(one_order) else 1e300, SAME_ORDER, _FACTOR, v.trained),
        at_most("coefficients of random words are 1/n of those (ratio x n)", "Theorem 3.3", "O(1)", random_part, ORDER_ONE, _ORDER, v.trained),
    ]  # fmt: skip


def _loss_constants(v: _View) -> np.ndarray:
    """The factor in the loss formula of Theorem F.8 at the save points after 2 T1."""
    late = v.t >= 2 * v.t1
    if not v.trained:
        return np.ones(1)
    inverse = 1 / v.run["loss"].values[late] - 1 / float(v.at("loss", v.t1))
    return inverse / (v.rate * (v.t[late] - v.t1))


def _balance(v: _View) -> list[Claim]:
    s = v.during_phase_2("gradient_by_class")
    s1, s2, s3, s4 = s.T
    total = s.sum(axis=1)
    R, spread = v.during_phase_2("R"), v.during_phase_2("gradient_spread")
    gaps = {"s2+s3+s4-s1": s2 + s3 + s4 - s1, "s1-s2": s1 - s2, "s1-s3": s1 - s3}
    return [
        at_most("|s2 - s3| / min(s2, s3) in Phase 2", "Lemma 4.4", "<< 1", float((np.abs(s2 - s3) / np.minimum(s2, s3)).max()), 0.5, "C << 1 is read as <= 0.5", v.trained),
        at_most("max(s2/s3, s3/s2) <= 2 in Phase 2", "Lemma F.5", "<= 2", float(np.maximum(s2 / s3, s3 / s2).max()), 2.0, "as printed", v.trained),
        *(at_most(f"sum g / ({name}) = O(1) in Phase 2", "Lemma 4.5", "O(1)", float(np.where(gap > 0, total / np.where(gap > 0, gap, 1), 1e300).max()), ORDER_ONE, _ORDER, v.trained) for name, gap in gaps.items()),
        at_least("R > 1 in Phase 2 (smallest R)", "Lemma F.6", "(1, 2)", float(R.min()), 1.0, "as printed", v.trained),
        at_most("R < 2 in Phase 2 (largest R)", "Lemma F.6", "(1, 2)", float(R.max()), 2.0, "as printed", v.trained),
        at_most("max g_i / g_j within a class in Phase 2", "Lemma F.6", "O(1)", float(spread.max()), ORDER_ONE, _ORDER, v.trained),
    ]  # fmt: skip


def _sharp(v: _View) -> list[Claim]:
    run = v.run
    limit = max_margin.limits(run["tokens"].values, run["label"].values, run["class"].values, run.attrs["d"])
    tau, loss, G = readout_clock(run), run["loss"].values, run["G"].values[-1]
    late = tau[-1] >= LATE
    cosine = float(G @ limit.direction / np.linalg.norm(G) / np.linalg.norm(limit.direction))
    one_signal = run["loss_by_class"].sel(sentence_class=["I2", "I3"]).mean("sentence_class").values
    product = limit.loss_times_clock
    S0, F0 = float(run["S0"]), v.largest_initial_output
    log, margin, early = "corrections fall like 1/log t", "max-margin limit", "four-point flow"
    noise = f"the start is not G = 0 but gives |F| up to {F0:.2g}, which moves a logistic loss by half of that"
    return [
        *(near(f"{name} at the end", margin, getattr(limit, field), float(run[field][-1]), 0.005, log, late) for name, field in (("R", "R"), ("s1/s2", "s1_over_s2"), ("s2/s3", "s2_over_s3"))),
        near("L S0 t at the end", margin, product, float(loss[-1] * S0 * v.t[-1]), 0.05 * product, "5 %: the readout's rate grows at finite width", late),
        near("L tau at the end, tau the readout's own clock", margin, product, float(loss[-1] * tau[-1]), 0.01 * product, f"1 %: {log}", late),
        at_least("cosine of G with the max-margin direction", margin, "-> 1", cosine, 0.99, "an angle of 8 degrees, which falls like 1/log t", late),
        near("one-signal losses peak at 0.80257", early, four_point.ONE_SIGNAL_PEAK_LOSS, float(one_signal.max()), F0 / 2, noise),
        near("... at S0 t = 3.5647", early, four_point.ONE_SIGNAL_PEAK_TAU, v.events["one-signal peak"].time * S0, 0.5 * four_point.ONE_SIGNAL_PEAK_TAU, "half of it: the start is random"),
        near("every sample is right from S0 t = 12.979", early, four_point.ALL_RIGHT_TAU, v.t1 * S0, 0.5 * four_point.ALL_RIGHT_TAU, "half of it: the start is random"),
    ]  # fmt: skip
