"""The file of a finished member, read in microseconds: scipy parses a header once for all members that have the same.

Members of a sweep mostly differ in numbers alone, so that what is where in a file is known from its first bytes. The file is mapped
into memory: what is not asked for is not read.
"""

import contextlib
import mmap
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from gradflow.errors import InputError, first_line, require

# attributes by which xarray encodes, and which say nothing of the numbers
_ENCODING = ("_FillValue", "missing_value", "scale_factor", "add_offset", "dtype", "_Encoding", "_Unsigned")
# headers that are remembered by a process
_MANY = 4096
_known: dict[int, dict[bytes, "Layout"]] = {}


class Stored:
    """A variable of a file: what it is, and where."""

    def __init__(self, name: str, raw: np.ndarray, offset: int, dims: tuple[str, ...], attrs: dict[str, Any]):
        self.name, self.raw_dims, self.raw_attrs = name, dims, attrs
        self.dtype, self.raw_shape, self.strides, self.offset = raw.dtype, raw.shape, raw.strides, offset
        self.end = offset + np.lib.array_utils.byte_bounds(raw)[1] - np.lib.array_utils.byte_bounds(raw)[0]
        self.is_text = raw.dtype.kind == "S"
        self.dims = dims[:-1] if self.is_text else dims  # the last one of text counts its bytes
        self.shape = raw.shape[: len(self.dims)]
        self.width = raw.shape[-1] if self.is_text and raw.shape else 0

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """Without those that say how it is encoded."""
        return {name: value for name, value in self.raw_attrs.items() if name not in (*_ENCODING, "coordinates")}

    @cached_property
    def is_plain(self) -> bool:
        """Whether it is kept as it is: a number, without an encoding."""
        encoded = [name for name in _ENCODING if not _is_nan(self.raw_attrs.get(name, np.nan))]
        return not self.is_text and not encoded

    def raw(self, content: mmap.mmap) -> np.ndarray:
        """As it stands in the file."""
        return np.ndarray(self.raw_shape, self.dtype, content, self.offset, self.strides)

    def values(self, content: mmap.mmap) -> np.ndarray:
        """Decoded: text as strings, numbers with the type that they were measured with."""
        raw = self.raw(content)
        if self.is_plain:
            return raw.astype(raw.dtype.newbyteorder("="))
        coded = xr.Variable(self.raw_dims, raw.copy(), self.raw_attrs)
        decoded = xr.conventions.decode_cf_variable(self.name, coded, decode_times=False, decode_timedelta=False).values
        return decoded.astype(str) if self.is_text else decoded


class Layout(NamedTuple):
    """What a file holds, and where: its variables, those of them that are coordinates, and the size that it has at least."""

    variables: dict[str, Stored]
    coordinates: frozenset[str]
    size: int


class File(NamedTuple):
    """An open file."""

    path: str
    layout: Layout
    content: mmap.mmap

    def values(self, name: str) -> np.ndarray:
        """A variable, decoded. Raises `InputError` where it is damaged."""
        with _damage_told(self.path):
            return self.layout.variables[name].values(self.content)


def open_member(path: str) -> File:
    """The file of a finished member. Raises `InputError` where it is damaged, `FileNotFoundError` where there is none."""
    with _damage_told(path):
        with open(path, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        layout = _remembered(content) or _parsed(path, content)
        require(len(content) >= layout.size, f"{len(content)} bytes of {layout.size}")
    return File(path, layout, content)


@contextlib.contextmanager
def _damage_told(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # scipy and xarray raise whatever the bytes lead them to
        raise InputError(f"{path} is damaged ({first_line(error)}); delete it and run the sweep again.") from None


def _remembered(content: mmap.mmap) -> Layout | None:
    for length, layouts in list(_known.items()):
        if layout := layouts.get(content[:length]):
            return layout
    return None


def _parsed(path: str, content: mmap.mmap) -> Layout:
    from scipy.io import netcdf_file

    with netcdf_file(path, mmap=True) as file:
        variables, everywhere = _variables(file), _text(file._attributes)
    named = " ".join(each.get("coordinates", "") for each in (everywhere, *(v.raw_attrs for v in variables.values())))
    own = [name for name, variable in variables.items() if variable.dims == (name,)]
    ends = [variable.end for variable in variables.values()]
    begins = [variable.offset for variable in variables.values() if variable.end > variable.offset]
    layout = Layout(variables, frozenset(own) | frozenset(named.split()), max(ends, default=len(content)))
    header = content[: min(begins, default=len(content))]
    if sum(map(len, _known.values())) >= _MANY:
        _known.clear()
    _known.setdefault(len(header), {})[header] = layout
    return layout


def _variables(file: Any) -> dict[str, Stored]:
    """The variables of an open scipy file, in a function of its own: no view of the file may be left when it is closed."""
    variables = {}
    for name, variable in file.variables.items():
        whole = variable.data
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        offset = _address(variable.data) - _address(whole)
        variables[name] = Stored(name, variable.data, offset, variable.dimensions, _text(variable._attributes))
    return variables


def _address(array: np.ndarray) -> int:
    return np.lib.array_utils.byte_bounds(array)[0]


def _text(attrs: dict[str, Any]) -> dict[str, Any]:
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in attrs.items()}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value
