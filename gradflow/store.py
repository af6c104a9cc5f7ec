"""Runs on disk: a folder with config.json, *.nc (NetCDF, opens in xarray), claims.json and pictures.

Each file is written under a temporary name and renamed when complete, so that an interrupted run leaves no half file.
A folder that holds a run is not written over unless told so.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradflow.errors import InputError, require
from gradflow.files import complete_or_absent, make_folder

if TYPE_CHECKING:
    import xarray as xr

    from gradflow.theory.claims import Claim

CONFIG, CLAIMS = "config.json", "claims.json"


def begin(folder: Path, config: dict[str, Any], *, overwrite: bool = False, unfinished: str | None = None) -> Path:
    """Make the folder of a run and write its config.json. Refuses a folder that holds a run, unless `overwrite`.

    unfinished   pattern of what an interrupted run leaves to go on from: kept for the same config, refused for another one, and
                 removed by `overwrite`
    """
    folder = Path(folder)
    require(not folder.exists() or folder.is_dir(), f"{folder} is a file; --out takes a folder.")
    begun = [*folder.glob(unfinished)] if unfinished else []
    holds = f"{folder} holds another run" + (" that is not finished" if begun else "")
    same = not begun or _without_out(load_config(folder / CONFIG)) == _without_out(
        json.loads(json.dumps(config, default=str))
    )
    require(
        overwrite or (same and not any(folder.glob("*.nc"))),
        f"{holds}; choose another --out, or add --overwrite to replace it.",
    )
    try:
        make_folder(folder)
        for stale in begun if overwrite else ():
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        with complete_or_absent(folder / CONFIG) as path:
            path.write_text(json.dumps(config, indent=2, default=str) + "\n")
    except OSError as error:
        raise InputError(f"Cannot write to {folder}: {error.strerror}.") from error
    for stale in (*folder.glob("*.nc"), folder / CLAIMS):
        stale.unlink(missing_ok=True)
    return folder


def _without_out(config: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration makes a run another one: neither where it lies, nor that it replaced one."""
    return {name: value for name, value in config.items() if name not in ("out", "overwrite")}


def save(folder: Path, name: str, run: "xr.Dataset") -> Path:
    """Write one trajectory as `name`.nc."""
    path = Path(folder) / f"{name}.nc"
    with complete_or_absent(path) as temporary:
        run.to_netcdf(temporary, engine="h5netcdf")
    return path


def save_claims(folder: Path, claims: "Iterable[Claim]") -> Path:
    """Write claims.json: a list of {name, source, predicted, measured, tolerance, holds}; null for numbers that are not finite."""
    path = Path(folder) / CLAIMS
    rows = [{key: _json_number(value) for key, value in dataclasses.asdict(claim).items()} for claim in claims]
    with complete_or_absent(path) as temporary:
        temporary.write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n")
    return path


def load(folder: Path, name: str = "trajectory") -> "xr.Dataset":
    """Read `name`.nc of a run into memory. Raises `InputError` where it is missing, truncated or no NetCDF file."""
    path = Path(folder) / f"{name}.nc"
    import xarray as xr

    require(path.exists(), f"There is no {path}; run the simulation that writes it first.")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as run:
            return run.load()
    except Exception as error:
        raise InputError(
            f"{path} is truncated or no NetCDF file ({type(error).__name__}); run the simulation again."
        ) from error


def load_all(folder: Path) -> "dict[str, xr.Dataset]":
    """Every trajectory of a run, by name."""
    return {path.stem: load(folder, path.stem) for path in sorted(Path(folder).glob("*.nc"))}


def load_config(path: Path) -> dict[str, Any]:
    """Read a config.json."""
    try:
        config = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read a configuration from {path}: {error}.") from error
    require(isinstance(config, dict), f"{path} holds no configuration.")
    return config


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
