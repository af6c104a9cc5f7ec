"""When to save: grids of times and of steps, from the start (0) to the end."""

import math

import numpy as np

from gradflow.errors import require


def linear_times(t_end: float, count: int = 201) -> np.ndarray:
    """`count` evenly spaced times from 0 to `t_end`."""
    require(math.isfinite(t_end) and t_end > 0, f"t_end must be a positive time, got {t_end}.")
    require(count >= 2, f"At least two save times are needed (start and end), got {count}.")
    return np.linspace(0, t_end, count)


def log_times(t_first: float, t_end: float, count: int = 201) -> np.ndarray:
    """0, then `count - 1` logarithmically spaced times from `t_first` to `t_end`; for flows over many decades."""
    require(math.isfinite(t_end) and t_end > 0, f"t_end must be a positive time, got {t_end}.")
    require(0 < t_first < t_end, f"The first save time must lie in (0, t_end = {t_end}), got {t_first}.")
    require(count >= 3, f"At least three save times are needed, got {count}.")
    return np.concatenate([[0.0], np.geomspace(t_first, t_end, count - 1)])


def log_steps(steps: int, count: int = 201) -> np.ndarray:
    """0, then up to `count - 1` distinct whole steps, logarithmically spaced from 1 to `steps`."""
    require(steps >= 1, f"steps must be a positive whole number, got {steps}.")
    return np.unique(np.concatenate([[0], np.round(np.geomspace(1, steps, max(count - 1, 1))), [steps]]).astype(int))


def together(times: np.ndarray, exact: np.ndarray, closest: float = 0.02) -> np.ndarray:
    """All of `exact`, and those of `times` that are not within `closest` (relative) of one of them.

    For a flow that is to be compared with a descent at the descent's own times, without interpolation.
    """
    gaps = np.abs(times[:, None] - exact[None, :]).min(axis=1)
    return np.union1d(exact, times[gaps > closest * times])
