"""A sweep's folder as one labelled dataset: its axes, then each variable's own dimensions. Curves are read when they are indexed.

What the members agree on (times, say) is a coordinate. Where they differ, numbers become a variable over the axes, labels are united
in the order in which they first appear, and shorter dimensions end in NaN.
"""

import ast
import importlib.util
import json
from collections.abc import Iterable, Mapping
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.core.indexing import (
    ExplicitIndexer,
    IndexingSupport,
    LazilyIndexedArray,
    explicit_indexing_adapter,
)

from gradflow.errors import InputError, require
from gradflow.sweep.folder import Folder
from gradflow.sweep.member import File, Layout, Stored, open_member
from gradflow.sweep.plan import Sweep
from gradflow.sweep.sources import changes


def open_sweep(folder: Path | str) -> xr.Dataset:
    """Read what is done of a sweep, at any time, also while it runs.

    Dimensions are the sweep's axes, labelled with their values (several fields of a setting: coordinates along `setting`), then those
    of each variable. Numbers are float64, NaN where a member is missing; text is "" there. `done` and `failed` say over the axes what
    became of each member. Single numbers are in memory; curves are read from the members that an index asks for, when it does.
    A member's variable or dimension that is called as an axis is, becomes `measured_NAME`. Attributes: simulation, gradflow (the
    version that it is computed with), base (the configuration that the axes change, as JSON), and mixed, where members of other versions
    or sources were accepted: what was changed between them.

    Raises `InputError` where the folder holds no sweep, or a damaged file.
    """
    return read(folder)


def read(folder: Path | str, *, keep: bool = True) -> xr.Dataset:
    """`open_sweep`, of which what is read of curves is kept in memory or not."""
    dataset = xr.open_dataset(folder, engine=_Engine, cache=keep)
    for variable in dataset.variables.values():
        if set(variable.dims) <= set(dataset["done"].dims):
            variable.load()  # it is in memory, but xarray's printing would not show it
    return dataset


class _Engine(xr.backends.BackendEntrypoint):
    """What tells xarray how a folder becomes a dataset; xarray keeps what was read, and cuts it in chunks for dask."""

    def open_dataset(
        self, filename_or_obj: Path | str, *, drop_variables: Iterable[str] | str | None = None
    ) -> xr.Dataset:
        folder = Folder(filename_or_obj)
        sweep = folder.sweep()
        coords = _axes(sweep)
        shape = tuple(map(len, sweep.axes.values()))
        done, failed = folder.done(), folder.failed()
        keys = [member.key for member in sweep.members()]
        merge = _Merge(tuple(sweep.axes), shape, {*coords, "done", "failed"})
        is_done = np.zeros(shape, bool)
        for place, key in enumerate(keys):
            if key in done:
                is_done.flat[place] = merge.add(place, str(done[key]))
        is_failed = np.reshape([key in failed for key in keys], shape)
        variables, more = merge.variables()
        masks = {"done": (is_done, "member is finished"), "failed": (is_failed, "member failed")}
        variables |= {name: (tuple(sweep.axes), mask, {"long_name": text}) for name, (mask, text) in masks.items()}
        attrs = {
            "simulation": sweep.simulation,
            "gradflow": folder.made_with()["versions"]["gradflow"],
            "base": json.dumps(sweep.base),
        }
        if before := folder.made_with_before():
            steps = pairwise([*before, folder.made_with()])
            attrs["mixed"] = "; then ".join("; ".join(changes(old, new)) for old, new in steps)
        dataset = xr.Dataset(variables, coords | more, attrs)
        return dataset.drop_vars(drop_variables or [], errors="ignore")


# ---------------------------------------------------------------------------------------------------------- the axes


def _axes(sweep: Sweep) -> dict[str, tuple[str, np.ndarray, dict[str, str]]]:
    """Coordinates that label the members; over a list of settings also every field that a setting names."""
    told = _told_of_fields(sweep.simulation)
    labels = {name: (name, values) for name, values in sweep.axes.items()}
    for name in dict.fromkeys(name for each in sweep.settings or () for name in each):
        labels[name] = ("setting", [each.get(name, sweep.base[name]) for each in sweep.settings])
    return {
        name: (axis, _labels(values), {"long_name": told[name]} if name in told else {})
        for name, (axis, values) in labels.items()
    }


def _labels(values: list) -> np.ndarray:
    """Values of a field as labels: numbers and truth values as they are, all else as flags have it, 1/2 for (1, 2)."""
    if all(isinstance(value, bool) for value in values):
        return np.array(values)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return np.array(values)
    return np.array(["/".join(map(str, value)) if isinstance(value, list) else str(value) for value in values])


def _told_of_fields(simulation: str) -> dict[str, str]:
    """The docstrings under the fields of the simulation's Config; none where its source is not at hand. It is not imported."""
    try:
        source = Path(importlib.util.find_spec(simulation).origin).read_text()
    except (ImportError, AttributeError, TypeError, ValueError, OSError):
        return {}
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Config")
    told = {}
    for config in classes:
        for field, text in zip(config.body, config.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                told[field.target.id] = str(text.value.value)
    return told


# ---------------------------------------------------------------------------------------------------------- the members


class _Seen:
    """A variable, as far as the members that were read have it."""

    def __init__(self, stored: Stored, path: str, cells: int):
        self.stored, self.path, self.width = stored, path, stored.width
        self.scalars = None if stored.dims else np.full(cells, "" if stored.is_text else np.nan, _dtype(stored))
        self.coordinate = {}  # its values, by their bytes in the file: one, or labels that differ
        self.differs = False

    def check(self, stored: Stored, path: str) -> None:
        """A further member's variable must be of the same kind."""
        mine, its = (each.dims + ("text",) * each.is_text for each in (self.stored, stored))
        require(
            sorted(mine) == sorted(its),
            f"Members of this sweep do not fit together: {stored.name} is over ({', '.join(mine)}) in {self.path} and over "
            f"({', '.join(its)}) in {path}. Let `measure` return the same variables for each.",
        )
        self.width = max(self.width, stored.width)

    def label(self, file: File, stored: Stored) -> None:
        """Compare a coordinate with that of the members before."""
        if self.differs:
            return
        raw = stored.raw(file.content).tobytes(), stored.dtype, stored.raw_shape
        if raw in self.coordinate:
            return
        values = file.values(stored.name)
        first = next(iter(self.coordinate.values()), values)
        if not stored.is_text and not np.array_equal(first, values, equal_nan=values.dtype.kind == "f"):
            self.differs = True
        elif stored.is_text or not self.coordinate:
            self.coordinate[raw] = values


class _Merge:
    """Members, one after the other, into variables over the axes."""

    def __init__(self, axes: tuple[str, ...], shape: tuple[int, ...], taken: set[str]):
        self.axes, self.shape, self.taken = axes, shape, taken
        self.paths = np.full(int(np.prod(shape)), None, object)
        self.seen: dict[str, _Seen] = {}
        self.sizes: dict[str, int] = {}
        self.coordinates: set[str] = set()
        self._layout: Layout | None = None

    def add(self, place: int, path: str) -> bool:
        """Read the header, the single numbers and the coordinates of a member; False where it was taken away meanwhile."""
        try:
            file = open_member(path)
        except FileNotFoundError:
            return False
        self.paths[place] = path
        if file.layout is not self._layout:
            self._note(file)
        for name, stored in self._scalars:
            seen = self.seen[name]
            if stored.is_text and stored.width > seen.scalars.dtype.itemsize // 4:
                seen.scalars = seen.scalars.astype(_dtype(stored))
            seen.scalars[place] = stored.raw(file.content) if stored.is_plain else file.values(name)
        for name, stored in self._labels:
            self.seen[name].label(file, stored)
        return True

    def _note(self, file: File) -> None:
        """What a layout that the member before did not have brings in."""
        variables = file.layout.variables
        for name, stored in variables.items():
            if name not in self.seen:
                self.seen[name] = _Seen(stored, file.path, len(self.paths))
            self.seen[name].check(stored, file.path)
            for dim, size in zip(stored.dims, stored.shape, strict=True):
                self.sizes[dim] = max(self.sizes.get(dim, 0), size)
        self.coordinates |= file.layout.coordinates & set(variables)
        self._layout = file.layout
        self._scalars = [(name, stored) for name, stored in variables.items() if not stored.dims]
        self._labels = [(name, variables[name]) for name in file.layout.coordinates if name in variables]

    def variables(self) -> tuple[dict[str, xr.Variable], dict[str, xr.Variable]]:
        """Variables and coordinates over the axes."""
        united = {
            name: _united(self.seen[name].coordinate.values())
            for name in self.sizes
            if name in self.coordinates and self.seen[name].stored.is_text
        }
        sizes = self.sizes | {name: len(labels) for name, labels in united.items()}
        variables, coords = {}, {}
        for name, seen in self.seen.items():
            where = coords if name in self.coordinates else variables
            own = tuple(self._name(dim) for dim in seen.stored.dims)
            if name in united:
                labels = [label for label, _ in united[name]]
                variable = xr.Variable(own, np.array(labels, str), seen.stored.attrs)
            elif name in self.coordinates and _is_shared(seen, sizes):
                variable = xr.Variable(own, next(iter(seen.coordinate.values())), seen.stored.attrs)
            elif seen.scalars is not None:
                variable = xr.Variable(self.axes, seen.scalars.reshape(self.shape), seen.stored.attrs)
            else:
                size = {dim: sizes[dim] for dim in seen.stored.dims}
                labels = {dim: united[dim] for dim in size if dim in united and len(self.seen[dim].coordinate) > 1}
                curves = _Curves(self.paths.reshape(self.shape), seen, size, labels)
                variable = xr.Variable(self.axes + own, LazilyIndexedArray(curves), seen.stored.attrs)
            where[self._name(name)] = variable
        return variables, coords

    def _name(self, name: str) -> str:
        return f"measured_{name}" if name in self.taken else name


def _is_shared(seen: _Seen, sizes: Mapping[str, int]) -> bool:
    """Whether all members that have a coordinate have the same, and as long as the dimension is."""
    values = list(seen.coordinate.values())
    same = not seen.differs and all(np.array_equal(values[0], other) for other in values[1:])
    return same and values[0].shape == tuple(sizes[dim] for dim in seen.stored.dims)


def _united(coordinates: Iterable[np.ndarray]) -> dict[tuple[str, int], int]:
    """The place of each label among all, in the order of first appearance; a label that a member has twice has two places."""
    places: dict[tuple[str, int], int] = {}
    for labels in coordinates:
        for label in _counted(labels):
            places.setdefault(label, len(places))
    return places


def _counted(labels: np.ndarray) -> list[tuple[str, int]]:
    seen: dict[str, int] = {}
    counted = []
    for label in labels.tolist():
        seen[label] = seen.get(label, -1) + 1
        counted.append((label, seen[label]))
    return counted


def _dtype(stored: Stored, width: int = 0) -> np.dtype:
    return np.dtype(f"U{max(stored.width, width, 1)}") if stored.is_text else np.dtype(float)


class _Curves(xr.backends.BackendArray):
    """A variable with dimensions of its own over the axes, read from the files of the members that an index touches."""

    def __init__(self, paths: np.ndarray, seen: _Seen, sizes: Mapping[str, int], labels: Mapping[str, dict]):
        self.paths, self.name, self.dims, self.labels = paths, seen.stored.name, seen.stored.dims, labels
        self.own = tuple(sizes.values())
        self.shape, self.dtype = (*paths.shape, *self.own), _dtype(seen.stored, seen.width)

    def __getitem__(self, key: ExplicitIndexer) -> np.ndarray:
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[int | slice | np.ndarray, ...]) -> np.ndarray:
        chosen = [np.atleast_1d(np.arange(size)[each]) for size, each in zip(self.shape, key, strict=True)]
        over, own = chosen[: self.paths.ndim], np.ix_(*chosen[self.paths.ndim :])
        cells = np.full([len(each) for each in chosen], self._nothing(), self.dtype)
        for at in product(*(range(len(each)) for each in over)):
            path = self.paths[tuple(each[i] for each, i in zip(over, at, strict=True))]
            if path is not None:
                cells[at] = self._member(path)[own]
        return cells.reshape(
            [len(c) for c, each in zip(chosen, key, strict=True) if not isinstance(each, int | np.integer)]
        )

    def _member(self, path: str) -> np.ndarray:
        """One member's values, each at the place that it has among all members'."""
        try:
            file = open_member(path)
        except FileNotFoundError:
            raise InputError(f"{path} was taken away since the sweep was opened; open it again.") from None
        cells = np.full(self.own, self._nothing(), self.dtype)
        if stored := file.layout.variables.get(self.name):
            values = file.values(self.name).transpose([stored.dims.index(dim) for dim in self.dims])
            places = [self._places(file, dim, size) for dim, size in zip(self.dims, values.shape, strict=True)]
            cells[np.ix_(*places)] = values
        return cells

    def _places(self, file: File, dim: str, size: int) -> list[int] | range:
        if dim not in self.labels or dim not in file.layout.variables:
            return range(size)
        return [self.labels[dim][label] for label in _counted(file.values(dim))]

    def _nothing(self) -> Any:
        return "" if self.dtype.kind == "U" else np.nan
