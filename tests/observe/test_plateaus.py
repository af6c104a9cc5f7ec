"""Plateaus on curves whose plateaus are known in closed form or by exhaustive search, and none where there are none."""

import functools
import itertools

import jax
import numpy as np
import optax
import pytest
from scipy.optimize import brentq

import gradflow
from gradflow.models import transformer
from gradflow.observe import plateaus
from gradflow.observe.phases import NEVER
from gradflow.observe.plateaus import find_plateau, find_plateaus, half_rise, lead
from gradflow.observe.sequences import Observer, dataset
from gradflow.tasks.sequences import Fresh, WindowSum

EVEN = np.linspace(0, 1, 81)
GRIDS = {
    "even": EVEN,
    "random": np.sort(np.random.default_rng(0).uniform(0, 1, 161)),
    "denser at the start": np.linspace(0, 1, 161) ** 2,
}


def fermi(t, t0, tau):
    """A drop from 1 to 0 at t0."""
    return 1 / (1 + np.exp((t - t0) / tau))


def integral_of_fermi(a, b, t0, tau):
    return (b - a) - tau * np.log((1 + np.exp((b - t0) / tau)) / (1 + np.exp((a - t0) / tau)))


def by_hand(t, t0, tau):
    """The plateau before a drop on the points t: start, end, length, level, drop and level after, from the definition."""
    first, last = fermi(t[[0, -1]], t0, tau)
    height = (first - last) / 10

    def when(level):
        return t0 + tau * np.log(1 / level - 1)

    end, rest = when(first - height), when(last + height)
    level = integral_of_fermi(t[0], end, t0, tau) / (end - t[0])
    after = integral_of_fermi(rest, t[-1], t0, tau) / (t[-1] - rest)
    return np.array([t[0], end, end - t[0], level, when((level + after) / 2), after])


def falls_first(t):
    return 0.3 * np.exp(-t / 0.05) + 0.7 * fermi(t, 0.6, 0.03)


def staircase(t, depths=(1 / 3, 1 / 3, 1 / 3), at=(0.25, 0.5, 0.75), tau=0.005):
    return sum(depth * fermi(t, t0, tau) for depth, t0 in zip(depths, at, strict=True))


@functools.cache
def searched():
    """Start, end, length, level of the plateau of `falls_first`: its longest stay before 0.6, by search on a fine grid."""
    t = np.linspace(0, 1, 20001)
    loss = falls_first(t)
    height = (loss[0] - loss[-1]) / 10
    first = np.flatnonzero(t < 0.6)
    last = np.array([np.count_nonzero(loss >= loss[i] - height) - 1 for i in first])  # the loss falls all the time
    i = int(np.argmax(last - first))
    j = last[i]
    return np.array([t[i], t[j], t[j] - t[i], loss[i : j + 1].mean()])


def numbers(plateau):
    """Values and errors."""
    return np.array(plateau).T


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("t0", "tau"), [(0.6, 0.04), (0.8, 0.02), (0.45, 0.03)])
def test_a_flat_start_before_a_drop_is_as_computed_by_hand_within_its_stated_errors(grid, t0, tau):
    t = GRIDS[grid]
    value, error = numbers(find_plateau(t, fermi(t, t0, tau)))
    # 1e-3: the exact plateau begins at the first point, where the monotone fit is sampled by a thousandth of the fall
    np.testing.assert_array_less(np.abs(value - by_hand(t, t0, tau)), error + 1e-3)
    assert (error < 0.02).all()


def test_the_stay_between_two_falls_is_the_one_that_a_search_finds():
    t = np.linspace(0, 1, 1001)
    value, error = numbers(find_plateau(t, falls_first(t)))
    # 1e-3 of time: tops are tried a hundredth of the height apart, and the curve takes so long from one to the next
    np.testing.assert_array_less(np.abs(value[:4] - searched()), error[:4] + 1e-3)


@pytest.mark.parametrize(("points", "noise"), [(81, 0.003), (81, 0.015), (400, 0.04)])
@pytest.mark.parametrize("curve", ["flat start", "falls first"])
def test_noisy_curves_have_their_true_plateau_within_the_stated_errors_nearly_always(curve, points, noise):
    t, random = np.linspace(0, 1, points), np.random.default_rng(11)
    loss, truth = {
        "flat start": (fermi(t, 0.6, 0.04), by_hand(t, 0.6, 0.04)),
        "falls first": (falls_first(t), searched()),
    }[curve]
    within = np.zeros(truth.size)
    for _ in range(30):
        plateau = find_plateau(t, loss + noise * random.normal(size=t.size))
        assert plateau.found
        value, error = numbers(plateau)[:, : truth.size]
        within += np.abs(value - truth) <= error
    # two standard deviations hold 95 %, 28.5 of 30; 24 is less likely than 1 % then. The longest stay comes out long: two of three
    assert (np.delete(within, 2) >= 24).all() and within[2] >= 20


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.015])
def test_each_step_of_a_staircase_is_found_in_order(noise):
    t = np.linspace(0, 1, 301)
    found = find_plateaus(t, staircase(t) + noise * np.random.default_rng(3).normal(size=t.size))
    assert len(found) == 3
    for plateau, level, drop in zip(found, (1, 2 / 3, 1 / 3), (0.25, 0.5, 0.75), strict=True):
        # the mean over a stay sees the bends at its ends: less than a tenth of the height, 0.01
        assert abs(plateau.level.value - level) < 0.01 + plateau.level.error
        assert abs(plateau.drop.time - drop) < 0.001 + plateau.drop.error  # and the half moves by 0.005 / 0.33 * 4 tau
        assert plateau.end.time < plateau.drop.time
    assert all(one.end.time < other.start.time for one, other in itertools.pairwise(found))
    assert [p.after.value for p in found[:-1]] == [p.level.value for p in found[1:]]


def test_of_several_the_one_before_the_largest_drop_is_chosen_and_not_the_longest():
    t = np.linspace(0, 1, 301)
    chosen = find_plateau(t, staircase(t, depths=(0.2, 0.5, 0.3), at=(0.4, 0.6, 0.9)))
    assert abs(chosen.drop.time - 0.6) < 0.005 and abs(chosen.level.value - 0.8) < 0.01


@pytest.mark.parametrize(("a", "b", "c"), [(3.7, 11.0, 1.0), (0.01, -5.0, 400.0), (1.0, 0.0, 1e-6)])
def test_units_of_loss_and_time_do_not_matter(a, b, c):
    loss = falls_first(EVEN) + 0.01 * np.random.default_rng(4).normal(size=EVEN.size)
    value, error = numbers(find_plateau(EVEN, loss))
    scaled, scaled_error = numbers(find_plateau(c * EVEN, a * loss + b))
    unit = np.array([c, c, c, a, c, a])
    np.testing.assert_allclose(scaled, unit * value + b * np.array([0, 0, 0, 1, 0, 1]), rtol=1e-9)  # rounding
    np.testing.assert_allclose(scaled_error, unit * error, rtol=1e-6)  # of errors, which are differences


def test_in_log_time_stays_are_compared_on_the_logarithm_and_told_in_steps():
    u = np.linspace(-2, 3, 161)
    loss = falls_first((u + 2) / 5) + 0.005 * np.random.default_rng(5).normal(size=u.size)
    of_log, of_time = find_plateau(u, loss), find_plateau(np.exp(u), loss, log_time=True)
    for name in ("start", "end", "drop"):
        assert getattr(of_time, name).time == pytest.approx(np.exp(getattr(of_log, name).time))
    assert of_time.length.time == pytest.approx(of_time.end.time - of_time.start.time)
    assert of_time.level.value == pytest.approx(of_log.level.value)
    assert find_plateau(np.r_[0, np.exp(u)], np.r_[1, loss], log_time=True) == of_time


def test_an_exponential_decay_has_a_plateau_in_log_time_alone():
    t = gradflow.linear_times(10, 401)
    assert not find_plateau(t, np.exp(-t)).found
    t = np.geomspace(1e-4, 10, 401)
    plateau = find_plateau(t, np.exp(-t), log_time=True)
    assert plateau.start.time == pytest.approx(t[0]) and plateau.end.time == pytest.approx(
        -np.log(0.9), rel=0.01
    )  # exp(-t) = 0.9


NO_PLATEAUS = {
    "exponential": lambda t: np.exp(-5 * t),
    "fast exponential": lambda t: np.exp(-30 * t),
    "power law": lambda t: (1 + 20 * t) ** -0.5,
    "steep power law": lambda t: (1 + 5 * t) ** -2.0,
    "straight line": lambda t: 1 - t,
    "constant": lambda t: 0.3 + 0 * t,
    "two equal slopes": lambda t: np.where(t < 0.5, 1 - t, 0.5 - (t - 0.5)),
    "rising": lambda t: t**2,
    "half a cosine": lambda t: 0.5 + 0.5 * np.cos(np.pi * t),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shape", NO_PLATEAUS)
def test_there_is_no_plateau_where_there_is_none(shape, grid):
    t, random = GRIDS[grid], np.random.default_rng(6)
    assert find_plateaus(t, NO_PLATEAUS[shape](t)) == ()
    assert find_plateau(t, NO_PLATEAUS[shape](t)) is plateaus.NO_PLATEAU and not plateaus.NO_PLATEAU.found
    for noise in (0.01, 0.1, 1.0):  # what lies between is in the next test
        assert not any(find_plateaus(t, NO_PLATEAUS[shape](t) + noise * random.normal(size=t.size)) for _ in range(10))


def test_false_alarms_are_rare_at_the_noise_that_is_just_admitted():
    random = np.random.default_rng(7)
    curves = [NO_PLATEAUS[name](EVEN) for name in ("exponential", "steep power law", "straight line", "constant")]
    alarms = sum(
        bool(find_plateaus(EVEN, curve + noise * random.normal(size=EVEN.size)))
        for curve in curves
        for noise in (0.02, 0.025, 0.03)
        for _ in range(25)
    )
    assert alarms <= 2  # of 300; measured over 9600 curves of this kind: 3


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_curve_that_ends_on_its_plateau_needs_a_floor_to_say_so_and_has_no_drop(noise):
    loss = falls_first(EVEN) + noise * np.random.default_rng(8).normal(size=EVEN.size)
    whole, cut = find_plateau(EVEN, loss), EVEN < 0.5
    assert whole.found and not whole.censored
    assert not find_plateau(EVEN[cut], loss[cut]).found
    plateau = find_plateau(EVEN[cut], loss[cut], floor=0.0)
    assert plateau.censored and plateau.drop == NEVER and plateau.end.time == EVEN[cut][-1]
    last = falls_first(EVEN[cut][-1]) + falls_first(0) / 10  # the stay so far is from one height above the end
    start = brentq(lambda t: falls_first(t) - last, 0, 0.3)
    assert abs(plateau.start.time - start) <= plateau.start.error + 1e-3  # linear between save points
    assert abs(plateau.level.value - 0.7) < 0.01 + plateau.level.error
    assert not find_plateau(EVEN, loss, floor=0.0).censored  # it has arrived


def test_what_a_floor_decides():
    t = EVEN
    assert find_plateau(t, np.ones_like(t), floor=0.0).censored
    assert find_plateau(t, np.ones_like(t), floor=0.0).length.time == 1
    assert not find_plateau(t, np.ones_like(t), floor=1.0).found
    assert find_plateau(t, 0.5 + 0.5 * np.exp(-20 * t), floor=0.0).censored
    assert not find_plateau(t, 0.5 + 0.5 * np.exp(-20 * t), floor=0.5).found
    assert not find_plateau(t, 1 - t / 2, floor=0.0).found
    found = find_plateaus(t, 0.3 + staircase(t, (0.4, 0.3), (0.3, 0.6)), floor=0.0)
    assert [p.censored for p in found] == [False, False, True]
    assert find_plateau(t, 0.3 + staircase(t, (0.4, 0.3), (0.3, 0.6)), floor=0.0) == found[0]


def test_a_curve_that_had_to_be_averaged_keeps_its_ends():
    t = np.linspace(0, 1, 400)
    plateau = find_plateau(t, 1 + 0.04 * np.random.default_rng(10).normal(size=t.size), floor=0.0)
    assert (plateau.start.time, plateau.end.time) == (0, 1)


def test_a_drop_between_two_save_points_lies_between_them():
    plateau = find_plateau(EVEN, np.where(EVEN < 0.505, 1.0, 0.0))
    assert (
        0.5 <= plateau.drop.time <= 0.5125
        and plateau.drop.error > 0
        and plateau.level.value == pytest.approx(1, abs=0.01)
    )


def test_half_rise_is_where_a_rise_is_half_done_and_never_where_nothing_rises():
    t, random = np.linspace(0, 1, 81), np.random.default_rng(9)
    rise = 0.2 + 0.7 * (1 - fermi(t, 0.43, 0.03))
    event = half_rise(t, rise)
    assert abs(event.time - 0.43) <= event.error + 1e-5 < 1e-3  # the tails of the rise at both ends
    events = [half_rise(t, rise + 0.03 * random.normal(size=t.size)) for _ in range(40)]
    assert (
        sum(abs(event.time - 0.43) <= event.error for event in events) >= 32
    )  # 38 expected of two standard deviations
    assert not half_rise(t, np.ones_like(t)).happened and not half_rise(t, -rise).happened
    assert not any(half_rise(t, random.normal(size=t.size)).happened for _ in range(100))


def test_lead_is_the_time_between_two_half_rises():
    t = np.linspace(0, 1, 161)
    early, late = 1 - fermi(t, 0.4, 0.03), 5 * (1 - fermi(t, 0.55, 0.02))
    ahead, behind = lead(t, early, late), lead(t, late, early)
    assert abs(ahead.time - 0.15) <= ahead.error + 1e-5 and ahead.time == -behind.time and ahead.error == behind.error
    assert not lead(t, early, np.zeros_like(t)).happened


@pytest.mark.parametrize(
    ("steps", "loss", "options", "message"),
    [
        (EVEN[:7], EVEN[:7], {}, "At least 8"),
        (EVEN[::-1], EVEN, {}, "ascend"),
        (EVEN, EVEN[1:], {}, "same length"),
        (EVEN, np.where(EVEN > 0.5, np.nan, 1), {}, "finite"),
        (EVEN - 0.5, EVEN, {"log_time": True}, "negative"),
    ],
)
def test_what_is_no_curve_is_refused(steps, loss, options, message):
    with pytest.raises(gradflow.InputError, match=message):
        find_plateau(steps, loss, **options)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_training_on_window_sums_has_one_plateau_near_its_closed_form_that_ends_in_the_rise_of_accuracy(seed):
    task, keys = WindowSum(n=8, p=7), jax.random.split(jax.random.key(seed), 3)
    weights = transformer.init(keys[0], vocabulary=task.vocabulary, context=task.length, width=64)
    run = gradflow.descend(
        transformer.loss, weights, stream=Fresh(task, 64, keys[2]), held_out=Fresh(task, 64, keys[1]), optimizer=optax.adam,
        learning_rate=1e-3, steps=300, save_steps=np.arange(0, 301, 5), save=Observer(task),
    )  # fmt: skip
    seen = dataset(run, task, weights, 1e-3)
    steps, loss, accuracy = seen["step"].values, seen["loss"].values, seen["accuracy"].mean("output").values
    (plateau,) = find_plateaus(steps, loss, floor=task.losses.floor)
    assert abs(plateau.level.value - task.losses.plateau) < (loss[0] - task.losses.floor) / 10  # a stay is as high
    assert (
        abs(plateau.drop.time - half_rise(steps, accuracy).time) < 10
    )  # two save points: half of one is not half of the other
    assert lead(steps, seen["progress"].values[:, 0, 0], accuracy).time > 0
