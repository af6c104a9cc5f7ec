"""A packed sweep is what `open_sweep` gives, whole or not there, and never over something else."""

import importlib.util

import pytest
import xarray as xr

from gradflow.errors import InputError
from gradflow.sweep import Sweep, run
from gradflow.sweep.packing import pack
from gradflow.sweep.reading import open_sweep
from tests.sweep import readable

ENGINES = {".nc": "h5netcdf", ".zarr": "zarr"}


@pytest.fixture(params=ENGINES)
def packed(request, tmp_path):
    if request.param == ".zarr":
        pytest.importorskip("zarr")
    return tmp_path / f"all{request.param}"


@pytest.fixture(scope="module", params=["grid", "settings"])
def folder(request, tmp_path_factory):
    """Flags, text, failures, times and claims that differ."""
    out = tmp_path_factory.mktemp("sweeps") / "s"
    settings = [{"rate": 1.0, "kind": "both"}, {"rate": 2.0, "label": "Γ", "flag": True}, {"rate": -1.0, "size": 4}]
    grid = {"rate": [1.0, 2.0, -1.0], "flag": [False, True], "label": ["a", "Γ"], "kind": ["both"]}
    more = {"grid": grid} if request.param == "grid" else {"settings": settings}
    run(Sweep(readable, seeds=2, **more), out, workers=0)
    return out


def test_a_packed_sweep_is_the_same_dataset(folder, packed):
    assert pack(folder, packed) == packed
    expected = open_sweep(folder).load()
    with xr.open_dataset(packed, engine=ENGINES[packed.suffix]) as dataset:
        xr.testing.assert_identical(dataset.load(), expected)
        assert set(dataset.coords) == set(expected.coords)
        assert dataset["done"].dtype == bool
    assert [path.name for path in packed.parent.iterdir() if path != folder] == [packed.name]


def test_what_is_there_stays_unless_told_so_and_a_failure_leaves_nothing(folder, packed, monkeypatch):
    pack(folder, packed)
    with pytest.raises(InputError, match="exists; choose another name, or add --overwrite"):
        pack(folder, packed)
    before = packed.stat()
    method = "to_zarr" if packed.suffix == ".zarr" else "to_netcdf"
    real = getattr(xr.Dataset, method)

    def full(self, *arguments, **more):
        if "loss" in self:
            raise OSError(28, "No space left on device")
        return real(self, *arguments, **more)

    monkeypatch.setattr(xr.Dataset, method, full)
    with pytest.raises(InputError, match=r"Cannot write .*: No space left on device"):
        pack(folder, packed, overwrite=True)
    assert packed.stat() == before and list(packed.parent.iterdir()) == [packed]
    monkeypatch.undo()
    pack(folder, packed, overwrite=True)
    assert packed.stat().st_ino != before.st_ino and list(packed.parent.iterdir()) == [packed]


def test_variables_are_written_one_after_the_other(folder, packed, monkeypatch):
    """What is written at once is in memory at once."""
    method, written = ("to_zarr" if packed.suffix == ".zarr" else "to_netcdf"), []
    real = getattr(xr.Dataset, method)
    monkeypatch.setattr(
        xr.Dataset, method, lambda self, *a, **more: written.append(list(self.data_vars)) or real(self, *a, **more)
    )
    pack(folder, packed)
    assert sorted(map(len, written)) == [0] + [1] * (len(written) - 1)
    assert {name for names in written for name in names} == set(open_sweep(folder).data_vars)


def test_other_endings_other_things_and_no_zarr_are_told(folder, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"\.nc or \.zarr, not all\.csv"):
        pack(folder, tmp_path / "all.csv")
    (tmp_path / "all.nc").mkdir()
    with pytest.raises(InputError, match="is no nc: it is left as it is"):
        pack(folder, tmp_path / "all.nc", overwrite=True)
    with pytest.raises(InputError, match=r"There is no folder .*gone"):
        pack(folder, tmp_path / "gone" / "all.nc")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'gradflow-dynamics\[sweep\]'"):
        pack(folder, tmp_path / "all.zarr")
