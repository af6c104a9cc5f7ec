"""Loss plateaus: where a curve lingers before it drops, found on any loss curve, with an error for every number.

Abrupt learning (Gopalani and Hu 2025, arXiv 2506.13688, section 3) is a long stretch at nearly one loss, then a sudden drop. Here this
is stated in levels, so that no scale of time enters. Let the height be a tenth of the whole fall of the curve, and the stay
at a level the time in which the loss falls from there by the height:

    a plateau is a level whose stay is longest among its neighbours', and `CONTRAST` = 5 times the shortest stay between it and
    any longer one: below it, where the loss drops, and above it, where it fell before, unless the plateau is there from the
    start. It lasts for that stay.

An exponential decay, a power law and a straight line have none: their stays grow, or keep their length, to the end. Nor has a
constant, or a smooth S such as half a cosine: its top is 3.2 times as slow as its middle. Loss -> a loss + b and time -> c time change a
plateau accordingly (a, c > 0). On a logarithmic axis of time all that begins at rest, an exponential decay too, begins on a plateau.

A curve that ends flat has arrived or is on a plateau still: only the least possible loss, the floor, can tell. Where it is given, the
whole fall is counted down to it, and a flat end above it is a plateau without a drop.

The curve is replaced by its monotone least-squares fit, which needs no width of smoothing. Its noise is estimated from how far points
are from the line between their neighbours. Pairs of points are averaged while the height is less than `DETECTABLE` = 4 noises; in
what is noisier still nothing is found. Since noise makes short stays shorter, the contrast asked for grows with it, to twice as much
where the height is 4 noises. An error is twice the root mean square shift over curves with new noise on the fit, or the
shift when every second point is left out, whichever is more. Lengths, being the longest found, tend to be too long by about theirs.

Not seen are: a rise (it is taken for a flat stretch at its mean); steps of a staircase less than about two heights apart; noise
that is correlated from point to point, or much larger on the plateau than elsewhere; how steep a drop is between two save points.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression
from scipy.signal import find_peaks

from gradflow.errors import require
from gradflow.observe.phases import NEVER, Event

HEIGHT = 0.1
CONTRAST = 5.0
DETECTABLE = 4.0
FEWEST = 32  # points that averaging leaves
REPLICATES = 50  # curves with new noise


class Level(NamedTuple):
    """A loss and its error."""

    value: float
    error: float


class Plateau(NamedTuple):
    """When a plateau starts and ends, how long it lasts, its mean loss; when half of the drop after it is done, and where that leads.

    A drop leads to the level of the next plateau, or of the last stay of the curve. Where none is seen (`censored`), `drop` is NEVER,
    `end` is that of the curve, and `length` what there is so far. All are NaN where there is no plateau.
    """

    start: Event
    end: Event
    length: Event
    level: Level
    drop: Event
    after: Level

    @property
    def found(self) -> bool:
        return self.start.happened

    @property
    def censored(self) -> bool:
        return self.found and not self.drop.happened


NO_PLATEAU = Plateau(NEVER, NEVER, NEVER, Level(*NEVER), NEVER, Level(*NEVER))


class _Curve(NamedTuple):
    """A loss that never rises, linear between points."""

    clock: np.ndarray
    loss: np.ndarray

    def enters(self, level):
        """The first time at or below a level."""
        return np.interp(level, self.loss[::-1], self.clock[::-1])

    def leaves(self, level):
        """The last time at or above a level."""
        return np.interp(-level, -self.loss, self.clock)

    def stays(self, tops, height):
        return self.leaves(tops - height) - self.enters(tops)


def find_plateaus(
    steps: Float[np.ndarray, " T"],
    loss: Float[np.ndarray, " T"],
    *,
    log_time: bool = False,
    floor: float | None = None,
) -> tuple[Plateau, ...]:
    """All plateaus of a curve in order, times in the units of `steps`.

    log_time    compare stays on the axis log(steps); a save point at 0 is left out
    floor       the least possible loss, where it is known: then a flat end above it is a plateau

    Raises `InputError` for fewer than 8 points, steps that do not ascend, and numbers that are not finite.
    """
    clock, loss = _checked(steps, loss, log_time)
    while True:
        noise, curve = _noise(clock, loss), _fit(clock, loss)
        height = HEIGHT * (curve.loss[0] - (curve.loss[-1] if floor is None else floor))
        if height >= DETECTABLE * noise or len(loss) < 2 * FEWEST:
            break
        ends = clock[[0, -1]]
        clock, loss = (each[: len(each) // 2 * 2].reshape(-1, 2).mean(axis=1) for each in (clock, loss))
        clock[[0, -1]] = ends
    if height <= max(DETECTABLE * noise, 1e-12 * np.abs(loss).max()):  # the second: rounding
        return ()
    contrast = CONTRAST * (1 + DETECTABLE * noise / height)
    tops, censored = _tops(curve, height, contrast, floor)
    found = len(tops) + censored
    if not found:
        return ()
    values, errors = _with_errors(clock, loss, noise, lambda curve: _measured(curve, tops, height, log_time))
    return tuple(_plateau(*pair) for pair in zip(values[:found].tolist(), errors[:found].tolist(), strict=True))


def find_plateau(
    steps: Float[np.ndarray, " T"], loss: Float[np.ndarray, " T"], *, floor: float | None = None, **options
) -> Plateau:
    """The plateau before the largest drop, or `NO_PLATEAU`; options as for `find_plateaus`.

    Not the longest: that depends on the axis of time and on when the run was stopped. One that has not ended has the way to the floor
    before it, so that a run that is stopped on its plateau has this one and not a stage before.
    """

    def depth(plateau: Plateau) -> float:
        return plateau.level.value - (floor if plateau.censored else plateau.after.value)

    return max(find_plateaus(steps, loss, floor=floor, **options), key=depth, default=NO_PLATEAU)


def half_rise(steps: Float[np.ndarray, " T"], values: Float[np.ndarray, " T"]) -> Event:
    """The step at which a rising measure, such as accuracy, is half way from where it begins to where it ends.

    These are medians of up to five points at either end, and the curve between them is the monotone fit; NEVER where the rise is
    less than `DETECTABLE` noises. Raises `InputError` as `find_plateaus` does.
    """
    clock, falling = _checked(steps, -np.asarray(values, float), False)
    few = min(max(len(falling) // 10, 1), 5)
    first, last = np.median(falling[:few]), np.median(falling[-few:])
    noise = _noise(clock, falling)
    if first - last <= DETECTABLE * noise:
        return NEVER
    time, error = _with_errors(clock, falling, noise, lambda curve: curve.enters((first + last) / 2))
    return Event(float(time), float(error))


def lead(steps: Float[np.ndarray, " T"], progress: Float[np.ndarray, " T"], accuracy: Float[np.ndarray, " T"]) -> Event:
    """By how long the half rise of `progress` precedes that of `accuracy`; negative if it follows, NEVER if one does not rise."""
    first, second = half_rise(steps, progress), half_rise(steps, accuracy)
    return Event(second.time - first.time, float(np.hypot(first.error, second.error)))


def _checked(steps, values, log_time: bool) -> tuple[np.ndarray, np.ndarray]:
    """The axis of time on which stays are compared, and the curve on it, both float64."""
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    require(
        steps.ndim == 1 and steps.shape == values.shape,
        f"A curve is two arrays of the same length, got shapes {steps.shape} and {values.shape}.",
    )
    require(bool(np.isfinite(steps).all() and np.isfinite(values).all()), "Steps and values of a curve must be finite.")
    if log_time:
        steps, values = steps[steps != 0], values[steps != 0]
        require(bool((steps > 0).all()), "With log_time, steps must not be negative.")
    require(steps.size >= 8, f"At least 8 save points are needed, got {steps.size}.")
    require(bool((np.diff(steps) > 0).all()), "Steps must ascend.")
    return (np.log(steps) if log_time else steps), values


def _noise(clock: np.ndarray, loss: np.ndarray) -> float:
    """Standard deviation of independent noise: the median distance of a point from the line between its neighbours, scaled."""
    weight = (clock[2:] - clock[1:-1]) / (clock[2:] - clock[:-2])
    distance = loss[1:-1] - weight * loss[:-2] - (1 - weight) * loss[2:]
    return float(np.median(np.abs(distance) / np.sqrt(1 + weight**2 + (1 - weight) ** 2)) / 0.6745)


def _fit(clock: np.ndarray, loss: np.ndarray) -> _Curve:
    return _Curve(clock, isotonic_regression(loss, increasing=False).x)


def _tops(curve: _Curve, height: float, contrast: float, floor: float | None) -> tuple[np.ndarray, bool]:
    """The levels at which plateaus begin, and whether the last stay of the curve is one that has not ended."""
    last = curve.loss[-1] + height
    above_floor = floor is not None and curve.loss[-1] - floor > height
    if last >= curve.loss[0]:
        return np.empty(0), above_floor
    levels = np.linspace(curve.loss[0], last, 1000)
    stays = curve.stays(levels, height)
    stays[-1] = curve.clock[-1] - curve.enters(last)  # whatever rounding makes of last - height
    stays = np.log(stays) + 1e-9 * np.arange(levels.size)  # of stays that are equal but for rounding, one
    # Before the start the loss is as if it had fallen at once; at the end it may stay for ever.
    peaks, _ = find_peaks(np.concatenate([[-np.inf], stays, [np.inf]]), prominence=np.log(contrast))
    return levels[peaks - 1], bool(above_floor and stays[-1] - stays.min() >= np.log(contrast))


def _measured(curve: _Curve, tops: np.ndarray, height: float, log_time: bool) -> np.ndarray:
    """A row for the stay near each of `tops`, and for the last one of the curve: the numbers of a `Plateau`."""
    unclock = np.exp if log_time else np.asarray
    near = tops[:, None] + height * np.linspace(-0.5, 0.5, 101)
    tops = np.append(near[np.arange(len(tops)), curve.stays(near, height).argmax(axis=1)], curve.loss[-1] + height)
    start, end = curve.enters(tops), np.append(curve.leaves(tops[:-1] - height), curve.clock[-1])
    level = np.interp(np.linspace(start, end, 201), *curve).mean(axis=0)
    after = np.append(level[1:], np.nan)
    drop = np.append(curve.enters((level + after)[:-1] / 2), np.nan)
    start, end, drop = unclock(start), unclock(end), unclock(drop)
    return np.stack([start, end, end - start, level, drop, after], axis=1)


def _plateau(values: list[float], errors: list[float]) -> Plateau:
    start, end, length, level, drop, after = zip(values, errors, strict=True)
    drop = NEVER if math.isnan(drop[0]) else Event(*drop)
    return Plateau(Event(*start), Event(*end), Event(*length), Level(*level), drop, Level(*after))


def _with_errors(clock, loss, noise: float, measure: Callable[[_Curve], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What is measured on a curve, and the errors from its noise and its save points."""
    curve, random = _fit(clock, loss), np.random.default_rng(0)
    value = measure(curve)
    again = [measure(_fit(clock, curve.loss + noise * random.normal(size=clock.size))) for _ in range(REPLICATES)]
    error = 2 * np.sqrt(np.mean(np.square(again - value), axis=0))  # a longest stay grows with noise
    for first in (1, 2):  # the ends always stay
        kept = np.setdiff1d(np.arange(clock.size), np.arange(first, clock.size - 1, 2))
        error = np.maximum(error, np.abs(measure(_fit(clock[kept], loss[kept])) - value))
    return value, error
