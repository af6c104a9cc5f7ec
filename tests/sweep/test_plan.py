"""What a sweep is: values as the fields' types have them, keys that say what a member computes, and what is no sweep."""

from dataclasses import make_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest

from gradflow.errors import InputError
from gradflow.sweep import Sweep
from gradflow.sweep.plan import configured, key_of, parse_grid
from tests.sweep import toy

KNOWN = "seed, size, rate, rates, wait"


def simulation(**fields: tuple[Any, Any]) -> ModuleType:
    """One with these fields (type and default), and a seed."""
    module = ModuleType("another")
    fields = {"seed": (int, 0)} | fields
    module.Config = make_dataclass("Config", [(name, *rest) for name, rest in fields.items()], frozen=True)
    module.PRESETS, module.measure = {"small": module.Config()}, None
    return module


def axes(*grid: str, **options) -> dict[str, list]:
    return Sweep(toy, parse_grid(grid, toy.Config), **options).axes


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("size=4,16,64", [4, 16, 64]),
        ("rate=1,2.5,1e-3", [1.0, 2.5, 0.001]),
        ("rates=1/2,3", [(1.0, 2.0), (3.0,)]),
        ("rate=lin:0:1:5", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("rate=log:1:100:3", [1.0, 10.0, 100.0]),
        ("size=log:1:16:5", [1, 2, 4, 8, 16]),
        ("size=lin:1:3:9", [1, 2, 3]),  # rounded, and each once
        ("rate=-1", [-1.0]),
    ],
)
def test_values_are_of_the_fields_type(text, values):
    name = text.partition("=")[0]
    found = axes(text)[name]
    assert found == pytest.approx(values) if name == "rate" else found == values
    assert [type(each) for each in found] == [type(each) for each in values]


def test_every_combination_is_a_member_the_seed_running_fastest():
    sweep = Sweep(toy, {"size": [4, 16], "rate": [0.5]}, seeds=2, base=replace(toy.Config(), seed=7))
    members = list(sweep.members())
    assert len(sweep) == len(members) == 4 and list(sweep.axes) == ["size", "rate", "seed"]
    assert [(member.at, member.fields["size"], member.fields["seed"]) for member in members] == [
        ((0, 0, 0), 4, 7), ((0, 0, 1), 4, 8), ((1, 0, 0), 16, 7), ((1, 0, 1), 16, 8),
    ]  # fmt: skip


def test_settings_are_members_that_form_no_grid():
    sweep = Sweep(toy, settings=[{"size": 4, "rate": 1}, {"size": 16}], seeds=[3, 5])
    fields = [(each.fields["size"], each.fields["rate"], each.fields["seed"]) for each in sweep.members()]
    assert fields == [(4, 1.0, 3), (4, 1.0, 5), (16, 0.5, 3), (16, 0.5, 5)]
    assert list(sweep.axes) == ["setting", "seed"]


def test_a_key_names_what_is_computed_however_it_was_asked_for():
    """The same member from numbers and from text, from a grid and from settings, read back from JSON: one key."""
    grid = Sweep(toy, {"rate": [1, 2], "rates": [(1, 2)]})
    keys = {member.fields["rate"]: member.key for member in grid.members()}
    for other in (
        Sweep(toy, parse_grid(["rate=1.0,2.0", "rates=1/2"], toy.Config)),
        Sweep(toy, settings=[{"rate": 1, "rates": [1, 2]}, {"rate": "2", "rates": "1/2"}]),
        Sweep.from_json(grid.to_json()),
        Sweep(toy.__name__, {"rate": [2, 1]}, base=replace(toy.Config(), preset="other", overwrite=True)),
    ):
        assert {member.fields["rate"]: member.key for member in other.members()} == keys
    changed = [replace(toy.Config(), rate=3.0), replace(toy.Config(), size=5), replace(toy.Config(), rates=(1.0,))]
    others = [next(Sweep(toy, base=base).members()).key for base in (toy.Config(), *changed)]
    assert len({*others, *keys.values()}) == 6
    assert key_of("another", {"rate": 1.0}) != key_of(toy.__name__, {"rate": 1.0})


def test_the_base_is_of_the_fields_types_too():
    """Whole numbers, NumPy's and paths, asked for or the Config's own: one key, and the Config that was meant."""
    pairs = ((1, 2), (3, 4))
    some = simulation(
        x=(float, 1), count=(int, np.int64(3)), xs=(tuple[float, ...], (1, 2)), pairs=(tuple[tuple[int, int], ...], pairs),
        data=(Path, Path("a/b")), none=(float | None, None), empty=(tuple[int, ...], ()), text=(str, "--x"),
    )  # fmt: skip
    sweep = Sweep(some)
    same = Sweep(some, base=some.Config(x=1.0, count=3, xs=[1.0, 2.0], pairs=[[1, 2], [3, 4]], data="a/b"))
    swept = Sweep(some, {"x": ["1"], "xs": ["1/2"], "data": [Path("a/b")]})
    assert [next(each.members()).key for each in (sweep, same, swept)] == [next(sweep.members()).key] * 3
    assert sweep.to_json() == same.to_json()
    fields = Sweep.from_json(sweep.to_json()).base
    meant = configured(some.Config, fields)
    assert meant == some.Config() and repr(meant) == repr(some.Config(x=1.0, count=3, xs=(1.0, 2.0)))


def test_members_know_their_preset_and_run_alone():
    some = simulation(preset=(Literal["small", "big"], "small"), workers=(int, 4), overwrite=(bool, False))
    asked = Sweep(some, base=some.Config(preset="big", workers=8, overwrite=True))
    for sweep in (asked, Sweep.from_json(asked.to_json())):
        (member,) = sweep.members()
        assert configured(some.Config, member.fields) == some.Config(preset="big", workers=1)
        assert member.key == next(Sweep(some).members()).key
    assert Sweep(some).differences(asked) == ["preset: big there, small asked for"]


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ((float, "hello"), "it takes float, got 'hello'"),
        ((float, float("nan")), "it takes numbers, got nan"),
        ((tuple[float, ...], (1.0, np.nan)), "it takes numbers, got nan"),
        ((complex, 1j), "it takes complex, got '1j'"),
        ((object, object()), "it takes object, got"),
    ],
)
def test_a_base_that_is_no_plain_data_of_its_types_is_refused(field, said):
    with pytest.raises(InputError, match=said):
        Sweep(simulation(it=field))


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (["speed=1"], f"Unknown grid name 'speed'; known are {KNOWN}"),
        (["out=here"], f"Unknown grid name 'out'; known are {KNOWN}"),
        (["size=4.5"], "size takes int, got '4.5'"),
        (["rate=fast"], "rate takes float, got 'fast'"),
        (["rate=nan"], "numbers, got nan"),
        (["rates=1/nan"], "numbers, got nan"),
        (["rates=1/x"], "rates takes .*, got '1/x'"),
        (["size=4,4"], "size has 4 twice"),
        (["rate=1,1.0"], "rate has 1.0 twice"),
        (["size=4", "size=5"], "--grid has size twice"),
        (["size"], "takes NAME=VALUE"),
        (["size="], "takes NAME=VALUE"),
        (["=4"], "takes NAME=VALUE"),
        (["size=4,"], "size takes int, got ''"),
        (["size=lin:1:9"], "size takes lin:FIRST:LAST:COUNT, got 'lin:1:9'"),
        (["size=log:one:9:3"], "size takes log:FIRST:LAST:COUNT"),
        (["rate=log:0:9:3"], "a logarithmic one positive ends"),
        (["rate=lin:0:9:0"], "a range needs points"),
        (["rate=lin:0:nan:2"], "numbers, got nan"),
    ],
)
def test_a_grid_that_means_nothing_is_refused(grid, said):
    with pytest.raises(InputError, match=said):
        axes(*grid)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (dict(grid={"size": []}), "The grid is empty: size has no values"),
        (dict(grid={"size": [4]}, settings=[{"size": 4}]), "a grid or a list of settings, not both"),
        (dict(settings=[]), "list of settings is empty"),
        (dict(settings=[{"size": 4}, {"size": 4}]), "a setting comes twice"),
        (dict(settings=[{"size": 4}, {"speed": 4}]), "Unknown grid name 'speed'"),
        (dict(seeds=0), "at least one seed"),
        (dict(seeds=[1, 1]), "seed has 1 twice"),
        (dict(grid={"seed": [1, 2]}, seeds=2), "seed is swept already"),
        (dict(grid={"size": [True]}), "size takes int"),
        (dict(grid={"size": [4.5]}), "size takes int, got '4.5'"),
        (dict(grid={"size": 3.0}), "size takes several values in a list, got 3.0"),
        (dict(grid={"trouble": "abc"}), "trouble takes several values in a list, got 'abc'"),
        (dict(grid=["size"]), "A grid is values by field"),
        (dict(settings={"size": 4}), "list of settings takes several values in a list, got"),
        (dict(settings=["size"]), "A setting is values by field"),
        (dict(seeds=2.0), "seed takes several values in a list, got 2.0"),
        (dict(seeds="12"), "seed takes several values in a list, got '12'"),
        (dict(seeds=-1), "at least one seed, got -1"),
        (dict(seeds=[]), "seed has no values"),
        (dict(base={"size": 4}), "base takes a Config of tests.sweep.toy, got {'size': 4}"),
    ],
)
def test_what_is_no_sweep_is_refused(asked, said):
    with pytest.raises(InputError, match=said):
        Sweep(toy, **asked)


def test_values_may_come_from_anywhere():
    expected = [member.key for member in Sweep(toy, {"size": [1, 10, 100]}, seeds=2).members()]
    for sizes in (np.geomspace(1, 100, 3), (10**i for i in range(3)), (1.0, 10.0, 100.0)):
        assert [member.key for member in Sweep(toy, {"size": sizes}, seeds=np.int64(2)).members()] == expected
    listed = Sweep(toy, settings=({"size": size} for size in (1, 10, 100)), seeds=np.arange(2))
    assert [member.key for member in listed.members()] == expected


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Literal["red", "blue"], "it takes red or blue, got 'green'"),
        (tuple[int, int], r"it takes tuple\[int, int\], got 'green'"),
        (bool, "it takes True or False, got 'green'"),
        (float | None, r"it takes float \| None, got 'green'"),
    ],
)
def test_a_value_that_is_refused_is_told_what_is_allowed(kind, said):
    with pytest.raises(InputError, match=said):
        Sweep(simulation(it=(kind, "green")))


def test_a_module_that_cannot_be_swept_is_refused():
    with pytest.raises(InputError, match="There is no simulation 'no_such_thing'"):
        Sweep("no_such_thing")
    with pytest.raises(InputError, match="json cannot be swept: it has no Config, PRESETS, measure"):
        Sweep("json")
    seedless = ModuleType("seedless")
    seedless.Config, seedless.PRESETS, seedless.measure = make_dataclass("Config", ()), {}, None
    with pytest.raises(InputError, match="seedless cannot be swept: its Config must be a dataclass with a field `seed"):
        Sweep(seedless)


def test_a_plan_may_grow_and_may_change_in_nothing_else():
    small = Sweep(toy, {"size": [4, 16]}, seeds=2)
    assert not small.differences(small) and not Sweep(toy, {"size": [2, 16, 4]}, seeds=3).differences(small)
    assert small.differences(Sweep(toy, {"size": [4, 64]}, seeds=2)) == ["size: 64 there, not asked for"]
    assert small.differences(Sweep(toy, {"size": [4]}, seeds=5)) == ["seed: 2, 3, 4 there, not asked for"]
    assert small.differences(Sweep(toy, {"rate": [4]}))[0].startswith("axes: rate, seed there")
    other = Sweep(toy, {"size": [4, 16]}, seeds=2, base=replace(toy.Config(), rates=(3.0,)))
    assert small.differences(other) == ["rates: [3.0] there, [1.0, 2.0] asked for"]
    listed = Sweep(toy, settings=[{"size": 4}, {"size": 16}])
    longer = Sweep(toy, settings=[{"size": 4}, {"size": 16}, {"size": 64}])
    assert not longer.differences(listed) and listed.differences(longer)
    assert Sweep(toy, settings=[{"size": 16}, {"size": 4}]).differences(listed)
