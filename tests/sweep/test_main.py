"""`python -m gradflow.sweep`: what it says of a folder in every state, its table, and that it waits for no library."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from gradflow.sweep import Sweep, run
from gradflow.sweep.__main__ import _seconds_each, main
from gradflow.sweep.folder import Folder
from gradflow.sweep.reading import open_sweep
from tests.sweep import readable


def status(folder, capsys):
    assert main(["status", str(folder)]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def half(tmp_path):
    """Two rates of which one fails, three seeds; then a third rate is asked for, and the folder's sweep grows."""
    folder = tmp_path / "s"
    run(Sweep(readable, {"rate": [1.0, -1.0]}, seeds=3), folder, workers=0)
    Folder(folder).begin(Sweep(readable, {"rate": [1.0, -1.0, 2.0]}, seeds=3))
    for number, path in enumerate(Folder(folder).done().values()):
        os.utime(path, (1000 + 20 * number,) * 2)
    return folder


def test_status_counts_names_errors_and_says_that_nobody_works(half, capsys):
    lines = status(half, capsys)
    assert lines[:3] == [
        "tests.sweep.readable: 9 members, 3 done, 0 running, 3 failed, 3 missing",
        "no process runs it; the command that began it goes on",
        "failed:",
    ]
    assert lines[3:] == [f"  rate = -1.0, seed = {i}: ValueError: rate = -1.0 will not do" for i in range(3)]


def test_status_says_who_runs_what_and_how_long_it_takes(half, capsys):
    folder = Folder(half)
    new = [each for each in folder.sweep().members() if each.at[0] == 2]
    (half / "running" / new[1].key).write_text("left by a process that was killed")
    with folder.claim(new[0].key), folder.claim(new[1].key):
        lines = status(half, capsys)
        assert folder.runner(new[1].key)["host"] == socket.gethostname()
    assert lines[0].endswith("9 members, 3 done, 2 running, 3 failed, 1 missing")
    assert lines[1] == "time left: about 60 s"  # three members, two at once, each in 40 s
    me = f"{socket.gethostname()}, process {os.getpid()}, for 0 s"
    assert lines[2:5] == ["running:", f"  rate = 2.0, seed = 0: {me}", f"  rate = 2.0, seed = 1: {me}"]
    assert folder.runner(new[0].key) == {}
    assert status(half, capsys)[0].endswith("3 done, 0 running, 3 failed, 3 missing")


def test_a_member_that_is_done_or_run_again_has_not_failed(half, capsys):
    folder = Folder(half)
    failed = next(iter(folder.failed()))
    with folder.claim(failed):
        assert status(half, capsys)[0].endswith("3 done, 1 running, 2 failed, 3 missing")
        folder.result(failed).parent.mkdir(exist_ok=True)
        folder.result(failed).write_bytes(b"")
        assert status(half, capsys)[0].endswith("4 done, 0 running, 2 failed, 3 missing")


def test_a_copy_without_the_folders_that_were_empty_is_read_and_goes_on(tmp_path, capsys):
    sweep, folder = Sweep(readable, seeds=2), tmp_path / "s"
    run(sweep, folder, workers=0)
    for name in ("running", "failed"):
        (folder / name).rmdir()
    assert status(folder, capsys)[0].endswith("2 members, 2 done, 0 running, 0 failed, 0 missing")
    run(sweep, folder, workers=0)
    assert (folder / "running").is_dir() and (folder / "failed").is_dir()


def test_only_the_first_of_many_failures_are_printed(tmp_path, capsys):
    run(Sweep(readable, {"rate": [-1.0]}, seeds=25), tmp_path / "s", workers=0)
    lines = status(tmp_path / "s", capsys)
    assert len(lines) == 13 and lines[-2].startswith("  rate = -1.0, seed = 9:") and lines[-1] == "  and 15 more"


DAYS = 3 * 86400.0


@pytest.mark.parametrize("workers", [1, 8, 64])
@pytest.mark.parametrize("spread", [0.01, 0.95])
def test_the_speed_is_right_whether_members_end_in_rounds_or_one_by_one(workers, spread):
    """Members of 600 s; the ends of a round are spread over a part of that time. The sweep is stopped for days before or never."""
    rounds = np.add.outer(600 * np.arange(12.0), 600 * spread * np.arange(workers) / workers).ravel()
    true = 600 / workers
    for ends in range(2 * workers, len(rounds)):
        assert _seconds_each(rounds[:ends], workers, 300.0) == pytest.approx(true, rel=0.05)
    for round_of_stop in (2, 9):
        stopped = rounds + DAYS * (rounds >= 600 * round_of_stop)
        for ends in range(5 * workers, len(rounds), 7):
            assert _seconds_each(stopped[:ends], workers, 300.0) == pytest.approx(true, rel=0.3)
    two = rounds + DAYS * (rounds >= 3000) + DAYS * (rounds >= 4800)
    assert _seconds_each(two, workers, 300.0) == pytest.approx(true, rel=0.3)
    assert _seconds_each(rounds[:workers], workers, 300.0) is None
    # the last round: most have ended, those that are left have run for long
    assert _seconds_each(rounds[:-1], 1, 590.0) == pytest.approx(true, rel=0.5)


def test_the_speed_is_that_of_the_last_hundred_and_long_members_are_no_stops():
    assert _seconds_each([], 1, 0.0) is None and _seconds_each([5.0], 1, 0.0) is None
    assert _seconds_each([10.0, 0.0, 5.0], 1, 0.0) == 5
    steady = np.arange(300.0)
    assert _seconds_each(np.concatenate([100 * steady[:200], 2e4 + steady[:100]]), 1, 0.0) == 1
    assert _seconds_each(np.cumsum([1.0, 1.0, 30.0] * 40), 1, 0.0) == pytest.approx(32 / 3, rel=0.05)
    assert _seconds_each([0.0, 1.0, 1e5], 1, 0.0) == 1


def test_summary_prints_a_line_for_each_grid_point(tmp_path, capsys):
    folder = tmp_path / "s"
    run(Sweep(readable, {"rate": [1.0, -1.0], "label": ["a", "bb"]}, seeds=4), folder, workers=0)
    assert main(["summary", str(folder), "final", "measured", "--confidence", "0.9"]) == 0
    first, second, rest = capsys.readouterr().out.split("\n\n")
    title, header, *rows = first.splitlines()
    assert title == "median over seed of: final value (1), 90% interval" and rest == ""
    assert header.split() == ["rate", "label", "median", "low", "high", "count"] and len({*map(len, rows)}) == 1
    assert [row.split()[:2] for row in rows] == [["1", "a"], ["1", "bb"], ["-1", "a"], ["-1", "bb"]]
    median = np.median([1 + readable.noise(seed) for seed in range(4)])
    assert rows[0].split()[2] == f"{median:.5g}" and rows[0].split()[-1] == "4"
    assert rows[3].split()[2:] == ["nan", "nan", "nan", "0"]
    assert second.splitlines()[1].split()[:3] == ["rate", "label", "claim"]
    assert second.splitlines()[2].split() == ["1", "a", "first", "1", "1", "1", "4"]
    assert main(["summary", str(folder), "count", "--over", "label"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["rate", "seed"]


def test_settings_are_named_by_their_fields(tmp_path, capsys):
    run(Sweep(readable, settings=[{"rate": 1.0}, {"size": 5}], seeds=2), tmp_path / "s", workers=0)
    assert main(["summary", str(tmp_path / "s"), "count"]) == 0
    assert [line.split()[:4] for line in capsys.readouterr().out.splitlines()[1:4]] == [
        ["setting", "rate", "size", "median"],
        ["0", "1", "3", "3"],
        ["1", "1", "5", "5"],
    ]


def test_pack_writes_the_file_and_says_where(half, tmp_path, capsys):
    import xarray as xr

    assert main(["pack", str(half), str(tmp_path / "all.nc")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'all.nc'}\n"
    with xr.open_dataset(tmp_path / "all.nc", engine="h5netcdf") as packed:
        xr.testing.assert_identical(packed.load(), open_sweep(half).load())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["status", "nowhere"], "nowhere holds no sweep"), (["summary", "nowhere", "x"], "nowhere holds no sweep")],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_help_and_status_load_no_heavy_library_and_not_the_simulation(half):
    script = (
        "import runpy, sys\nsys.argv[1:] = {}\n"
        "try: runpy.run_module('gradflow.sweep', run_name='__main__')\nexcept SystemExit as ended: print(ended.code)\n"
        "print({{'numpy', 'xarray', 'jax', 'tests.sweep.readable'}} & set(sys.modules))"
    )
    for arguments in (["--help"], ["summary", "--help"], ["status", str(half)]):
        ran = subprocess.run([sys.executable, "-c", script.format(arguments)], capture_output=True, text=True)
        assert ran.stdout.splitlines()[-2:] == ["0", "set()"], ran.stderr
