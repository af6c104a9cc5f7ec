"""Runs on disk: what is written is read back, half-written is not there, other runs are not written over."""

import json

import numpy as np
import pytest
import xarray as xr

from gradflow import files, store
from gradflow.errors import InputError
from gradflow.theory.claims import Claim

RUN = xr.Dataset({"loss": ("time", np.linspace(1, 0, 200))}, coords={"time": np.arange(200.0)}, attrs={"m": 7.0})


def test_a_run_is_read_back_as_it_was_written(tmp_path):
    folder = store.begin(tmp_path / "a" / "run", {"seed": 3})
    store.save(folder, "trajectory", RUN)
    xr.testing.assert_identical(store.load(folder), RUN)
    assert store.load_config(folder / "config.json") == {"seed": 3}
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "trajectory.nc",
    ]  # no temporary file is left


def test_a_folder_with_a_run_is_refused_unless_it_may_be_overwritten(tmp_path):
    store.save(store.begin(tmp_path, {}), "trajectory", RUN)
    with pytest.raises(InputError, match="--overwrite"):
        store.begin(tmp_path, {})
    xr.testing.assert_identical(store.load(tmp_path), RUN)  # nothing was lost by the refusal
    store.begin(tmp_path, {}, overwrite=True)
    assert not (tmp_path / "trajectory.nc").exists()  # what belonged to the other run does not linger


def test_every_new_folder_is_written_to_the_disk_in_the_one_above(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(files, "_flush", flushed.append)
    files.make_folder(tmp_path / "a" / "b")
    assert flushed == [tmp_path, tmp_path / "a"] and (tmp_path / "a" / "b").is_dir()
    files.make_folder(tmp_path / "a" / "b")
    store.begin(tmp_path / "c", {})
    assert flushed[2] == tmp_path and flushed[-1] == tmp_path / "c"


def test_a_failed_write_leaves_the_earlier_file(tmp_path, monkeypatch):
    store.save(tmp_path, "trajectory", RUN)
    monkeypatch.setattr(xr.Dataset, "to_netcdf", lambda self, path, **_: (path.write_bytes(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        store.save(tmp_path, "trajectory", RUN * 2)
    monkeypatch.undo()
    xr.testing.assert_identical(store.load(tmp_path), RUN)
    assert [path.name for path in tmp_path.iterdir()] == ["trajectory.nc"]


@pytest.mark.parametrize("keep", [0, 10, 1000, 4000])
def test_a_truncated_file_gives_one_clear_line(tmp_path, keep):
    path = store.save(tmp_path, "trajectory", RUN)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"truncated or no NetCDF file") as caught:
        store.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"descent\.nc"):
        store.load(tmp_path, "descent")


def test_claims_are_stored_with_null_for_what_is_no_number(tmp_path):
    path = store.save_claims(
        tmp_path, [Claim("a", "b", "Omega(1)", float("nan"), "+- 1: why", None), Claim("c", "d", 1.0, 2.0, "t", False)]
    )
    rows = json.loads(path.read_text())
    assert rows[0] == {
        "name": "a",
        "source": "b",
        "predicted": "Omega(1)",
        "measured": None,
        "tolerance": "+- 1: why",
        "holds": None,
    }
    assert rows[1]["measured"] == 2.0 and rows[1]["holds"] is False


def test_a_file_in_the_way_of_the_folder_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        store.begin(tmp_path / "file", {})
    with pytest.raises(InputError, match="Cannot write"):
        store.begin(tmp_path / "file" / "below", {})


def test_what_is_unfinished_goes_on_for_the_same_configuration_and_is_removed_by_overwriting(tmp_path):
    config = {"seed": 3, "sizes": (1, 2), "out": tmp_path, "overwrite": False}
    store.begin(tmp_path, config, unfinished="*.npz")
    (tmp_path / "a.npz").touch()
    store.begin(tmp_path, config | {"out": "elsewhere"}, unfinished="*.npz")
    assert (tmp_path / "a.npz").exists()
    with pytest.raises(InputError, match="that is not finished; choose another --out, or add --overwrite"):
        store.begin(tmp_path, config | {"seed": 4}, unfinished="*.npz")
    assert store.load_config(tmp_path / "config.json")["seed"] == 3
    store.begin(tmp_path, config | {"seed": 4}, unfinished="*.npz", overwrite=True)
    assert not (tmp_path / "a.npz").exists() and store.load_config(tmp_path / "config.json")["seed"] == 4
    (tmp_path / "members").mkdir()
    (tmp_path / "members" / "one").touch()
    store.begin(tmp_path, config, unfinished="members", overwrite=True)
    assert not (tmp_path / "members").exists()
