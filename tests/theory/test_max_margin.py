"""Late-time limits: the numerical solution for any training set against closed forms, a general solver and the flow."""

import jax
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from gradflow.errors import InputError
from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary
from gradflow.theory import four_point, max_margin


def _set(n, L, d=None, random_words="unique", seed=0):
    d = least_vocabulary(n, L) if d is None else d
    batch = CoOccurrence(n, L, d, random_words).sample(jax.random.key(seed))
    return tuple(np.asarray(leaf) for leaf in batch), d


@pytest.mark.parametrize(("n", "L"), [(18, 3), (30, 4), (60, 5), (90, 7), (180, 13)])
def test_unique_random_words_give_the_closed_form(n, L):
    (tokens, label, word_class), d = _set(n, L)
    found = max_margin.limits(tokens, label, word_class, d)
    closed = max_margin.unique_words_limits(n, L)
    np.testing.assert_allclose(found[:4], closed[:4], rtol=1e-9)


def test_the_closed_form_at_n_60_L_5_has_the_quoted_digits():
    np.testing.assert_allclose(max_margin.unique_words_limits(60, 5)[:4], [1.2687, 1.4408, 1.0, 8.223], atol=5e-4)


def test_for_many_samples_the_limits_tend_to_those_of_the_four_point_flow():
    far = max_margin.unique_words_limits(6 * 10**9, 5)
    np.testing.assert_allclose(far[:4], [four_point.LIMIT_R, 7 / 5, 1, four_point.LIMIT_LOSS_TIMES_TAU], rtol=1e-7)


@pytest.mark.parametrize(("n", "L"), [(30, 5), (120, 13)])
def test_the_closed_form_is_refused_exactly_where_class_I4_becomes_tight(n, L):
    (tokens, label, word_class), d = _set(n, L)
    found = max_margin.limits(tokens, label, word_class, d)
    counts = np.stack([np.bincount(words, minlength=d) for words in tokens[word_class == 3]])
    np.testing.assert_allclose(-counts @ found.direction, 1, atol=1e-9)  # the margins of I4 are tight
    assert (counts[:, 3:] @ found.direction[3:] < -0.01).all()  # and pull at its random words
    with pytest.raises(InputError, match="too few"):
        max_margin.unique_words_limits(n, L)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_iid_random_words_agree_with_a_general_solver_and_satisfy_optimality(seed):
    (tokens, label, word_class), d = _set(30, 4, d=12, random_words="iid", seed=seed)
    found = max_margin.limits(tokens, label, word_class, d)
    counts = np.stack([np.bincount(words, minlength=d) for words in tokens])
    margins = label * (counts @ found.direction)
    assert margins.min() > 1 - 1e-9  # feasible
    general = minimize(
        lambda w: w @ w, found.direction + 0.1, jac=lambda w: 2 * w, method="SLSQP",
        constraints={"type": "ineq", "fun": lambda w: label * (counts @ w) - 1, "jac": lambda w: label[:, None] * counts},
        options={"ftol": 1e-13, "maxiter": 500},
    )  # fmt: skip
    assert found.loss_times_clock == pytest.approx(general.fun, rel=1e-6)


def test_long_sentences_need_13_446_times_their_words_and_15_L_always_suffices():
    assert max_margin.least_samples(1e9) / 1e9 == pytest.approx((13 + 193**0.5) / 2, rel=1e-7)
    L = np.arange(3, 1000)
    assert (max_margin.least_samples(L) <= 15 * (L - 2)).all()


@pytest.mark.parametrize(("n", "L"), [(18, 3), (30, 5), (60, 5), (120, 13)])
def test_the_limits_by_class_are_those_of_the_whole_training_set_on_both_sides_of_the_border(n, L):
    (tokens, label, word_class), d = _set(n, L)
    found, expected = max_margin.class_limits(n, L), max_margin.limits(tokens, label, word_class, d)
    np.testing.assert_allclose(found[:4], expected[:4], rtol=1e-7)


def test_the_limits_by_class_at_infinitely_many_samples_are_those_of_the_four_point_flow():
    found = max_margin.class_limits(np.inf, 7)[:4]
    np.testing.assert_allclose(found, [four_point.LIMIT_R, 7 / 5, 1, four_point.LIMIT_LOSS_TIMES_TAU], rtol=1e-9)


@pytest.mark.parametrize("L", [3, 4, 5, 17, 100])
def test_the_border_is_where_the_closed_form_begins_to_be_refused(L):
    border = float(max_margin.least_samples(L))
    max_margin.unique_words_limits(border * (1 + 1e-9), L)
    with pytest.raises(InputError):
        max_margin.unique_words_limits(border * (1 - 1e-9), L)


@pytest.mark.parametrize("L", [3, 10])
def test_on_the_border_R_nears_its_limit_by_c_over_the_logarithm_of_time(L):
    """The exponential loss on the four classes in s = log(tau): d rho / ds = sum_c x_c exp(-x_c . rho) - w, to s = 2000."""
    n = float(max_margin.least_samples(L))
    r, of_class = L - four_point.POINTS.sum(axis=1), n * np.array([3, 1, 1, 1]) / 6
    points = four_point.LABELS[:, None] * np.hstack([four_point.POINTS, np.diag(np.sqrt(r / of_class))])
    limit = max_margin.unique_words_limits(n * (1 + 1e-12), L)
    rho_2, rho_1 = 1 / (limit.s1_over_s2 + 2) * limit.loss_times_clock, limit.s1_over_s2
    w = rho_2 * np.array([rho_1, 1, 1, 0]) @ points
    run = solve_ivp(
        lambda s, rho: np.exp(-points @ rho) @ points - w, (0, 2000), np.zeros(7), method="LSODA", rtol=1e-9
    )
    b = np.exp(-points @ run.y[:, -1])
    R = (b[1:].sum() - b[0]) / (b[0] - b[1])
    found = (R - limit.R) * 2000
    assert found == pytest.approx(max_margin.border_constant(n, L), rel=0.02)  # log(s) / s is left
