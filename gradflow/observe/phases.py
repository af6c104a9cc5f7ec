"""When things happen: events located between save points, with an accuracy stated for each.

An event is found on a smooth curve through the saved values (a cubic spline over log time). Its error is the shift of the
event when every second save point is left out: for a smooth curve that overestimates the error of the full spline. Events of training on the co-occurrence task are named at the bottom.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.interpolate import CubicSpline

# The constant C of Lemma 4.3 at which T_0.5 is read off; the lemma only says that some C > 0 does.
LEMMA_4_3_CONSTANT = 0.05


class Event(NamedTuple):
    """A time and the error of its location; both NaN for what did not happen (in the time that was simulated)."""

    time: float
    error: float

    @property
    def happened(self) -> bool:
        return math.isfinite(self.time)


NEVER = Event(math.nan, math.nan)


def first_upward_crossing(times: Float[np.ndarray, " T"], values: Float[np.ndarray, " T"], level: float = 0.0) -> Event:
    """The first time at which `values` rises through `level`; the start if it is above from the beginning."""
    above = values > level
    if above[0]:
        return Event(float(times[0]), 0.0)
    if not above.any():
        return NEVER
    return _located(times, values - level, int(np.argmax(above)), _root)


def all_positive_from(times: Float[np.ndarray, " T"], values: Float[np.ndarray, "T n"]) -> Event:
    """The first time at which every column is positive. Each column is located by itself, since their minimum has kinks."""
    all_positive = (values > 0).all(axis=1)
    if all_positive[0]:
        return Event(float(times[0]), 0.0)
    if not all_positive.any():
        return NEVER
    after = int(np.argmax(all_positive))
    late = values[after - 1] <= 0
    return max((_located(times, column, after, _root) for column in values[:, late].T), key=lambda event: event.time)


def peak(times: Float[np.ndarray, " T"], values: Float[np.ndarray, " T"]) -> Event:
    """The time of the largest value; `NEVER` where that is the first or the last."""
    top = int(np.argmax(values))
    return NEVER if top in (0, len(times) - 1) else _located(times, values, top, _maximum)


def at_time(curve: xr.DataArray, time: float) -> np.ndarray:
    """A variable over time (T, ...) at one time, linear between save points; NaN where that time never came."""
    times, values = curve["time"].values, curve.values
    if not math.isfinite(time):
        return np.full(values.shape[1:], math.nan)
    after = min(max(int(np.searchsorted(times, time)), 1), times.size - 1)
    weight = (time - times[after - 1]) / (times[after] - times[after - 1])
    return (1 - weight) * values[after - 1] + weight * values[after]


def _located(times: np.ndarray, values: np.ndarray, at: int, find: Callable) -> Event:
    """The event near index `at` of all save points, and its shift when only every second one is used."""
    fine = find(times, values, at)
    offset = (at + 1) % 2  # the save point before `at` stays
    coarse = find(times[offset::2], values[offset::2], (at + 1 - offset) // 2)
    if not math.isfinite(coarse):
        coarse = times[at - 1]
    return Event(fine, max(abs(fine - coarse), 4 * np.finfo(float).eps * abs(fine)))


def _root(times: np.ndarray, values: np.ndarray, at: int) -> float:
    """Root of the spline between save points at-1 and at; NaN if it has none there."""
    if at >= len(times):
        return math.nan
    spline, clock, unclock = _spline(times, values, at)
    roots = spline.roots(extrapolate=False)
    inside = roots[(roots >= clock(times[at - 1])) & (roots <= clock(times[at]))]
    return float(unclock(inside[0])) if inside.size else math.nan


def _maximum(times: np.ndarray, values: np.ndarray, at: int) -> float:
    """Where the spline has its largest value near save point `at`."""
    spline, _, unclock = _spline(times, values, min(at, len(times) - 1))
    flat = spline.derivative().roots(extrapolate=False)
    return float(unclock(flat[np.argmax(spline(flat))])) if flat.size else math.nan


def _spline(times: np.ndarray, values: np.ndarray, at: int) -> tuple[CubicSpline, Callable, Callable]:
    """A spline through the dozen save points around `at`, over log time where they exclude t = 0, and its clock."""
    near = slice(max(at - 6, 0), at + 6)
    clock, unclock = (np.log, np.exp) if times[near][0] > 0 else (np.asarray, np.asarray)
    return CubicSpline(clock(times[near]), values[near]), clock, unclock


# ------------------------------------------------------------------------------------------- events of co-occurrence


def unstable(run: xr.Dataset) -> np.ndarray:
    """Where learning_rate * sharpness > 2 along a descent (T,): steps grow in the sharpest direction, and no flow describes them."""
    return run.attrs["learning_rate"] * run["sharpness"].values > 2


def cooccurrence_events(run: xr.Dataset) -> dict[str, Event]:
    """The events of a run on the co-occurrence task, in units of its time.

    T1               every training sample is right for the first time: the end of Phase 1 (Theorem 3.1)
    T0.5             from here to T1 the order of gradients of Lemma 4.3 holds with C = 0.05
    R = 1            -dG3 overtakes dG1: in the four-point flow this is when the one-signal losses peak
    one-signal peak  the mean loss of the sentences with one signal (I2 and I3) is largest (Lemma 4.2)
    end              the last time of the run
    """
    times = run["time"].values
    one_signal = run["loss_by_class"].sel(sentence_class=["I2", "I3"]).mean("sentence_class").values
    t1 = all_positive_from(times, run["margin"].values)
    return {
        "T0.5": _lemma_4_3_from(times, lemma_4_3_constant(run), t1),
        "T1": t1,
        "R = 1": first_upward_crossing(times, run["R"].values, 1.0),
        "one-signal peak": peak(times, one_signal),
        "end": Event(float(times[-1]), 0.0),
    }


def lemma_4_3_constant(run: xr.Dataset) -> Float[np.ndarray, " T"]:
    """The largest C for which (1 + C) max(dG1, dG2) <= -dG3 <= (1 - C)(dG1 + dG2) at each time; negative: it fails."""
    dG1, dG2, dG3 = run["dG"].values.T
    with np.errstate(divide="ignore", invalid="ignore"):
        lower = -dG3 / np.maximum(dG1, dG2) - 1
        upper = 1 + dG3 / (dG1 + dG2)
    return np.where((dG1 > 0) & (dG2 > 0), np.minimum(lower, upper), -1.0)


def _lemma_4_3_from(times: np.ndarray, constant: np.ndarray, t1: Event) -> Event:
    """The start of the last stretch before T1 in which the constant stays above `LEMMA_4_3_CONSTANT`."""
    if not t1.happened:
        return NEVER
    until = int(np.searchsorted(times, t1.time, side="right"))
    fails = np.flatnonzero(constant[:until] <= LEMMA_4_3_CONSTANT)
    if fails.size == 0:
        return Event(float(times[0]), 0.0)
    if fails[-1] == until - 1:
        return NEVER
    return _located(times, constant - LEMMA_4_3_CONSTANT, int(fails[-1]) + 1, _root)
