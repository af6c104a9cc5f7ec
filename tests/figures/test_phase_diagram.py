"""The phase diagram of a sweep: what is drawn is the data, what is missing is left out."""

import json

import numpy as np
import pytest
import xarray as xr

from gradflow.errors import InputError
from gradflow.plotting.phase_diagram import one_page
from gradflow.theory import max_margin


@pytest.fixture(scope="module")
def sweep():
    """Made up: T1 falls with the rate and grows with the output, R settles; one point has no member, one seed never gets there."""
    m, sigma1, seed, clock = (
        np.array([16, 64, 256]),
        np.array([0.05, 0.2, 0.8]),
        np.arange(2),
        np.geomspace(0.1, 1e6, 50),
    )
    t1 = np.array([[[3 / (a * s**2) * (1 + k) for k in seed] for s in sigma1] for a in m])
    t1[0, 0, 1], t1[1, 2] = np.inf, np.nan
    axes = ("m", "sigma1", "seed")
    coords = {"m": m, "sigma1": sigma1, "seed": seed, "clock": clock}
    scalars = {
        "T1": t1,
        "T1_clock": t1 / t1[0, 0, 0] + 1,
        "initial_output": t1 + 0.1,
        "R_at_end": np.full(t1.shape, 1.2),
    }
    R = np.broadcast_to(1.2 + 1 / clock, (*t1.shape, clock.size))
    table = {name: (axes, values) for name, values in scalars.items()}
    table |= {"R": ((*axes, "clock"), R), "done": (axes, np.isfinite(t1))}
    base = {"n": 24, "L": 4, "m1": 8, "sigma0": None, "initialisation": "paper", "random_words": "unique"}
    return xr.Dataset(table, coords, {"base": json.dumps(base)})


def test_cells_are_medians_over_seeds_and_missing_ones_are_blank(sweep):
    axes = one_page(sweep).axes
    cells = axes[0].collections[0].get_array()
    expected = sweep["T1"].median("seed").transpose("sigma1", "m").values
    np.testing.assert_array_equal(np.ma.getmaskarray(cells), ~np.isfinite(expected))
    np.testing.assert_allclose(cells.compressed(), expected[np.isfinite(expected)])
    assert axes[0].get_xscale() == axes[0].get_yscale() == "log"
    R = axes[2].collections[0].get_array()
    np.testing.assert_allclose(R.compressed(), 1.2 - max_margin.class_limits(24, 4).R)


def test_every_member_that_got_there_is_a_point_and_a_line_of_the_band(sweep):
    _, points, _, along = one_page(sweep).axes[:4]
    drawn = np.ma.masked_invalid(points.collections[0].get_offsets()[:, 1])
    assert drawn.count() == np.isfinite(sweep["T1"]).sum()
    assert f"90 % of {int(np.isfinite(sweep['T1_clock']).sum())} runs" in [
        text.get_text() for text in along.get_legend().texts
    ]
    median = next(line for line in along.lines if line.get_label() == "median")
    assert median.get_ydata()[-1] == pytest.approx(1.2, abs=1e-3)


def test_a_sweep_that_has_grown_is_drawn_in_order(sweep):
    """Its new values come last."""
    grown = sweep.isel(m=[0, 2, 1], sigma1=[1, 0, 2])
    for drawn, expected in zip(one_page(grown).axes, one_page(sweep).axes, strict=True):
        assert drawn.get_xlim() == expected.get_xlim() and drawn.get_ylim() == expected.get_ylim()
        for one, other in zip(drawn.collections, expected.collections, strict=True):
            if one.get_array() is not None and one.get_array().ndim == 2:
                np.testing.assert_array_equal(one.get_array(), other.get_array())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sweep: sweep.isel(sigma1=0), r"this sweep is over \{'m': 3, 'seed': 2\}"),
        (lambda sweep: sweep.isel(m=[1]), "two or more values of m"),
        (lambda sweep: sweep.assign(T1=sweep["T1"] * np.nan), "No member"),
        (lambda sweep: sweep.assign_attrs(base=json.dumps({"random_words": "iid"})), "unique random words"),
    ],
)
def test_what_is_no_such_sweep_is_refused(sweep, change, message):
    with pytest.raises(InputError, match=message):
        one_page(change(sweep))
