"""What a sweep runs: a simulation, the values that fields of its Config take, and seeds. Every member has a key of its own.

A simulation is a module with a dataclass `Config` that has a field `seed`, its `PRESETS`, and `measure(config) -> xr.Dataset`. Everything here is plain
data, so that the plan fits in a file (sweep.json) and can be read back where the simulation cannot be imported.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from gradflow.errors import InputError, require

# Fields of a Config that change no number of a run
BESIDE_THE_POINT = ("preset", "out", "overwrite", "workers")


class Member(NamedTuple):
    """One run of a sweep: where it is along each axis, its whole configuration, and the key that its file is named by."""

    at: tuple[int, ...]
    fields: dict[str, Any]
    key: str


class Sweep:
    """A simulation over a grid of its fields, or over a list of settings, with several seeds for each.

    simulation   the module, such as `simulations.cooccurrence`, or its name
    grid         values by field: every combination is run
    settings     instead of a grid: the fields of each setting, for members that form no grid; their axis is `setting`
    seeds        how many, counted from the base configuration's seed, or the seeds themselves
    base         the configuration that grid and settings change (default: the simulation's first preset)

    Raises `InputError` for names that the simulation lacks, values of a wrong type, and what would run nothing, or one thing twice.
    """

    def __init__(
        self,
        simulation: ModuleType | str,
        grid: Mapping[str, Iterable] | None = None,
        *,
        settings: Iterable[Mapping[str, Any]] | None = None,
        seeds: int | Iterable[int] = 1,
        base: Any = None,
    ):
        module = module_of(simulation)
        base = next(iter(module.PRESETS.values())) if base is None else base
        require(
            all(hasattr(base, name) for name in fields_of(module.Config)),
            f"base takes a Config of {module.__name__}, got {base!r}.",
        )
        require(
            isinstance(grid, Mapping | None), f"A grid is values by field, such as {{'seed': [1, 2]}}, got {grid!r}."
        )
        require(not (grid and settings), "A sweep takes a grid or a list of settings, not both.")
        self.base = {name: _value(module.Config, name, getattr(base, name)) for name in fields_of(module.Config)}
        if hasattr(base, "preset"):
            self.base["preset"] = str(base.preset)
        axes = {name: _values(module.Config, name, values) for name, values in (grid or {}).items()}
        if settings is not None:
            settings = _listed("The list of settings", settings)
            require(len(settings) > 0, "The list of settings is empty.")
            require(
                all(isinstance(each, Mapping) for each in settings),
                "A setting is values by field, such as {'seed': 1}.",
            )
            settings = [{name: _value(module.Config, name, value) for name, value in each.items()} for each in settings]
            axes = {"setting": list(range(len(settings)))}
        if not any("seed" in names for names in (axes, *(settings or ()))):
            try:
                seeds = operator.index(seeds)
            except TypeError:  # they are the seeds themselves
                axes["seed"] = _values(module.Config, "seed", seeds)
            else:
                require(seeds > 0, f"A sweep takes at least one seed, got {seeds}.")
                axes["seed"] = [self.base["seed"] + i for i in range(seeds)]
        else:
            require(isinstance(seeds, int) and seeds == 1, "seed is swept already; leave the number of seeds out.")
        self.simulation = module.__name__
        self.axes, self.settings = axes, settings
        keys = [member.key for member in self.members()]
        require(len(set(keys)) == len(keys), "Two members of the sweep are the same run: a setting comes twice.")

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Sweep":
        """The plan that `to_json` made, without importing the simulation."""
        sweep = cls.__new__(cls)
        vars(sweep).update(stored)
        return sweep

    def to_json(self) -> dict[str, Any]:
        """The plan as what JSON knows: tuples are lists."""
        return json.loads(json.dumps(vars(self)))

    def __len__(self) -> int:
        return math.prod(len(values) for values in self.axes.values())

    def members(self) -> Iterator[Member]:
        """Every member, the last axis running fastest."""
        for at in itertools.product(*(range(len(values)) for values in self.axes.values())):
            changes = {name: values[i] for (name, values), i in zip(self.axes.items(), at, strict=True)}
            if self.settings is not None:
                changes |= self.settings[changes.pop("setting")]
            fields = self.base | changes
            yield Member(at, fields, key_of(self.simulation, fields))

    def differences(self, earlier: "Sweep") -> list[str]:
        """What keeps this plan from being `earlier` or a larger one of its kind, a line each; none: every member stays."""
        if self.simulation != earlier.simulation:
            return [f"simulation: {earlier.simulation} there, {self.simulation} asked for"]
        if set(self.axes) != set(earlier.axes):
            return [f"axes: {', '.join(earlier.axes)} there, {', '.join(self.axes)} asked for"]
        mine, its = self.to_json(), earlier.to_json()
        swept = {*self.axes, *(name for each in mine["settings"] or () for name in each)}
        fixed = sorted((set(mine["base"]) | set(its["base"])) - swept)
        differences = [
            f"{name}: {its['base'].get(name)} there, {mine['base'].get(name)} asked for"
            for name in fixed
            if its["base"].get(name) != mine["base"].get(name)
        ]
        for name, values in its["axes"].items():
            lost = [value for value in values if value not in mine["axes"][name]]
            if lost:
                differences.append(f"{name}: {_listing(lost)} there, not asked for")
        if mine["settings"] is not None and mine["settings"][: len(its["settings"])] != its["settings"]:
            differences.append("settings: other ones there (the list may only grow at its end)")
        return differences


def module_of(simulation: ModuleType | str) -> ModuleType:
    """The module of a simulation; `InputError` where there is none, or it cannot be swept."""
    try:
        module = import_module(simulation) if isinstance(simulation, str) else simulation
    except ModuleNotFoundError as error:
        raise InputError(
            f"There is no simulation {simulation!r} ({error}); run from the folder that holds it."
        ) from error
    lacking = [name for name in ("Config", "PRESETS", "measure") if not hasattr(module, name)]
    require(not lacking, f"{module.__name__} cannot be swept: it has no {', '.join(lacking)}.")
    seeded = "seed" in getattr(module.Config, "__dataclass_fields__", {})
    require(seeded, f"{module.__name__} cannot be swept: its Config must be a dataclass with a field `seed: int = 0`.")
    return module


def key_of(simulation: str, fields: Mapping[str, Any]) -> str:
    """The name of a member: a hash of the simulation and of every field that its numbers depend on."""
    fields = {name: value for name, value in fields.items() if name not in BESIDE_THE_POINT}
    text = json.dumps([simulation, fields], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def configured(config: type, fields: Mapping[str, Any]) -> Any:
    """The Config of a member, from fields as JSON has them. It runs on one core: where a Config has `workers`, that is 1."""
    kinds = fields_of(config)
    alone = {"workers": 1} if "workers" in config.__dataclass_fields__ else {}
    return config(**{name: as_meant(kinds.get(name), value) for name, value in fields.items()}, **alone)


def as_meant(kind: Any, value: Any) -> Any:
    """What JSON made a list or a string of, for a field of this type: a tuple, a path."""
    if isinstance(value, list | tuple):
        return tuple(as_meant(None, each) for each in value)
    return Path(value) if isinstance(value, str) and Path in (kind, *get_args(kind)) else value


def parse_grid(texts: Sequence[str], config: type) -> dict[str, list]:
    """A grid from NAME=VALUE,VALUE,... ; lin:FIRST:LAST:COUNT and log:FIRST:LAST:COUNT are ranges, / separates the parts of one value."""
    grid = {}
    for text in texts:
        name, _, values = text.partition("=")
        require(bool(name and values), f"--grid takes NAME=VALUE,VALUE,..., got {text!r}.")
        require(name not in grid, f"--grid has {name} twice.")
        grid[name] = _range(name, values, config) if values.startswith(("lin:", "log:")) else values.split(",")
    return grid


def _range(name: str, text: str, config: type) -> list:
    import numpy as np

    try:
        kind, first, last, count = text.split(":")
        first, last, count = float(first), float(last), int(count)
    except ValueError:
        raise InputError(f"{name} takes {text[:4]}FIRST:LAST:COUNT, got {text!r}.") from None
    require(
        count >= 1 and (kind == "lin" or min(first, last) > 0),
        f"{name}={text}: a range needs points, a logarithmic one positive ends.",
    )
    values = (np.geomspace if kind == "log" else np.linspace)(first, last, count)
    if "int" in str(fields_of(config).get(name)):
        values = np.unique(values.round().astype(int))
    return values.tolist()


def _values(config: type, name: str, values: Iterable) -> list:
    """An axis: the values of a field, as its type has them."""
    values = _listed(name, values)
    require(len(values) > 0, f"The grid is empty: {name} has no values.")
    converted = [_value(config, name, value) for value in values]
    repeated = [value for i, value in enumerate(converted) if value in converted[:i]]
    require(not repeated, f"{name} has {_listing(repeated)} twice.")
    return converted


def _listed(name: str, values: Any) -> list:
    """Several values, however they are given; text and objects are one."""
    if not isinstance(values, str | bytes | Mapping):
        with contextlib.suppress(TypeError):
            return list(values)
    raise InputError(f"{name} takes several values in a list, got {values!r}.")


def _value(config: type, name: str, value: Any) -> Any:
    """A value of a field as its type has it, and JSON, too: 64 is no string, 1 becomes 1.0 where a number is meant, a path is text."""
    kinds = fields_of(config)
    require(name in kinds, f"Unknown grid name {name!r}; known are {', '.join(kinds)}.")
    if isinstance(value, str):
        if kinds[name] is str:
            return value
        return _parsed(kinds[name], name, tuple(value.split("/")) if "tuple" in str(kinds[name]) else (value,))
    return _parsed(kinds[name], name, tuple(_texts(value)))


def _texts(value: Any) -> Iterator[str]:
    """What one would type for a value: its parts, as text."""
    if hasattr(value, "tolist"):  # of NumPy or JAX
        value = value.tolist()
    if isinstance(value, tuple | list):
        for each in value:
            yield from _texts(each)
    else:
        yield str(int(value) if isinstance(value, float) and value.is_integer() else value)


@cache
def _parsed(kind: Any, name: str, tokens: tuple[str, ...]) -> Any:
    """What flags make of the same text."""
    import io

    import tyro

    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            value = tyro.cli(kind, args=list(tokens))
        value = str(value) if isinstance(value, Path) else value
        json.dumps(value)
    except (SystemExit, TypeError):  # TypeError: JSON has no such thing
        raise InputError(f"{name} takes {_allowed(kind)}, got {'/'.join(tokens)!r}.") from None
    parts = value if isinstance(value, tuple) else (value,)
    require(all(part == part for part in parts), f"{name} takes numbers, got nan.")
    return value


def _allowed(kind: Any) -> str:
    """The values of a type, in words."""
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if kind is bool:
        return "True or False"
    return str(kind).replace("typing.", "") if get_args(kind) else getattr(kind, "__name__", str(kind))


@cache
def fields_of(config: type) -> dict[str, Any]:
    """The types of the fields that can be swept."""
    kinds = get_type_hints(config)
    return {field.name: kinds[field.name] for field in dataclasses.fields(config) if field.name not in BESIDE_THE_POINT}


def _listing(values: Sequence) -> str:
    """Values in a line, the first eight of many."""
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
