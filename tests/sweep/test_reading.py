"""A folder read back is what `measure` gives for each combination, read on demand; what differs between members finds a place."""

import itertools
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import gradflow
from gradflow.errors import InputError
from gradflow.sweep import Sweep, member, run
from gradflow.sweep.folder import Folder
from gradflow.sweep.reading import open_sweep
from tests.sweep import readable
from tests.sweep.readable import Config, measure

AXES = {"rate": [2.0, 1.0, 3.0], "label": ["a", "bb"], "seed": [5, 3]}


def swept(folder, grid, **more):
    run(Sweep(readable, grid, **more), folder, workers=0)
    return folder


def combinations(axes):
    for at in itertools.product(*(range(len(values)) for values in axes.values())):
        yield at, {name: values[i] for (name, values), i in zip(axes.items(), at, strict=True)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    grid = {name: AXES[name] for name in ("rate", "label")}
    return swept(tmp_path_factory.mktemp("sweeps") / "same", grid, seeds=AXES["seed"])


@pytest.fixture
def opened(monkeypatch):
    """The paths of members that are opened."""
    paths, real = [], member.open_member
    monkeypatch.setattr("gradflow.sweep.reading.open_member", lambda path: paths.append(path) or real(path))
    return paths


def test_values_are_what_measure_gives_for_each_combination(folder):
    dataset = open_sweep(folder)
    assert dataset["final"].dims == tuple(AXES) and dataset["table"].dims == (*AXES, "claim", "time")
    for at, fields in combinations(AXES):
        expected = measure(Config(**fields))
        for name, values in expected.data_vars.items():
            np.testing.assert_array_equal(dataset[name].values[at], values)
            xr.testing.assert_equal(dataset[name].sel(fields, drop=True), values)
    for name, variable in expected.variables.items():
        assert {key: dataset[name].attrs.get(key) for key in ("long_name", "units")} == {
            key: variable.attrs.get(key) for key in ("long_name", "units")
        }
        assert variable.dtype.kind == "U" or dataset[name].dtype == float
        assert "_FillValue" not in dataset[name].attrs
    for name in ("time", "claim"):
        np.testing.assert_array_equal(dataset[name], expected[name])
        assert dataset[name].dims == (name,)


def test_axes_carry_values_types_and_docstrings_and_the_dataset_its_origin(folder):
    dataset = open_sweep(folder)
    for name, values in AXES.items():
        assert dataset[name].values.tolist() == values
    assert dataset["seed"].dtype.kind == "i" and dataset["rate"].dtype.kind == "f"
    assert dataset["rate"].attrs == {"long_name": "how fast it decays"} and dataset["label"].attrs["long_name"]
    assert dataset.attrs["simulation"] == "tests.sweep.readable" and dataset.attrs["gradflow"] == gradflow.__version__
    base = json.loads(dataset.attrs["base"])
    assert base["size"] == 3 and base["parts"] == [1.0, 2.0]
    assert set(dataset.attrs) == {"simulation", "gradflow", "base"}


def test_values_that_are_no_numbers_are_labels_and_truth_values_stay(tmp_path):
    grid = {"parts": [(1.0, 2.0), (3.0,)], "bound": [None, 0.5], "flag": [True, False]}
    dataset = open_sweep(swept(tmp_path / "s", grid))
    assert dataset["parts"].values.tolist() == ["1.0/2.0", "3.0"] and dataset["bound"].values.tolist() == [
        "None",
        "0.5",
    ]
    assert dataset["flag"].dtype == bool and "long_name" not in dataset["flag"].attrs
    assert dataset["done"].sel(parts="3.0", bound="None", flag=True).item() is True


def test_settings_are_one_axis_with_every_field_that_one_names(tmp_path):
    settings = [{"rate": 2.0, "label": "x"}, {"rate": 3.0, "size": 7}]
    dataset = open_sweep(swept(tmp_path / "s", None, settings=settings, seeds=2))
    assert dataset["final"].dims == ("setting", "seed") and dataset["setting"].values.tolist() == [0, 1]
    coordinates = {"rate": [2.0, 3.0], "label": ["x", "plain"], "size": [3, 7]}
    for name, values in coordinates.items():
        assert dataset[name].dims == ("setting",) and dataset[name].values.tolist() == values
    assert dataset["final"][1, 1] == measure(Config(rate=3.0, size=7, seed=1))["final"]
    assert dataset["verdict"].values.tolist() == [["xxx"] * 2, ["plain" * 7] * 2]


def test_missing_and_failed_members_are_nan_and_masked(tmp_path):
    folder = swept(tmp_path / "s", {"rate": [1.0, -1.0, 2.0]}, seeds=2)
    gone = next(m for m in Folder(folder).sweep().members() if m.at == (2, 1))
    Folder(folder).result(gone.key).unlink()
    dataset = open_sweep(folder)
    np.testing.assert_array_equal(dataset["done"], [[True, True], [False, False], [True, False]])
    np.testing.assert_array_equal(dataset["failed"], [[False, False], [True, True], [False, False]])
    assert dataset["done"].dtype == dataset["failed"].dtype == bool
    for name in ("final", "count", "loss", "table"):
        there = np.isfinite(dataset[name].values).reshape(3, 2, -1)
        np.testing.assert_array_equal(there.all(-1), dataset["done"])
        np.testing.assert_array_equal(there.any(-1), dataset["done"])
    assert dataset["verdict"][2, 1] == "" and (dataset["words"][1] == "").all()


def test_large_integers_are_kept_as_floats(tmp_path, monkeypatch):
    steps = np.array([1, 2**31, -(2**40)])
    numbers = {"steps": ("count", steps), "bits": 2**64 - 1, "least": -(2**31), "most": 2**31 - 1, "none": ("x", steps[:0])}  # fmt: skip
    monkeypatch.setattr(readable, "measure", lambda config: xr.Dataset(numbers, {"count": steps}, {"remark": "kept"}))
    dataset = open_sweep(swept(tmp_path / "s", {"rate": [1.0]}))
    np.testing.assert_array_equal(dataset["steps"].squeeze(), steps.astype(float))
    np.testing.assert_array_equal(dataset["count"], steps.astype(float))
    assert [dataset[name].item() for name in ("bits", "least", "most")] == [2.0**64, -(2.0**31), 2.0**31 - 1]


@pytest.mark.parametrize("what", [xr.Dataset({"a": 1j}), xr.Dataset({"a": ("x", np.ones(2, np.float16))}), 1.0, {"a": 1.0}, xr.DataArray(1.0)])  # fmt: skip
def test_what_no_file_can_hold_fails_with_what_measure_may_return(tmp_path, monkeypatch, what):
    monkeypatch.setattr(readable, "measure", lambda config: what)
    (line,) = run(Sweep(readable), tmp_path / "s", workers=0).failed.values()
    assert line.startswith("TypeError: measure must return an xarray.Dataset of real numbers, truth values and text (")


def test_a_sweep_of_which_nothing_is_done_has_axes_and_masks(tmp_path):
    Folder(tmp_path / "s").begin(Sweep(readable, {"rate": [1.0, 2.0]}, seeds=3))
    dataset = open_sweep(tmp_path / "s")
    assert set(dataset.variables) == {"rate", "seed", "done", "failed"} and dict(dataset.sizes) == {
        "rate": 2,
        "seed": 3,
    }
    assert not dataset["done"].any() and not dataset["failed"].any()


def test_times_and_sizes_that_differ_become_a_variable_and_end_in_nan(tmp_path):
    axes = {"rate": [1.0, 2.0], "size": [2, 4], "kind": ["times"], "seed": [0]}
    dataset = open_sweep(swept(tmp_path / "s", {name: axes[name] for name in ("rate", "size", "kind")}))
    assert dataset.sizes["time"] == 4 and dataset["time"].dims == (*axes, "time") and "time" not in dataset.indexes
    for at, fields in combinations(axes):
        expected, n = measure(Config(**fields)), fields["size"]
        np.testing.assert_array_equal(dataset["time"].values[at][:n], expected["time"])
        np.testing.assert_array_equal(dataset["loss"].values[at][:n], expected["loss"])
        assert np.isnan(dataset["loss"].values[at][n:]).all() and np.isnan(dataset["time"].values[at][n:]).all()


def test_labels_that_differ_are_united_in_order_of_first_appearance(tmp_path):
    axes = {"rate": [1.0, 2.0], "kind": ["both"], "seed": [0, 1]}
    dataset = open_sweep(swept(tmp_path / "s", {name: axes[name] for name in ("rate", "kind")}, seeds=2))
    assert dataset["claim"].values.tolist() == ["first", "only at 1 Γ", "only at 2 Γ", "second"]
    for _, fields in combinations(axes):
        expected = measure(Config(**fields))
        mine = dataset[["measured", "table", "words"]].sel(fields)
        named = expected["claim"].values
        np.testing.assert_array_equal(mine["measured"].sel(claim=named), expected["measured"])
        np.testing.assert_array_equal(mine["table"].sel(claim=named), expected["table"])
        np.testing.assert_array_equal(mine["words"].sel(claim=named), expected["words"])
        rest = ~np.isin(dataset["claim"], named)
        assert rest.any() and np.isnan(mine["measured"][rest]).all() and (mine["words"][rest] == "").all()


def stored(tmp_path, *datasets):
    """A sweep over seeds whose members are these datasets."""
    folder, sweep = Folder(tmp_path / "s"), Sweep(readable, {}, seeds=len(datasets))
    folder.begin(sweep)
    for each, dataset in zip(sweep.members(), datasets, strict=True):
        folder.keep(each.key, bytes(dataset.to_netcdf(engine="scipy")))
    return tmp_path / "s"


def test_coordinates_of_one_size_that_differ_and_dimensions_in_another_order_are_each_members_own(tmp_path):
    one = xr.Dataset({"x": (("q", "p"), np.arange(6.0).reshape(3, 2))}, {"q": [1.0, 2.0, 3.0], "p": [0, 1]})
    two = one.assign_coords(q=[1.0, 2.0, 4.0]).transpose("p", "q")
    dataset = open_sweep(stored(tmp_path, one, two, one.isel(q=[0])))
    assert dataset["x"].dims == ("seed", "q", "p") and dataset["p"].dims == ("p",)
    np.testing.assert_array_equal(dataset["q"], [[1, 2, 3], [1, 2, 4], [1, np.nan, np.nan]])
    np.testing.assert_array_equal(dataset["x"][:2], [one["x"]] * 2)
    np.testing.assert_array_equal(dataset["x"][2], [[0, 1], [np.nan] * 2, [np.nan] * 2])


def test_a_label_that_a_member_has_twice_keeps_both_places(tmp_path):
    one = xr.Dataset({"x": ("claim", [1.0, 2.0, 3.0])}, {"claim": ["a", "b", "a"]})
    two = xr.Dataset({"x": ("claim", [4.0, 5.0])}, {"claim": ["a", "c"]})
    dataset = open_sweep(stored(tmp_path, one, two))
    assert dataset["claim"].values.tolist() == ["a", "b", "a", "c"]
    np.testing.assert_array_equal(dataset["x"], [[1, 2, 3, np.nan], [4, np.nan, np.nan, 5]])


def test_variables_that_only_some_have_scalars_of_text_and_encodings_are_read(tmp_path):
    one = xr.Dataset({"x": ("q", [1.5, 2.5]), "word": ((), "é")}, {"q": [False, True], "when": ((), 3.0)})
    coded = xr.Dataset(
        {"x": ("q", [1.5, np.nan]), "word": ((), "longer"), "y": ((), 7)}, {"q": [False, True], "when": ((), 3.0)}
    )
    coded["x"].encoding = {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1}
    dataset = open_sweep(stored(tmp_path, one, coded))
    np.testing.assert_array_equal(dataset["x"], [[1.5, 2.5], [1.5, np.nan]])
    np.testing.assert_array_equal(dataset["y"], [np.nan, 7])
    assert dataset["word"].values.tolist() == ["é", "longer"]
    assert dataset["q"].dtype == bool and dataset.coords["when"].item() == 3.0


def test_names_that_axes_have_are_told_apart(tmp_path):
    one = xr.Dataset({"x": ("seed", [1.0, 2.0]), "done": ((), 4.0)}, {"seed": [0.5, 1.5]})
    dataset = open_sweep(stored(tmp_path, one, one))
    assert dataset["x"].dims == ("seed", "measured_seed") and dataset["measured_seed"].values.tolist() == [0.5, 1.5]
    assert dataset["measured_done"].values.tolist() == [4, 4] and dataset["seed"].values.tolist() == [0, 1]


def test_members_that_do_not_fit_together_are_refused(tmp_path):
    folder = stored(tmp_path, xr.Dataset({"x": ("q", [1.0])}), xr.Dataset({"x": ((), 1.0)}))
    with pytest.raises(InputError, match=r"x is over \(q\) in .*\.nc and over \(\) in .*\.nc"):
        open_sweep(folder)


def test_indexing_one_member_opens_one_file_and_opening_the_sweep_reads_no_curve(folder, opened, monkeypatch):
    read, real = [], member.Stored.raw
    monkeypatch.setattr(member.Stored, "raw", lambda self, content: read.append(self.name) or real(self, content))
    dataset = open_sweep(folder)
    assert len(opened) == 12 and not {"loss", "table", "measured", "words"} & set(read)
    opened.clear()
    one = dataset["loss"].isel(rate=1, label=0, seed=1)
    assert not opened
    np.testing.assert_array_equal(one, measure(Config(rate=1.0, label="a", seed=3))["loss"])
    at = next(m for m in Folder(folder).sweep().members() if m.at == (1, 0, 1))
    assert opened == [str(Folder(folder).result(at.key))]
    opened.clear()
    assert dataset["final"].values.shape == (3, 2, 2) and not opened


@pytest.mark.parametrize(
    ("index", "files"),
    [
        (dict(seed=0), 6),
        (dict(rate=[2, 0], time=slice(1, None, 2)), 8),
        (dict(rate=-1, label=slice(None, None, -1), time=-1), 4),
        (dict(rate=xr.DataArray([0, 2], dims="k"), seed=xr.DataArray([1, 0], dims="k")), 8),
        (dict(rate=slice(0, 0)), 0),
    ],
)
def test_any_index_gives_what_the_loaded_array_gives_and_opens_only_what_it_touches(folder, opened, index, files):
    loaded = open_sweep(folder).load()["loss"]
    dataset = open_sweep(folder)
    opened.clear()
    xr.testing.assert_identical(dataset["loss"].isel(index).load(), loaded.isel(index))
    assert len(opened) == files


def test_datasets_are_pickled_and_chunked_lazily(folder, opened):
    dataset = open_sweep(folder)
    opened.clear()
    copied = pickle.loads(pickle.dumps(dataset))
    assert not opened
    xr.testing.assert_identical(copied.load(), open_sweep(folder).load())
    pytest.importorskip("dask")
    chunked = open_sweep(folder).chunk(seed=1)
    opened.clear()
    means = chunked["loss"].mean("time")
    assert not opened and means.chunks
    xr.testing.assert_allclose(means.compute(scheduler="synchronous"), dataset["loss"].mean("time"))


@pytest.mark.parametrize("size", [0, 3, 200, -5])
def test_a_damaged_member_is_named_whether_or_not_its_header_is_known(folder, tmp_path, size):
    path = swept(tmp_path / "s", {"rate": [1.0]})
    (file,) = Folder(path).done().values()
    file.write_bytes(file.read_bytes()[:size])
    for _ in range(2):
        with pytest.raises(InputError, match=rf"{file.name} is damaged .*; delete it and run the sweep again\."):
            open_sweep(path)
        open_sweep(folder)
    file.write_bytes(b"no NetCDF file at all")
    with pytest.raises(InputError, match="is damaged"):
        open_sweep(path)


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no sweep \(there is no sweep\.json\)"):
        open_sweep(tmp_path)


def test_a_sweep_is_a_snapshot_while_it_runs(folder, tmp_path, monkeypatch):
    path = swept(tmp_path / "s", {"rate": [1.0, 2.0]})
    first, second = (Folder(path).result(m.key) for m in Folder(path).sweep().members())
    (first.parent / f".{first.name}.1234").write_bytes(b"CDF")  # being written
    content = second.read_bytes()
    listed = Folder.done
    second.unlink()

    def listing(self):
        found = listed(self)
        second.write_bytes(content)
        return found

    monkeypatch.setattr(Folder, "done", listing)
    assert open_sweep(path)["done"].values.tolist() == [[True], [False]]
    monkeypatch.setattr(Folder, "done", lambda self: listed(self) | {"no member of it": first.with_name("gone.nc")})
    dataset = open_sweep(path)
    assert dataset["done"].all()
    second.unlink()
    with pytest.raises(InputError, match="was taken away since the sweep was opened"):
        dataset["loss"].load()
    monkeypatch.setattr(Folder, "done", lambda self: {first.stem: first, second.stem: second})
    assert open_sweep(path)["done"].values.tolist() == [[True], [False]]


def test_a_simulation_that_is_not_at_hand_costs_the_docstrings_alone(tmp_path):
    path = swept(tmp_path / "s", {"rate": [1.0, 2.0]})
    plan = path / "sweep.json"
    plan.write_text(plan.read_text().replace("tests.sweep.readable", "gone.away"))
    dataset = open_sweep(path)
    assert dataset["rate"].values.tolist() == [1, 2] and dataset["rate"].attrs == {}


def test_workers_start_without_numpy_and_names_are_found_when_asked_for():
    code = "import sys, gradflow.sweep.local, gradflow.sweep; print({'numpy', 'xarray', 'jax'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    assert gradflow.open_sweep is gradflow.sweep.open_sweep is open_sweep and gradflow.Sweep is Sweep
    assert callable(gradflow.sweep.pack) and callable(gradflow.sweep.summarise)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gradflow.sweep.nothing  # noqa: B018


def test_a_measure_that_is_called_like_a_field_is_refused_and_not_hidden_by_its_axis(tmp_path, monkeypatch):
    monkeypatch.setattr(readable, "measure", lambda config: xr.Dataset({"rate": 1.0}))
    (line,) = run(Sweep(readable), tmp_path / "s", workers=0).failed.values()
    assert line.startswith("TypeError: measure must not call what it returns rate")
