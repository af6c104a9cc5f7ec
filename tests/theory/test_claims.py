"""Claims: what holds, what fails, what cannot be told."""

import io
import math

import numpy as np
import pytest
import xarray as xr

from gradflow.theory.claims import Claim, at_least, at_most, dataset, near, summary, table


@pytest.mark.parametrize(
    ("measured", "holds"), [(1.0, True), (1.1, True), (1.11, False), (0.89, False), (math.nan, None)]
)
def test_near_holds_within_its_tolerance(measured, holds):
    assert near("a", "b", 1.0, measured, 0.1 + 1e-12, "why").holds is holds


@pytest.mark.parametrize(
    ("measured", "least", "most"), [(0.5, False, True), (1.0, True, True), (2.0, True, False), (math.inf, None, None)]
)
def test_bounds_hold_on_their_side(measured, least, most):
    assert at_least("a", "b", "c", measured, 1.0, "why").holds is least
    assert at_most("a", "b", "c", measured, 1.0, "why").holds is most


def test_a_claim_that_does_not_apply_is_neither_true_nor_false():
    assert near("a", "b", 1.0, 1.0, 0.1, "why", applies=False).holds is None
    assert at_least("a", "b", "c", 9.0, 1.0, "why", False).holds is None


def test_the_table_shows_every_claim_with_its_verdict():
    rows = [
        Claim("first", "s", 1.0, 2.0, "+- 1: because", True),
        Claim("second", "s", "Omega(1)", 0.0, ">= 1: because", False),
    ]
    lines = table(rows).splitlines()
    assert len(lines) == 3 and lines[1].startswith("holds  first") and lines[2].startswith("FAILS  second")
    assert summary(rows) == "1 claims hold, 1 fail, 0 cannot be told from this run"


def test_the_dataset_has_a_row_for_each_claim_and_NaN_for_what_is_no_number_or_cannot_be_told():
    """In NetCDF-3, too, which knows no booleans and no empty strings."""
    claims = [
        Claim("first", "s", 1.0, 2.0, "+- 1: because", True),
        Claim("... and later", "s", "Omega(1)", 0.5, ">= 1: because", False),
        Claim("... at the end", "s", 3.0, math.nan, "+- 1: because", None),
        Claim("second", "s", math.inf, -1.0, "+- 1: because", False),
    ]
    made = dataset(claims)
    for each in (made, xr.load_dataset(io.BytesIO(made.to_netcdf(engine="scipy")))):
        names = ["first", "first ... and later", "first ... at the end", "second"]
        assert each["claim"].values.tolist() == names
        np.testing.assert_array_equal(each["measured"], [2.0, 0.5, np.nan, -1.0])
        np.testing.assert_array_equal(each["predicted"], [1.0, np.nan, 3.0, np.inf])
        np.testing.assert_array_equal(each["holds"], [1.0, 0.0, np.nan, 0.0])
        assert all(variable.dtype == float and variable.attrs["units"] == "1" for variable in each.values())
