"""`python -m simulations.NAME sweep`: which members its flags ask for, and what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradflow.errors import InputError, shortened
from gradflow.scripts import one_line_errors
from gradflow.sweep import Sweep, run
from gradflow.sweep.command import _parser, main
from gradflow.sweep.folder import Folder
from gradflow.sweep.plan import parse_grid
from gradflow.sweep.work import tasks
from simulations import large_n
from tests.sweep import toy


def sweep(out: Path, *flags: str) -> int:
    return main(toy.__name__, toy.PRESETS, ["--out", str(out), "--workers", "0", *flags])


def test_grids_add_up(tmp_path):
    assert sweep(tmp_path / "s", "--grid", "size=2,3", "--grid", "rate=1,2", "rates=1/2") == 0
    assert Folder(tmp_path / "s").sweep().axes == {
        "size": [2, 3],
        "rate": [1.0, 2.0],
        "rates": [[1.0, 2.0]],
        "seed": [0],
    }
    with pytest.raises(InputError, match="--grid has size twice"):
        sweep(tmp_path / "t", "--grid", "size=2", "--grid", "size=3")


def test_failed_settings_are_named_by_their_fields_and_their_errors_are_cut(tmp_path, monkeypatch, capsys):
    def measure(config):
        raise RuntimeError("word " * 1000)

    monkeypatch.setattr(toy, "measure", measure)
    (tmp_path / "settings.json").write_text('[{"size": 2, "rate": 3}, {"size": 5}]')
    assert sweep(tmp_path / "s", "--settings", str(tmp_path / "settings.json")) == 1
    _, first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("failed: setting = 0, seed = 0, size = 2, rate = 3.0: RuntimeError: word word")
    assert second.startswith("failed: setting = 1, seed = 0, size = 5: RuntimeError")
    assert len(first) < 300 and first.endswith(" ...") and last.startswith("0 done, 2 failed")
    (record, _) = Folder(tmp_path / "s").failed().values()
    assert "word " * 1000 in json.loads(record.read_text())["error"]
    assert shortened("a" * 200) == "a" * 200 and len(shortened("a" * 201)) == 200


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--workers", "abc"],
            "argument --workers: invalid int value: 'abc'; see python -m tests.sweep.toy sweep --help",
        ),
        (["--seeds"], "argument --seeds: expected one argument; see python -m tests.sweep.toy sweep --help"),
        (["--preset"], "argument --preset: expected one argument; see python -m tests.sweep.toy sweep --help"),
        (["--workers", "-1"], "--workers takes 0 or more"),
        (["--array", "2/2"], "I from 0 to N - 1, got 2/2"),
        (["--array", "1"], "--array takes I/N"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_announced(flags, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended, one_line_errors():
        sweep(tmp_path / "s", *flags)
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and err.startswith("error: ") and len(err.splitlines()) == 1
    assert said in err and out == "" and not (tmp_path / "s").exists()


def test_an_unknown_flag_is_sent_to_the_right_help(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        sweep(tmp_path / "s", "--wrkers", "3")
    assert ended.value.code == 2 and "python -m tests.sweep.toy sweep --help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (dict(workers=1.5), "takes 0 or more processes, got 1.5"),
        (dict(workers="2"), "takes 0 or more processes, got '2'"),
        (dict(array="0/2"), r"array takes \(i, n\), such as \(0, 8\), got '0/2'"),
        (dict(array=(0, 2.0)), r"array takes \(i, n\)"),
        (dict(array=(2, 2)), "I from 0 to N - 1, got 2/2"),
    ],
)
def test_python_is_told_likewise_even_where_nothing_is_left(asked, said, tmp_path):
    run(Sweep(toy), tmp_path / "s", workers=0)
    with pytest.raises(InputError, match=said):
        run(Sweep(toy), tmp_path / "s", **asked)


def test_help_names_the_fields_that_only_a_grid_reaches():
    text = " ".join(_parser("simulations.large_n", large_n.Config).format_help().split())
    assert "However it was stopped, a sweep goes on" in text and "(python -m simulations.large_n --help)" in text
    assert "a flag of the same name (seeds, grid)" in text and "--grid seeds=VALUE" in text
    assert "same name" not in _parser("toy", toy.Config).format_help()
    grid = parse_grid(["grid=5/4", "seeds=4"], large_n.Config)
    assert next(Sweep(large_n, grid).members()).fields.items() >= {"grid": (5, 4), "seeds": 4}.items()


def test_help_of_a_simulation_leads_to_sweeps_and_loads_no_heavy_library():
    command = [sys.executable, "-X", "importtime", "-m", "simulations.large_n", "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    text = " ".join(ran.stdout.replace("│", " ").split())
    assert "`python -m simulations.large_n sweep --help` says how" in text
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert "tyro" in imported and not imported & {"jax", "xarray", "gradflow.sweep"}


def test_workers_find_a_simulation_that_is_a_package(tmp_path, monkeypatch):
    (tmp_path / "packed_toy").mkdir()
    (tmp_path / "packed_toy" / "__init__.py").write_text(Path(toy.__file__).read_text())
    monkeypatch.syspath_prepend(tmp_path)
    plan, there = Sweep("packed_toy"), Folder(tmp_path / "s")
    there.begin(plan)
    (task,) = tasks(there, list(plan.members()), plan.simulation)
    assert task.root == str(tmp_path)


def test_a_simulation_that_is_run_by_its_path_is_told_how_to_be_swept(tmp_path):
    path = Path(toy.__file__)
    done = subprocess.run(
        [sys.executable, path, "sweep", "--out", tmp_path / "out"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(toy.__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "python -m NAME sweep" in done.stderr
