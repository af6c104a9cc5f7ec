"""Verdicts on synthetic grids whose scalings are known: every outcome can be reached, and slopes and intervals are right."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

from gradflow.observe.scaling import _LONG_NAMES, COORDINATES, Setting, grid
from gradflow.theory.ledger import Entry, judge, ledger, levels_off, table
from gradflow.theory.statements import ENTRIES

BASE = Setting(n=48, L=4, m=4096, m1=32, start=0.5)
VALUES = {"n": (24, 96, 192), "m": (256, 1024, 65536), "m1": (8, 128), "readout": (0.5, 2.0)}
SETTINGS = [
    each
    for start in (0.5, 0.001)
    for each in [
        BASE._replace(start=start),
        *(BASE._replace(start=start, **{name: value}) for name, values in VALUES.items() for value in values),
        *(BASE._replace(start=start, n=24 * (L - 2), L=L) for L in (3, 8, 12)),
    ]
]


def made(value, seeds=10, noise=0.02):
    """A grid whose variable `T1` is value(setting) times e^noise, and whose outputs at the start are as large as `start`."""
    scatter = np.random.default_rng(0).normal(0, noise, (len(SETTINGS), seeds))
    runs = {
        (setting, seed): xr.Dataset(
            {"T1": value(setting) * np.exp(scatter[i, seed]), "initial_output": setting.start}, {"clock": [0.0, 1e7]}
        )
        for i, setting in enumerate(SETTINGS)
        for seed in range(seeds)
    }  # fmt: skip
    return grid(runs, range(seeds))


def verdict(order, value, noise=0.02, **options):
    return judge(Entry("a claim", "a source", "a statement", "T1", order, **options), made(value, noise=noise))


def over_m(g):
    return g["m"] ** -1.5


@pytest.mark.parametrize(
    ("order", "power", "outcome"),
    [
        ("Theta", -1.5, "holds with constant"),
        ("Theta", -1.4, "does not hold"),
        ("Theta", -1.6, "does not hold"),
        ("O", -1.5, "holds with constant"),
        ("O", -2.0, "with room (m^"),
        ("O", -1.3, "does not hold"),
        ("Omega", -1.5, "holds with constant"),
        ("Omega", -1.3, "with room (m^"),
        ("Omega", -2.0, "does not hold"),
    ],
)
def test_each_order_is_told_from_its_neighbours(order, power, outcome):
    found = verdict(order, lambda s: 7 * s.m**power, scale=over_m)
    assert outcome in found.text and found.holds is (outcome != "does not hold")
    along_m = [trend.exponent.mean for trend in found.trends if trend.coordinate == "m"]
    assert along_m == pytest.approx([power + 1.5] * 2, abs=0.01)  # one for each start
    if power == -1.5:
        assert found.claim().measured == pytest.approx(7, rel=0.1)


@pytest.mark.parametrize("coordinate", ["n", "L", "m1"])
def test_growth_in_any_size_is_seen(coordinate):
    found = verdict("O", lambda s: s.m**-1.5 * getattr(s, coordinate) ** 0.4, scale=over_m)
    assert found.holds is False and found.text.startswith("does not hold: off by ")
    along = [trend.exponent.mean for trend in found.trends if trend.coordinate == coordinate]
    assert along == pytest.approx([0.4, 0.4], abs=0.03)


def test_sigma1_counts_only_where_the_statement_names_it():
    assert verdict("Theta", lambda s: s.readout).holds
    found = verdict("Theta", lambda s: 1.0, scale=lambda g: g["sigma1"] ** 2 * g["m1"])
    assert found.holds is False and found.steepest.coordinate == "readout"
    assert found.steepest.exponent.mean == pytest.approx(-2, abs=0.03)


def test_a_tilde_hides_one_logarithm_and_no_power():
    def logarithm(s):
        return np.log(s.n * s.L * s.m * s.m1)

    assert verdict("O", lambda s: logarithm(s)).holds is False
    assert verdict("O", lambda s: logarithm(s), tilde=True).holds
    assert verdict("O", lambda s: logarithm(s) ** 3, tilde=True).holds is False
    assert verdict("O", lambda s: s.m**0.2, tilde=True).holds is False


def test_poly_asks_for_some_power_of_the_width():
    falls, stays = verdict("1/poly", lambda s: s.m**-0.3), verdict("1/poly", lambda s: 2.0)
    assert falls.holds and "m^-0.3" in falls.text and falls.claim().measured == pytest.approx(-0.3, abs=0.01)
    assert stays.holds is False and stays.text.startswith("does not hold: goes as m^")
    assert verdict("1/poly", lambda s: 1 / np.log(s.m)).holds is False  # a logarithm is no power


def test_within_counts_the_runs_that_are_outside():
    assert verdict("within", lambda s: 1.5, low=1, high=2).text == "holds"
    found = verdict("within", lambda s: 3.0 if s.m == 256 else 1.5, low=1, high=2)
    assert found.text == "holds only when m >= 1024" and found.holds is False
    assert (
        verdict("within", lambda s: 3.0, low=1, high=2).text
        == f"does not hold in {10 * len(SETTINGS)} of {10 * len(SETTINGS)} runs"
    )


def test_a_condition_is_named_when_the_claim_needs_it_and_two_when_it_needs_both():
    found = verdict("O", lambda s: s.m**0.5 if s.start > 0.1 else 1.0)
    assert found.text.startswith("holds only when |F(0)| <= 0.01 with constant") and found.holds is False
    found = verdict("within", lambda s: float(s.n >= 48 and s.start < 0.1), low=0.5)
    assert found.text == "holds only when |F(0)| <= 0.01 and n >= 48"


def test_a_condition_under_which_nothing_can_be_told_of_a_size_saves_no_claim():
    """Without m = 1024, `m >= 1024` leaves two widths."""
    entry, growing = Entry("a claim", "a source", "a statement", "T1", "O"), made(lambda s: max(s.m, 4096.0) ** 0.3 - 3)
    assert judge(entry, growing.isel(setting=growing["m"].values != 1024)).text.startswith("does not hold: off by m^")


@pytest.mark.parametrize(
    ("law", "levels"),
    [
        (lambda x: 12.98 * (1 - 10 / x), True),
        (lambda x: 1 / (0.2 + 12 / x), True),
        (lambda x: 3 / (1 + 50 / x) ** 2, True),
        (lambda x: 1 - 1 / x, True),
        (lambda x: x**0.1, False),
        (lambda x: x**0.4, False),
        (lambda x: x, False),
        (lambda x: 1 / x, False),
        (lambda x: np.log(x), False),
        (lambda x: x**0.5 + 5, False),
    ],
)
def test_what_levels_off_is_told_from_powers_and_logarithms(law, levels):
    x = np.array([24.0, 48.0, 96.0, 192.0])
    noise = np.random.default_rng(3).normal(0, 0.003, (10, 4))
    for order in ([0, 1, 2, 3], [3, 1, 2, 0]):
        assert levels_off(x[order], (law(x) * np.exp(noise))[:, order]) is levels


@pytest.mark.parametrize("noise", [0.003, 0.03, 0.1, 0.3])
@pytest.mark.parametrize(
    "law", [lambda x: x**0.1, lambda x: x**0.25, lambda x: x**-0.4, lambda x: x**0.25 - 1.5, lambda x: np.log(x) ** 2]
)
def test_no_scatter_between_seeds_makes_a_power_level_off(law, noise):
    rng, x = np.random.default_rng(4), np.array([24.0, 48.0, 96.0, 192.0])
    said = [levels_off(x, law(x) * np.exp(rng.normal(0, noise, (10, 4)))) for _ in range(100)]
    assert said.count(True) <= 1


def test_what_may_level_off_or_grow_cannot_be_told_and_the_condition_under_which_it_can_is_named():
    def law(setting):
        return np.log(setting.n) ** 2 if setting.start > 0.1 else 1.0

    found = verdict("O", law, noise=0.003)
    assert found.holds is None and found.claim().holds is None
    assert (
        found.text.startswith("cannot be told: goes as n^+0.4")
        and ", or levels off; holds when |F(0)| <= 0.01 with" in found.text
    )
    bound = verdict("Omega", law, noise=0.003)
    assert bound.holds and "with room" not in bound.text


def test_a_squared_logarithm_is_told_over_decades_of_width():
    x = np.array([2.0**8, 2**12, 2**16, 2**20])
    assert not levels_off(x, np.tile(np.log(x) ** 2, (10, 1)))


def test_signs_and_infinities_fail_and_missing_runs_cannot_be_told():
    assert "does not hold in" in verdict("Omega", lambda s: -1.0).text
    assert verdict("O", lambda s: -1.0).text == "cannot be told"
    assert "does not hold in" in verdict("O", lambda s: np.inf).text
    assert (
        verdict("Theta", lambda s: np.nan).holds is None and verdict("within", lambda s: np.nan, high=1).holds is None
    )


def test_too_few_seeds_or_values_make_no_trend():
    entry = Entry("a claim", "a source", "a statement", "T1", "O")
    assert judge(entry, made(lambda s: s.m, seeds=2)).holds is None
    two = made(lambda s: s.m)
    assert judge(entry, two.isel(setting=np.isin(two["m"], (256, 4096)))).text.startswith(
        "holds"
    )  # m tells nothing here


def test_the_statements_ask_for_variables_that_a_grid_holds_and_have_names_of_their_own():
    empty = made(lambda s: 1.0)
    empty = empty.assign({name: xr.full_like(empty["T1"], np.nan) for name in _LONG_NAMES if name not in empty})
    assert len({entry.name + entry.source for entry in ENTRIES}) == len(ENTRIES)
    for entry in ENTRIES:
        scale = xr.ones_like(empty[entry.measured]) * entry.scale(empty)
        assert scale.dims == ("setting", "seed") and set(COORDINATES) <= set(scale.coords)
    told = {verdict.holds for verdict in ledger(empty, ENTRIES)}
    assert told <= {True, False, None}


def test_the_table_has_a_line_for_each_entry_and_the_misprints_below():
    entries = [
        Entry("|F| stays", "Lemma 1", "O", "T1", "O"),
        dataclasses.replace(ENTRIES[0], name="slip", printed=True),
    ]
    text = table(ledger(made(lambda s: 1.0), entries))
    lines = text.splitlines()
    assert "\\|F\\| stays" in lines[2] and lines[2].count(" | ") == lines[0].count(" | ")
    assert "Misprints" in text and text.index("slip") > text.index("Misprints")
