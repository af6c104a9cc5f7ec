"""Claims: what holds, what fails, what cannot be told."""

import math

import pytest

from gradflow.theory.claims import Claim, at_least, at_most, near, summary, table


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
