"""One run in a few numbers: each against its value by hand on a made-up run, and against raw states of a real one in numpy.

The made-up run has curves in closed form over x = log(1 + t / T1) and y = 1 / (1 + t / T1), inconsistent with each other on
purpose: what reads another variable, word, sign, class or window than it should has another value. At the start, T1,
2 T1 and the end, x is 0, log 2, log 3, X and y is 1, 1/2, 1/3, Y. What enters no number is large.
"""

import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr
from scipy.optimize import brentq

import gradflow
from gradflow.models import coupled
from gradflow.observe.cooccurrence import Observer, dataset
from gradflow.observe.scaling import _LONG_NAMES, CURVES, ROUNDING, Setting, grid, record
from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary
from gradflow.theory.statements import ENTRIES

# ---------------------------------------------------------------------------------------------------- a run made up

T1, END, PER_DECADE, SIZES = 13.0, 1e6, 400, dict(n=12, L=4, m=1000.0, m1=8.0)
AFTER = (1 + 1e-6) * np.array([T1, 2 * T1])  # windows open here
TIMES = np.unique(np.concatenate([[0.0], np.geomspace(1e-2, END, 8 * PER_DECADE + 1), AFTER]))
X, Y = np.log1p(END / T1), 1 / (1 + END / T1)
LOG_2, LOG_3 = np.log([2, 3])
SENTENCES = np.array([[2, 0, 1, 3], [0, 4, 2, 5], [6, 1, 7, 2], [8, 9, 2, 10]])


def made_up() -> xr.Dataset:
    t = TIMES
    x, y = np.log1p(t / T1), 1 / (1 + t / T1)
    bump, one = y**2 * (1 - y), np.ones_like(t)  # the bump is highest at T1 / 2: 4/27
    loss = 1 / (1.5 + 0.2 * t + 0.3 * T1 * x)
    of_words = [
        2 * x - 0.5,
        2.5 * x + 0.1,
        -3 * x - 0.2,
        0.1 * x,
        0.2 * x + 0.3,
        -0.9 * x + 0.1,
        0.4 * x,
        0.1 * x,
        20 * y**4,
        -0.3 * x,
        0 * x,
    ]
    dG1, dG2 = 3 * y * (1 + y), 2 * y
    s = np.stack([y * (7 + 2 * y), 5 * y, y * (5.5 + 2 * y), y * (4 + 4 * y)], axis=1)
    A = [
        [0.5 - 0.06 * x, -0.3 + 0.05 * x, 0.7 * one],
        [0.1 + 0.02 * x, 0.7 * one, 0.7 * one],
        [0.2 - 0.03 * x, -0.1 - 0.04 * x, 0.7 * one],
    ]
    dA = [[-9 * one, 0.3 - 0.9 * y, 9 * one], [0.2 + y, -9 * one, 9 * one], [-0.4 * one, -0.1 - 0.2 * y, 9 * one]]
    dGamma_V = [[one, one, 4 * y - 1], [-one, one, -one], [one, one, -one]]
    attention = np.tile(x[:, None, None, None], (1, 4, 4, 4))
    attention[:, 0, 1, 0], attention[:, 0, 0, 1] = 0.25 + 0.01 * x, 0.25 + 0.03 * x
    block = ("time", "key", "query")
    by_class = ("time", "sentence_class")
    curves = {name: 0.1 * k * x for k, name in enumerate(("change_Gamma_K", "change_Gamma_Q", "change_Gamma_V"), 2)}
    curves["change_Gamma_K"] += 9 * y**4
    curves["change_Gamma_V"] += 9 * y**4
    curves |= {
        "change_A": bump,
        "change_A_random": 0.013 * x + y**4,
        "change_attention": 0.05 * x + y**4,
        "attention_deviation": 0.02 + x,
    }
    curves |= {
        "loss": loss,
        "generalisation_loss": 3 * loss**0.5,
        "R": np.where(y < 0.6, 1.6 - 2.4 * y + 6 * y**2, 0.5),
        "s2_over_s3": s[:, 1] / s[:, 2],
    }
    curves |= {"S": 5 - 2 * x + x**2 / 2, "readout_rate": (5 - 2 * x + x**2 / 2) * (1 + 0.1 * x)}
    variables = {name: (("time",), values) for name, values in curves.items()} | {
        "G": (("time", "word"), np.stack(of_words, axis=1)),
        "dG": (("time", "signal"), np.stack([dG1, dG2, -dG1 * (1.4 - 0.55 * y)], axis=1)),
        "A": (block, np.moveaxis(np.array(A), 2, 0)),
        "dA": (block, np.moveaxis(np.array(dA), 2, 0) * loss[:, None, None]),
        "dGamma_V": (block, np.moveaxis(np.array(dGamma_V), 2, 0)),
        "margin": (("time", "sample"), np.stack([x - LOG_2, 1.5 * (x - 0.4), 2 * x + 0.5, 4 * x - 0.9], axis=1)),
        "attention": (("time", "sentence_class", "key_kind", "query_kind"), attention),
        "loss_by_class": (by_class, np.stack([9 + x, 0.6 + 2 * bump, 0.8 + bump, 9 + x], axis=1)),
        "gradient_by_class": (by_class, s),
        "gradient_spread": (by_class, np.stack([1 + y, 1 + y, 1 + y, 2 + 3 * y], axis=1)),
        "tokens": (("sample", "position"), SENTENCES),
        "S0": ((), 5.0),
        "Gamma_V0": (("word", "other_word"), np.diag([0.25, 0.5, 9, *8 * [7.0]]) + 1),
    }  # fmt: skip
    return xr.Dataset(variables, {"time": t, "sentence_class": ["I1", "I2", "I3", "I4"]}, SIZES)


def share_after(time):
    """Of the save points after T1, those after `time`."""
    return np.mean(time < TIMES[TIMES > T1])


# where the loss is 1/m, with x there
SMALL = brentq(lambda t: 1.5 + 0.2 * t + 0.3 * T1 * np.log1p(t / T1) - 1000, 1, END)
X_SMALL = np.log1p(SMALL / T1)
S_AT_T1, S_AT_END = (5 - 2 * x + x**2 / 2 for x in (LOG_2, X))

BY_HAND = {
    "initial_output": 0.9,
    "initial_attention": 0.02,
    "initial_rate": (6 + 2) / 2,
    "initial_rate_constant": 4 / (5 + 8 * (1.25 + 1.5) / 2),
    "initial_rate_mu3": 6 * 0.85,
    "peak_over_start": 1 + 1.5 * 4 / 27 / 0.7,
    "peak_over_T1": 0.5,
    "T1": T1,
    "T_half": T1 * (0.55 / 0.35 - 1),  # 0.4 - 0.55 y = 0.05
    "G12_at_T1": 2 * LOG_2 - 0.5,
    "minus_G3_at_T1": 3 * LOG_2 + 0.2,
    "G_random_at_T1": 20 / 16,
    "loss_at_T1": 1 / (1.5 + 0.2 * T1 + 0.3 * T1 * LOG_2),
    "margin_at_2T1": LOG_3 - LOG_2,
    "lemma_4_3_at_T1": 0.125,
    "rate_at_T1": 1.0,
    "s2_minus_s3_until_T1": 2.5 / 12,
    "change_A_until_T1": 4 / 27,
    "change_Gamma_K_until_T1": 9.0,
    "change_Gamma_Q_until_T1": 0.3 * LOG_2,
    "change_Gamma_V_until_T1": 9.0,
    "change_S_until_T1": 5 - S_AT_T1,
    "change_attention_until_T1": 1.0,
    "score_signs": share_after(2 * T1),  # 0.3 > 0.9 y
    "Gamma_V_signs": share_after(3 * T1),  # 4 y < 1
    "order_of_gradients": share_after(3 * T1),  # 4 + 4 y <= 5
    "S_rises": share_after(T1 * (np.e**2 - 1)),  # x >= 2
    "G12_later": 2 * LOG_3 - 0.5,
    "minus_G3_later": 3 * LOG_3 + 0.2,
    "minus_G3_growth": 3.0,
    "sum_later": 1.5 * LOG_3 - 0.6,
    "pair_sums_later": 0.5 * LOG_3 + 0.1,
    "G_ratio": (3 * LOG_3 + 0.2) / (2 * LOG_3 - 0.5),
    "largest_G": 3 * X + 0.2,
    "s2_s3_gap": 0.1 + 0.4 / 2,
    "s2_s3_gap_at_end": 0.1 + 0.4 * Y,
    "s2_s3_ratio": 1.1 + 0.4 / 2,
    "sum_over_gap_3": 21.5 / 7.5,
    "sum_over_gap_12": 25.5 / 1.5,
    "smallest_R": 1.6 - 0.24,
    "largest_R": 1.6 - 1.2 + 1.5,
    "R_at_end": 1.6,
    "rate_ratio": 1.5 * 1.5,
    "lemma_4_5": 0.125,
    "gradient_spread": 3.5,
    "loss_constant_least": 0.2,
    "loss_constant_largest": 0.2 + 0.3 * (LOG_3 - LOG_2),
    "time_to_small_loss": SMALL,
    "generalisation_then": 3 / 1000**0.5,
    "change_S": S_AT_END - S_AT_T1,
    "readout_excess": 0.1 * X,
    "change_Gamma_V": 0.4 * X,
    "change_Gamma_KQ": 0.3 * X,
    "change_G_random": 0.9 * (X - LOG_2),
    "random_part": 0.7 * X - 0.4,
    "random_part_growth": 0.7,
    "score_rate_least": 0.3 - 0.9 / 2,
    "score_rate_largest": 0.2 + 1 / 2,
    "signal_score": 0.035 * X,
    "signal_score_then": 0.035 * X_SMALL,
    "signal_score_spread": 2.5,
    "largest_signal_score": 0.06 * (X - LOG_2),
    "random_score": 0.013 * X,
    "signal_attention": 0.02 * (X - LOG_2),
    "change_attention": 0.05 * X,
}


def recorded(run):
    return record(run, run["time"].values)


@pytest.fixture(scope="module")
def seen():
    return recorded(made_up())


# a save point is 6e-3 of its time from the next, between which curves bend by 1e-5; a share is off by one save point at most
@pytest.mark.parametrize("name", BY_HAND)
def test_each_number_is_its_value_by_hand(seen, name):
    assert seen[name] == pytest.approx(BY_HAND[name], rel=1e-3)


def test_the_table_has_every_number_and_every_one_that_a_statement_is_judged_by():
    assert set(BY_HAND) == set(_LONG_NAMES) and {entry.measured for entry in ENTRIES} <= set(BY_HAND)


def test_a_record_has_every_number_and_curve_of_every_run_with_its_name_and_unit(seen):
    short = recorded(made_up().sel(time=slice(1.9 * T1)))
    for each in (seen, short):
        assert list(each.data_vars) == [*_LONG_NAMES, *CURVES]
        assert all(variable.attrs["long_name"] and variable.attrs["units"] == "1" for variable in each.values())
    assert seen["T1"].dims == () and seen["loss"].dims == ("clock",)


def test_a_run_that_ends_before_2_T1_has_numbers_of_its_start_alone(seen):
    short = recorded(made_up().sel(time=slice(1.9 * T1)))
    told = {name for name in _LONG_NAMES if np.isfinite(short[name])}
    assert told == {name for name in BY_HAND if name.startswith("initial")} | {"peak_over_start"}
    assert all(short[name] == seen[name] for name in told)


def test_a_run_in_which_not_every_sample_comes_right_says_so_and_is_not_merely_missing():
    assert recorded(made_up().sel(time=slice(0.9 * T1)))["T1"] == np.inf


def test_denominators_that_are_not_positive_are_infinite_and_attention_below_rounding_is_missing():
    run = made_up()
    run["gradient_by_class"][-1, 0] = 0  # s1 < s2, s3
    run["gradient_by_class"][-2, 0] = 9 * run["gradient_by_class"][-2, 1]  # s1 > s2 + s3 + s4
    run["dG"][-1, 0] *= -1
    run["G"][-1, 0] *= -1
    run["A"][-1] = run["A"][0] - 1
    run["change_attention"] *= ROUNDING / 2
    bad = recorded(run)
    infinite = ("sum_over_gap_12", "sum_over_gap_3", "rate_ratio", "G_ratio", "signal_score_spread")
    assert [bad[name] for name in infinite] == [np.inf] * 5
    assert bad["lemma_4_5"] == -1 and np.isnan([bad["change_attention"], bad["change_attention_until_T1"]]).all()


def test_a_grid_places_runs_by_setting_and_seed():
    settings = [Setting(12, 4, 1000, 8, start) for start in (0.5, 0.1)]
    whole = recorded(made_up())
    stacked = grid({(settings[1], 7): whole, (settings[0], 5): xr.full_like(whole, np.nan).assign(T1=1.0)}, [5, 7])
    np.testing.assert_array_equal(np.isfinite(stacked["T1"]), [[False, True], [True, False]])
    np.testing.assert_allclose(stacked["sigma0"], [0.1 / 4000**0.5, 0.5 / 4000**0.5])
    np.testing.assert_allclose(stacked["sigma1"], 8**-0.5)
    np.testing.assert_array_equal(stacked["start"], [0.1, 0.5])
    assert stacked["loss"].attrs == whole["loss"].attrs and stacked.sizes["clock"] == TIMES.size
    for name in CURVES:
        np.testing.assert_array_equal(stacked[name][0, 1], made_up()[name])
    assert settings[0].rate == pytest.approx(1000) and settings[0].score == pytest.approx(0.25 / 4000 * 1000**0.5)


# ------------------------------------------------------------------------------------- a real run, from its raw states

N, L, M, M1 = 12, 4, 64, 8


@pytest.fixture(scope="module")
def solved():
    """What is recorded of a flow, its times, its raw states, and its sentences and fresh ones."""
    task = CoOccurrence(N, L, least_vocabulary(N, L))
    batch, held_out = task.sample(jax.random.key(0)), task.held_out(jax.random.key(2), 30)
    initial = coupled.draw(jax.random.key(1), m=M, m1=M1, d=task.d, L=L)
    observer, width, clock = (
        Observer(initial, held_out),
        coupled.Width(float(M), float(M1)),
        gradflow.log_times(1e-2, 1e4, 121),
    )
    flow = gradflow.gradient_flow(
        coupled.loss, initial, batch, width, field=coupled.field, times=clock / M, rtol=1e-6, show_progress=False,
        save=lambda state, *data: (observer(state, *data), state),
    )  # fmt: skip
    observed, states = flow.states
    run = dataset(dataclasses.replace(flow, states=observed), batch, initial, width)
    seen = {name: float(value) for name, value in record(run, clock)[list(_LONG_NAMES)].items()}
    return seen, flow.times, jax.tree.map(np.asarray, states), batch, held_out


def attention(A, words):
    """p (time, sentence, key, query)."""
    weight = np.exp(A[:, words[:, :, None], words[:, None, :]] / M**0.5)
    return weight / weight.sum(axis=2, keepdims=True)


def margins(G, p, words, y):
    return y * (p.sum(axis=3) * G[:, words]).sum(axis=2)


def from_raw_states(t, state, batch, held_out, t1):
    """The numbers from the definitions: sums over sentences and positions, fields as in the table of `models.coupled`."""
    words, y, kind = (np.asarray(each) for each in batch)
    G, S, A, Gamma_V = state.G, state.S, state.A, state.Gamma_V
    p, one_hot = attention(A, words), np.eye(G.shape[1])[words]
    margin = margins(G, p, words, y)
    loss, g = np.log1p(np.exp(-margin)), 1 / (1 + np.exp(margin))
    r = np.einsum("ti,i,tihl,iha->ta", g, y, p, one_hot) / N
    above_mean = G[:, words][..., None] - np.einsum("tihl,tih->til", p, G[:, words])[:, :, None]
    D = np.einsum("ti,i,tihl,iha,ilb->tab", g, y, p * above_mean, one_hot, one_hot, optimize=True) / (N * M**0.5)
    second = M1 * np.einsum("tab,tb->ta", Gamma_V, r)
    dG, dA = S[:, None] * r + second, D @ state.Gamma_Q + state.Gamma_K @ D
    dGamma_V = 2 * np.einsum("ta,tb->tab", r, G)
    dGamma_V = (dGamma_V + np.moveaxis(dGamma_V, 1, 2)) / 2
    phase_2, later = t > t1, t >= 2 * t1

    def at(time, values):
        after = np.searchsorted(t, time)
        weight = (time - t[after - 1]) / (t[after] - t[after - 1])
        return weight * values[after] + (1 - weight) * values[after - 1]

    def until(values):
        change = np.abs(values - values[0]).reshape(len(t), -1).max(axis=1)
        return max(change[t <= t1].max(), at(t1, change))

    def signals(a):
        return np.array([a[..., 1, 0], a[..., 0, 1], -a[..., 2, 0], -a[..., 2, 1]])

    fixed = np.arange(G.shape[1]) < 3
    random_pair = ~(fixed[:, None] & fixed)
    s = np.array([g[:, kind == k].sum(axis=1) for k in range(4)])
    per_loss, C = signals(dA)[:, phase_2] / loss[phase_2].mean(axis=1), A - A[0]
    inverse = 1 / loss.mean(axis=1)
    constants = (inverse[later] - 1 / at(t1, loss.mean(axis=1))) / (t[later] - t1)
    # p(mu2 | mu1) and p(mu1 | mu2) in the sentences that hold both
    both = [(i, list(words[i]).index(0), list(words[i]).index(1)) for i in np.flatnonzero(kind == 0)]
    pair = np.mean([(p[:, i, two, one] + p[:, i, one, two]) / 2 for i, one, two in both], axis=0)
    within = [g[phase_2][:, kind == k] for k in range(4)]
    fresh_words, fresh_y = np.asarray(held_out.tokens), np.asarray(held_out.label)
    fresh = np.log1p(np.exp(-margins(G, attention(A, fresh_words), fresh_words, fresh_y))).mean(axis=1)
    log_t = np.interp(np.log(M), np.log(inverse[1:]), np.log(t[1:]))
    random_words = G[:, words] * ~fixed[words]
    return {
        "initial_output": np.abs(margin[0]).max(),
        "initial_attention": np.abs(p[0] - 1 / L).max(),
        "initial_rate": dG[0, :2].mean(),
        "initial_rate_constant": dG[0, :2].mean() / (S[0] + M1 * (Gamma_V[0, 0, 0] + Gamma_V[0, 1, 1]) / 2),
        "initial_rate_mu3": abs(dG[0, 2]),
        "peak_over_start": loss[:, (kind == 1) | (kind == 2)].mean(axis=1).max() / loss[0, (kind == 1) | (kind == 2)].mean(),
        "margin_at_2T1": at(2 * t1, margin).min(),
        "G_random_at_T1": np.abs(at(t1, G))[3:].max(),
        "change_A_until_T1": until(A),
        "change_Gamma_K_until_T1": until(state.Gamma_K),
        "change_Gamma_Q_until_T1": until(state.Gamma_Q),
        "change_Gamma_V_until_T1": until(Gamma_V),
        "change_S_until_T1": until(S),
        "change_attention_until_T1": until(p),
        "s2_minus_s3_until_T1": np.abs(s[1] - s[2])[t <= t1].max() / N,
        "rate_at_T1": at(t1, dG)[:2].min(),
        "score_signs": (per_loss > 0).all(axis=0).mean(),
        "score_rate_least": per_loss.min(),
        "score_rate_largest": per_loss.max(),
        "Gamma_V_signs": (dGamma_V[phase_2][:, [0, 0, 1, 0, 1], [1, 0, 1, 2, 2]] * [1, 1, 1, -1, -1] > 0).all(axis=1).mean(),
        "S_rises": (2 * M1 * (r * G).sum(axis=1)[phase_2] > 0).mean(),
        "rate_ratio": np.exp(np.abs(np.log(dG[:, 0] / dG[:, 1]))[phase_2]).max(),
        "sum_over_gap_3": (s.sum(axis=0) / (s[1] + s[2] + s[3] - s[0]))[phase_2].max(),
        "sum_over_gap_12": (s.sum(axis=0) / (s[0] - s[1:3]))[:, phase_2].max(),
        "gradient_spread": max((each.max(axis=1) / each.min(axis=1)).max() for each in within),
        "R_at_end": (s[1] + s[2] + s[3] - s[0])[-1] / (s[0] - s[1])[-1],
        "loss_constant_least": constants.min(),
        "loss_constant_largest": constants.max(),
        "readout_excess": (r[-1] @ second[-1]) / (r[-1] @ r[-1]) / S[-1],
        "change_S": S[-1] - at(t1, S),
        "change_Gamma_V": np.abs(Gamma_V[-1] - Gamma_V[0]).max(),
        "change_Gamma_KQ": max(np.abs(each[-1] - each[0]).max() for each in (state.Gamma_K, state.Gamma_Q)),
        "change_G_random": np.abs(G[-1] - at(t1, G))[3:].max(),
        "random_part": np.abs(random_words.sum(axis=2))[-1].max(),
        "signal_score": signals(C[-1]).mean(),
        "signal_score_spread": signals(C[-1]).max() / signals(C[-1]).min(),
        "largest_signal_score": np.abs(A[-1] - at(t1, A))[:3, :3].max(),
        "random_score": np.abs(C[-1])[random_pair].max(),
        "signal_attention": pair[-1] - at(t1, pair),
        "change_attention": np.abs(p[-1] - p[0]).max(),
        "time_to_small_loss": np.exp(log_t),
        "generalisation_then": np.exp(np.interp(log_t, np.log(t[1:]), np.log(fresh[1:]))),
        "signal_score_then": np.interp(log_t, np.log(t[1:]), signals(C[1:]).mean(axis=0)),
    }  # fmt: skip


def test_the_numbers_of_a_real_run_are_those_of_its_raw_states(solved):
    seen, t, state, batch, held_out = solved
    expected = from_raw_states(t, state, batch, held_out, seen["T1"])
    off = {
        name: (seen[name], value) for name, value in expected.items() if seen[name] != pytest.approx(value, rel=1e-6)
    }
    assert not off


def test_T1_is_where_the_last_sentence_comes_right_and_the_random_part_is_taken_at_nearly_uniform_attention(solved):
    seen, t, state, batch, _ = solved
    words, y, _ = (np.asarray(each) for each in batch)
    p = attention(state.A, words)
    least = margins(state.G, p, words, y).min(axis=1)
    after = np.argmax(least > 0)
    assert t[after - 1] < seen["T1"] < t[after]
    of_random = state.G[-1][words] * (words >= 3)
    exact = np.abs((p[-1].sum(axis=2) * of_random).sum(axis=1)).max()
    assert abs(seen["random_part"] - exact) <= L * np.abs(p[-1] - 1 / L).max() * np.abs(of_random).sum(axis=1).max()
