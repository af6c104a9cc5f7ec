"""What Yang et al. (2024), arXiv 2410.09605, state of orders and constants, one line each, for `theory.ledger` to judge.

Sources are the paper's numbers. What is measured is a variable of the grid (`observe.scaling`). sigma1^2 m m1, the mean of S
at the start, is the unit of rates; T1 is the first time that every sample is right, where the least margin is 0 by definition,
so that what the theorems say of margins at a time of that order is read at 2 T1. Rates of single neurons are summed over the
m1 of them, which is what the coupled system holds. Of a bound that is a sum, one term is taken where it alone bounds: a ratio to
the sum would drift wherever another term takes over. Those are E.16 (its last term) and the random words of Theorem 3.3. Not held to anything here: Lemmas E.6, E.7, C.1 to C.4 and F.18, whose
quantities are steps of proofs.
"""

import math

import numpy as np
import xarray as xr

from gradflow.theory.ledger import TOLERANCE, Entry


def _rate(g: xr.Dataset) -> xr.DataArray:
    return g["sigma1"] ** 2 * g["m"] * g["m1"]


def _noise(g: xr.Dataset) -> xr.DataArray:
    return g["sigma0"] * g["sigma1"] * (g["m"] * g["m1"]) ** 0.5


def _initial_rate(g: xr.Dataset) -> xr.DataArray:
    return (g["sigma0"] ** 2 + g["sigma1"] ** 2) * g["m"] * g["m1"]


def _score(g: xr.Dataset) -> xr.DataArray:
    return g["sigma0"] ** 2 * g["m"] ** 0.5 / _rate(g) * (1 / g["L"] + g["m"] ** -0.5)


def _random_score(g: xr.Dataset) -> xr.DataArray:
    return g["sigma0"] ** 2 * g["m"] ** 0.5 / _rate(g) / (g["n"] * g["L"])


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
    Entry("|F(0)| = O~(sigma0 sigma1 sqrt(L m m1))", "Lemma D.8", "O~", "initial_output", "O", lambda g: _noise(g) * g["L"] ** 0.5, tilde=True),
    Entry("|F(0)| <= 0.01", "Lemma D.8", "<= 0.01", "initial_output", "within", high=0.01),
    Entry("|p(0) - 1/L| = O~(1/(L m))", "Corollary D.2", "O~", "initial_attention", "O", lambda g: 1 / (g["L"] * g["m"]), tilde=True),
    Entry("rate of mu1, mu2 at the start = Theta((sigma0^2 + sigma1^2) m m1)", "Lemmas 4.1, E.4", "Theta", "initial_rate", "Theta", _initial_rate),
    Entry("... with the constant 1/6", "Lemma E.4, corrected", "1/4 - 1/12", "initial_rate_constant", "within", low=1 / 6 - 0.01, high=1 / 6 + 0.01, why="+- 0.01, as in its proof"),
    Entry("... with the constant 1/3 of the proof", "Lemma E.4, proof", "1/3 +- 0.01", "initial_rate_constant", "within", low=1 / 3 - 0.01, high=1 / 3 + 0.01, printed=True),
    Entry("rate of mu3 at the start = O~((sigma0^2 + sigma1^2) m m1 |F(0)|)", "Lemmas 4.2, E.16", "O~", "initial_rate_mu3", "O", lambda g: _initial_rate(g) * g["initial_output"], tilde=True),
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
    Entry("C12, C21, -C31, -C32 = Theta(sigma0^2 sqrt(m) (1/L + m^-0.5) / (sigma1^2 m m1)) at the end", "Theorem 3.3", "Theta", "signal_score", "Theta", _score),
    Entry("... at the time of training loss 1/m", "Theorem 3.3", "Theta", "signal_score_then", "Theta", _score),
    Entry("... and log^2 m times that", "Theorem 3.3, as its proof's logarithms say", "Theta~", "signal_score_then", "Theta", lambda g: _score(g) * np.log(g["m"]) ** 2),
    Entry("... of one order (largest over smallest)", "Theorem 3.3", "Theta", "signal_score_spread", "Theta"),
    Entry("random words: |C| = O~(1/n) of the signals'", "Theorem 3.3", "O~", "random_score", "O", lambda g: g["signal_score"] / g["n"], tilde=True),
    Entry("random words: |C| = O~(sigma0^2 sqrt(m) / (n L sigma1^2 m m1))", "Theorem 3.3, Lemma F.16", "O~", "random_score", "O", _random_score, tilde=True),
    Entry("rise of p(mu2 | mu1) ~ Delta A / (L sqrt(m))", "Corollary F.17, corrected", "Theta~", "signal_attention", "Theta", lambda g: _score(g) / (g["L"] * g["m"] ** 0.5), tilde=True),
    Entry("rise of p(mu2 | mu1) ~ Delta A / L", "Corollary F.17", "Theta~", "signal_attention", "Theta", lambda g: _score(g) / g["L"], tilde=True, printed=True),
    Entry("|p(t) - p(0)| = O(1/L^2)", "Definition F.1, Corollary F.17", "O", "change_attention", "O", lambda g: g["L"] ** -2),
    Entry("|Delta Gamma_K|, |Delta Gamma_Q| = O~(sigma0^2 / (sigma1^2 m m1))", "Lemma F.19", "O~", "change_Gamma_KQ", "O", lambda g: g["sigma0"] ** 2 / _rate(g), tilde=True),
)  # fmt: skip
