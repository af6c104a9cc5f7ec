"""Many seeds in a few numbers: a statistic with its bootstrap interval, quantiles, and how many values they are of."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import xarray as xr

from gradflow.errors import require

# numbers that are resampled at once
_AT_ONCE = 4_000_000


def summarise(
    dataset: xr.Dataset,
    names: Sequence[str] | None = None,
    *,
    over: str = "seed",
    quantiles: Sequence[float] = (0.1, 0.5, 0.9),
    confidence: float = 0.95,
    resamples: int = 2000,
    statistic: Callable[..., np.ndarray] = np.median,
    seed: int = 0,
) -> xr.Dataset:
    """Summarise variables (default: all numeric ones that have the dimension `over`) over that dimension, cell by cell.

    For each NAME: NAME (the statistic), NAME_low and NAME_high (its percentile bootstrap interval), NAME_quantile (over `quantile`)
    and NAME_count (values that count). NaN is left out; infinite values count: an event that never came is later than any other.
    Quantiles are the average of the two order statistics that enclose them (Hyndman and Fan 1996, definition 2, of which the median
    is one), so that they are right beside infinities; the interval's ends are such quantiles of the resampled statistics. One value
    has no interval: NaN. Every cell is resampled with the same draws, from `seed`.

    `statistic` takes values and `axis`, as numpy's do. Raises `InputError` for names and dimensions that the dataset lacks.
    """
    require(over in dataset.dims, f"There is no dimension {over!r}; known are {', '.join(map(str, dataset.dims))}.")
    require(0 < confidence < 1, f"The confidence lies between 0 and 1, got {confidence}.")
    require(resamples >= 1, f"At least one resample is needed, got {resamples}.")
    require(
        all(0 <= q <= 1 for q in quantiles), f"Quantiles lie between 0 and 1, got {', '.join(map(str, quantiles))}."
    )
    known = [n for n, each in dataset.data_vars.items() if over in each.dims and each.dtype.kind in "iuf"]
    for name in [] if names is None else names:
        require(name in known, f"No variable {name!r} can be summarised over {over}; known are {', '.join(known)}.")
    called = getattr(statistic, "__name__", "statistic")
    variables = {}
    for name in known if names is None else names:
        variable = dataset[name].variable
        dims = [dim for dim in variable.dims if dim != over]
        values = variable.transpose(*dims, over).values.astype(float)
        cells = values.reshape(math.prod(values.shape[:-1]), values.shape[-1])
        central, low, high, spread = _summarised(cells, statistic, quantiles, confidence, resamples, seed)
        long_name = variable.attrs.get("long_name", name)
        units = {"units": variable.attrs["units"]} if "units" in variable.attrs else {}
        new = {
            name: (dims, central, f"{called} over {over} of: {long_name}", units),
            f"{name}_low": (dims, low, f"lower end of the {confidence:.0%} interval of: {long_name}", units),
            f"{name}_high": (dims, high, f"upper end of the {confidence:.0%} interval of: {long_name}", units),
            f"{name}_quantile": ([*dims, "quantile"], spread, f"quantiles over {over} of: {long_name}", units),
            f"{name}_count": (dims, (~np.isnan(cells)).sum(-1), f"values that count of: {long_name}", {}),
        }
        clash = sorted(({*new} - {name}) & {*(known if names is None else names)})
        require(not clash, f"{', '.join(clash)} of the dataset would be lost; rename it, or name what to summarise.")
        for label, (over_dims, numbers, text, unit) in new.items():
            shape = values.shape[:-1] + numbers.shape[1:]
            variables[label] = (over_dims, numbers.reshape(shape), {"long_name": text} | unit)
    left = {dim for dims, *_ in variables.values() for dim in dims}
    coords = {name: each for name, each in dataset.coords.items() if set(each.dims) <= left}
    how = {"statistic": called, "over": over, "confidence": confidence, "resamples": resamples}
    return xr.Dataset(variables, {**coords, "quantile": list(quantiles)}, dataset.attrs | how)


# scipy.stats.bootstrap resamples alike, but its intervals are NaN where resampled statistics are infinite
def _summarised(
    cells: np.ndarray, statistic: Callable, quantiles: Sequence[float], confidence: float, resamples: int, seed: int
) -> tuple[np.ndarray, ...]:
    """Statistic, lower and upper end (each `cells`) and quantiles (`cells quantile`) of each row of `cells`."""
    central, low, high = (np.full(len(cells), np.nan) for _ in range(3))
    spread = np.full((len(cells), len(quantiles)), np.nan)
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    for rows, values in _without_nan(cells, resamples):
        with np.errstate(invalid="ignore"):  # inf - inf, where a statistic meets both infinities: NaN, as it should be
            central[rows] = statistic(values, axis=-1)
            spread[rows] = _quantiles(values, quantiles)
            if values.shape[-1] > 1:
                number = values.shape[-1]
                draws = np.random.default_rng(seed).integers(number, size=(resamples, number))
                low[rows], high[rows] = _quantiles(statistic(values[:, draws], axis=-1), ends).T
    return central, low, high, spread


def _without_nan(cells: np.ndarray, resamples: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of rows without NaN, of a size that can be resampled at once, then each other row without its NaN."""
    missing = np.isnan(cells)
    whole = np.flatnonzero(~missing.any(-1)) if cells.shape[-1] else np.array([], int)
    together = max(1, _AT_ONCE // (resamples * max(cells.shape[-1], 1)))
    for first in range(0, len(whole), together):
        rows = whole[first : first + together]
        yield rows, cells[rows]
    for row in np.flatnonzero(missing.any(-1) & ~missing.all(-1)):
        yield np.array([row]), cells[[row]][:, ~missing[row]]


def _quantiles(values: np.ndarray, quantiles: Sequence[float]) -> np.ndarray:
    """Quantiles of each row (`rows quantile`): averages of the order statistics on both sides, never further interpolated."""
    ordered, number = np.sort(values, axis=-1), values.shape[-1]
    place = np.round(np.asarray(quantiles) * number, 9)  # 0.55 times 100 is to be 55
    below = np.clip(np.ceil(place) - 1, 0, number - 1).astype(int)
    above = np.clip(np.floor(place), 0, number - 1).astype(int)
    return (ordered[:, below] + ordered[:, above]) / 2
