"""Statistics over seeds against numbers by other routes: order statistics, exact and other bootstraps, the normal approximation."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from gradflow.errors import InputError
from gradflow.sweep import summarise

INF, NAN = np.inf, np.nan


def over_seeds(values, **more):
    return xr.Dataset({"x": (("rate", "seed"), np.atleast_2d(values), more)})


def test_each_cell_is_summarised_without_its_missing_values():
    values = np.random.default_rng(0).normal(size=(4, 3, 11))
    values[1, 2, [0, 5]] = NAN
    values[2, 0] = NAN
    values[3, 1, 1:] = NAN
    attrs = {"long_name": "loss", "units": "nat"}
    dataset = xr.Dataset(
        {
            "x": (("time", "rate", "seed"), values, attrs),
            "flag": ("seed", np.ones(11, bool)),
            "fixed": ("rate", np.ones(3)),
        },
        {"rate": [1.0, 2.0, 3.0], "seed": np.arange(11), "name": ("rate", ["a", "b", "c"])},
        {"simulation": "s"},
    )
    summary = summarise(dataset.transpose("seed", ...), quantiles=(0.25, 0.9))
    assert set(summary.data_vars) == {"x", "x_low", "x_high", "x_quantile", "x_count"}
    assert summary["x_quantile"].dims == ("time", "rate", "quantile") and summary["x"].dims == ("time", "rate")
    assert set(summary.coords) == {"rate", "name", "quantile"} and summary.attrs["simulation"] == "s"
    assert summary["x_low"].attrs["units"] == "nat" and summary["x"].attrs["long_name"] == "median over seed of: loss"
    for at in np.ndindex(4, 3):
        kept = np.sort(values[at][~np.isnan(values[at])])
        assert summary["x_count"][at] == kept.size
        if kept.size:
            assert summary["x"][at] == (kept[(kept.size - 1) // 2] + kept[kept.size // 2]) / 2
            expected = np.quantile(kept, [0.25, 0.9], method="averaged_inverted_cdf")
            np.testing.assert_allclose(summary["x_quantile"][at], expected)
        else:
            assert np.isnan(summary["x_quantile"][at]).all() and np.isnan(summary["x"][at])
        assert np.isfinite([summary["x_low"][at], summary["x_high"][at]]).all() == (kept.size > 1)
        if kept.size > 1:
            alone = summarise(over_seeds(values[at]))
            assert alone["x_low"] == summary["x_low"][at] and alone["x_high"] == summary["x_high"][at]


def test_the_interval_of_the_median_is_that_of_the_exact_bootstrap_distribution():
    """With n odd values, P(resampled median <= k-th smallest) = P(Binomial(n, k / n) > n / 2): the ends are order statistics."""
    values = np.random.default_rng(1).normal(size=15)
    below = scipy.stats.binom.sf(7, 15, np.arange(1, 16) / 15)
    # 20 000 resamples: a share of 5 % is known to 0.0016, and no step of the distribution is nearer to 5 % or 95 % than 4 of those
    assert np.min(np.abs(below[:, None] - [0.05, 0.95])) > 4 * 0.0016
    low, high = (np.sort(values)[np.searchsorted(below, end)] for end in (0.05, 0.95))
    summary = summarise(over_seeds(values), confidence=0.9, resamples=20_000)
    assert (summary["x_low"].item(), summary["x_high"].item()) == (low, high)


@pytest.mark.parametrize("statistic", [np.median, np.mean, np.max])
def test_intervals_are_those_of_brute_force_and_of_scipy(statistic):
    values = np.random.default_rng(2).exponential(size=40)
    rng = np.random.default_rng(3)
    drawn = [statistic(rng.choice(values, 40)) for _ in range(20_000)]
    summary = summarise(over_seeds(values), statistic=statistic, resamples=20_000)
    mine = [summary["x_low"].item(), summary["x_high"].item()]
    other = scipy.stats.bootstrap((values,), statistic, n_resamples=20_000, method="percentile", random_state=rng)
    # ends at 2.5 % of 20 000 resamples: the share below is known to 0.0011, four of which the ends may be apart
    around = np.quantile(drawn, [[0.025 - 0.0045, 0.025 + 0.0045], [0.975 - 0.0045, 0.975 + 0.0045]])
    for (least, most), end, its in zip(around, mine, other.confidence_interval, strict=True):
        assert least <= end <= most and least <= its <= most


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(4).normal(3, 2, size=400)
    summary = summarise(over_seeds(values), statistic=np.mean, confidence=0.9, resamples=20_000)
    half = scipy.stats.norm.ppf(0.95) * values.std() / 20
    # a 5 % quantile of 20 000 is off by sqrt(0.05 0.95 / 20 000) / 0.103 = 0.015 standard errors, skewness adds 1/20 of its own
    np.testing.assert_allclose(
        [summary["x_low"][0], summary["x_high"][0]], [values.mean() - half, values.mean() + half], atol=0.06 * half
    )
    assert summary["x"].item() == values.mean()


def test_infinite_values_count_and_nothing_is_interpolated_between_them():
    rows = [[1, 2, INF, INF, INF], [1, 2, 3, INF, NAN], [INF] * 5, [1, 2, 3, 4, INF], [-INF, 1, 2, 3, INF]]
    summary = summarise(over_seeds(rows), quantiles=(0.25, 0.5, 0.75, 1))
    np.testing.assert_array_equal(summary["x"], [INF, 2.5, INF, 3, 2])
    np.testing.assert_array_equal(summary["x_count"], [5, 4, 5, 5, 5])
    expected = [[2, INF, INF, INF], [1.5, 2.5, INF, INF], [INF] * 4, [2, 3, 4, INF], [1, 2, 3, INF]]
    np.testing.assert_array_equal(summary["x_quantile"], expected)
    low, high = summary["x_low"].values, summary["x_high"].values
    assert low.tolist() == [1, 1, INF, 1, -INF] and high.tolist() == [INF] * 5


def test_quantiles_at_a_whole_share_average_the_values_on_both_sides():
    """0.55 times 100 is 55.00000000000001 in floating point, 0.29 times 100 is 28.999999999999996."""
    summary = summarise(over_seeds(np.arange(100)), quantiles=(0, 0.29, 0.55, 0.9, 0.999, 1))
    np.testing.assert_array_equal(summary["x_quantile"][0], [0, 28.5, 54.5, 89.5, 99, 99])


def test_the_same_seed_gives_the_same_interval_in_one_block_or_many(monkeypatch):
    dataset = over_seeds(np.random.default_rng(5).normal(size=(7, 10)))
    one, other = summarise(dataset), summarise(dataset, seed=1)
    monkeypatch.setattr("gradflow.sweep.summary._AT_ONCE", 40_000)
    xr.testing.assert_identical(summarise(dataset), one)
    assert not one["x_low"].equals(other["x_low"])


def test_a_dimension_without_entries_leaves_nothing_to_count():
    summary = summarise(over_seeds(np.zeros((3, 0))))
    assert summary["x_count"].values.tolist() == [0, 0, 0] and np.isnan(summary["x_low"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(over="rates"), "no dimension 'rates'; known are rate, seed"),
        (dict(names=["y"]), "No variable 'y' can be summarised over seed; known are x"),
        (dict(confidence=95), "confidence lies between 0 and 1"),
        (dict(quantiles=[10]), "Quantiles lie between 0 and 1"),
        (dict(resamples=0), "At least one resample"),
    ],
)
def test_what_cannot_be_summarised_is_told(arguments, message):
    with pytest.raises(InputError, match=message):
        summarise(over_seeds(np.ones((2, 3))), **arguments)


def test_names_that_would_be_lost_are_told():
    dataset = over_seeds(np.ones((2, 3)))
    dataset["x_low"] = dataset["x"] - 1
    with pytest.raises(InputError, match="x_low of the dataset would be lost"):
        summarise(dataset)
    assert summarise(dataset, ["x"])["x_low"].values.tolist() == [1, 1]
