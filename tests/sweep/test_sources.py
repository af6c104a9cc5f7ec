"""What a sweep's numbers depend on is looked at: every module that a simulation imports from where it lies, and no other."""

import sys

import pytest

from gradflow.errors import InputError
from gradflow.sweep import Sweep, run
from gradflow.sweep.sources import made_with, root_of
from tests.sweep import toy

SIMULATION = """
import os.path, json
import gradflow.sweep.plan
from gradflow.scripts import launch
from tests.sweep.toy import Config, PRESETS
def measure(config):
    from . import near
    import beside, package.deep
    from .tools import something
"""
FILES = {
    "lab/__init__.py": "",
    "lab/simulation.py": SIMULATION,
    "lab/near.py": "from . import simulation, not_there",
    "lab/tools/__init__.py": "from .inner import something",
    "lab/tools/inner.py": "def something(): import late",
    "beside.py": "",
    "late.py": "",
    "package/__init__.py": "",
    "package/deep.py": "",
    "package/other.py": "",
    "apart.py": "",
}
IMPORTED = {"lab", "lab.simulation", "lab.near", "lab.tools", "lab.tools.inner", "beside", "late", "package", "package.deep"}  # fmt: skip


def written(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(written(tmp_path / "lab of mine", FILES))
    yield tmp_path / "lab of mine"
    for name in IMPORTED & set(sys.modules):
        del sys.modules[name]


def beside_gradflow(simulation):
    return {name: digest for name, digest in made_with(simulation)["sources"].items() if "/" not in name}


def test_every_module_that_a_simulation_imports_is_looked_at(lab):
    before = beside_gradflow("lab.simulation")
    assert set(before) == IMPORTED and root_of("lab.simulation") == lab
    for name in IMPORTED:
        path = lab.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        path.write_text(path.read_text() + "\n# edited")
        now = beside_gradflow("lab.simulation")
        assert {each for each in now if now[each] != before[each]} == {name}
        before = now
    (lab / "apart.py").write_text("# edited")
    (lab / "package" / "other.py").write_text("# edited")
    assert beside_gradflow("lab.simulation") == before
    assert "tests.sweep.readable" not in beside_gradflow(toy.__name__)


def test_of_installed_modules_only_the_simulations_own_package_is_looked_at(tmp_path, monkeypatch):
    files = {"own/__init__.py": SIMULATION.replace(".tools", ".near"), "own/near.py": "", "beside.py": ""}
    monkeypatch.syspath_prepend(written(tmp_path / "site-packages", files))
    assert set(beside_gradflow("own")) == {"own", "own.near"} and root_of("own") == tmp_path / "site-packages"
    del sys.modules["own"]


def test_a_changed_helper_ends_the_sweep_as_a_changed_simulation_does(tmp_path, monkeypatch):
    source = (
        "from tests.sweep.toy import Config, PRESETS\ndef measure(config):\n    import helper\n    return helper.it()"
    )
    helper = "def it():\n    import xarray as xr\n    return xr.Dataset({'a': 1.0})"
    monkeypatch.syspath_prepend(written(tmp_path, {"helped.py": source, "helper.py": helper}))
    assert run(Sweep("helped"), tmp_path / "out", workers=0).done == 1
    (tmp_path / "helper.py").write_text(helper.replace("1.0", "2.0"))
    with pytest.raises(InputError, match=r"computed otherwise: 1 sources changed \(helper\)"):
        run(Sweep("helped", seeds=2), tmp_path / "out", workers=0)


def test_a_simulation_without_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "__file__", "<stdin>")
    with pytest.raises(InputError, match=r"tests\.sweep\.toy is in no file; write it into one"):
        run(Sweep(toy), tmp_path / "out", workers=0)
    monkeypatch.delattr(toy, "__file__")
    with pytest.raises(InputError, match="is in no file"):
        run(Sweep(toy), tmp_path / "out", workers=0)
