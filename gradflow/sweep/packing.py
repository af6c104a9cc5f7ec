"""A sweep as one file, to hand on: NetCDF (.nc) or Zarr (.zarr), with what `open_sweep` gives."""

import contextlib
import importlib.util
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import xarray as xr

from gradflow.errors import InputError, require
from gradflow.files import complete_or_absent
from gradflow.sweep.reading import read


def pack(folder: Path | str, path: Path | str, *, overwrite: bool = False) -> Path:
    """Write what is done of a sweep to `path`, which ends with .nc or .zarr; complete or absent, also where it is interrupted.

    Variables go one after the other, so that memory need hold only the largest of them. Raises `InputError` where `path` exists,
    unless `overwrite`, has another ending or cannot be written, and where zarr is not installed.
    """
    path = Path(path)
    require(path.suffix in (".nc", ".zarr"), f"A sweep is packed into a file .nc or .zarr, not {path.name}.")
    require(overwrite or not path.exists(), f"{path} exists; choose another name, or add --overwrite to replace it.")
    require(path.parent.is_dir(), f"There is no folder {path.parent}.")
    is_zarr = path.suffix == ".zarr"
    require(path.is_dir() == is_zarr or not path.exists(), f"{path} is no {path.suffix[1:]}: it is left as it is.")
    require(
        not is_zarr or importlib.util.find_spec("zarr") is not None,
        "Zarr is not installed: pip install 'gradflow-dynamics[sweep]', or pack into a file .nc.",
    )
    dataset = read(folder, keep=False)
    # xarray holds in memory whatever it writes at once; what the file says of coordinates is said by the part that comes last
    parts = [xr.Dataset({name: dataset[name].variable}) for name in dataset.data_vars]
    parts = [part.assign_attrs(dataset.attrs) for part in (*parts, dataset.coords.to_dataset())]
    try:
        if is_zarr:
            with _complete_folder_or_absent(path) as temporary:
                for part in parts:  # version 2, whose text other programs read as well
                    part.to_zarr(temporary, mode="a", zarr_format=2, consolidated=True)
        else:
            with complete_or_absent(path) as temporary:
                for part in parts:
                    part.to_netcdf(temporary, mode="a", engine="h5netcdf")
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror or error}.") from error
    return path


@contextlib.contextmanager
def _complete_folder_or_absent(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place once it is written."""
    temporary, old = (path.with_name(f".{path.name}.{uuid.uuid4().hex}") for _ in range(2))
    try:
        yield temporary
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
