"""Sweeps on this machine, disturbed in every way: each member is there once in the end, as an undisturbed run leaves it."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest

from gradflow.errors import InputError
from gradflow.scripts import one_line_errors
from gradflow.sweep import Sweep, local, run
from gradflow.sweep.command import main
from gradflow.sweep.folder import Folder
from gradflow.sweep.local import _deaf_to_interrupts, _Worker
from gradflow.sweep.reading import open_sweep
from gradflow.sweep.sources import made_with
from gradflow.sweep.work import Outcome, Task, record_failure, tasks, work
from tests.sweep import toy
from tests.sweep.processes import Toy, end, expected, found, half_files, is_gone, until, workers_of


@pytest.fixture
def toys(tmp_path):
    it = Toy(tmp_path)
    yield it
    it.clear()


def test_killed_workers_and_failing_members_cost_no_other_member(toys):
    """Seed 3 kills its worker every time, seed 5 raises, and one worker is killed in the middle."""
    toys.trouble.touch()
    flags = ["--seeds", "8", "--workers", "2", "--wait", "0.2", "--die", "3", "--fail", "5"]
    process = toys.start(*flags)
    until(lambda: toys.runs())
    os.kill(toys.first_at_work(), signal.SIGKILL)
    code, out, err = end(process)
    assert code == 1 and err == "" and "6 done, 2 failed" in out
    assert "failed: seed = 3: its worker died 3 times, at last with signal SIGKILL" in out
    assert "failed: seed = 5: RuntimeError: seed 5 fails" in out
    runs = toys.runs()
    assert runs[3] in (3, 2) and sum(runs.values()) - runs[3] in (7, 8) and set(runs) == set(range(8))
    assert found(toys.out) == expected(toys.out, without=(3, 5))
    there = Folder(toys.out)
    records = {json.loads(path.read_text())["fields"]["seed"]: path for path in there.failed().values()}
    assert set(records) == {3, 5} and "for the second line says" in records[5].read_text()

    toys.trouble.unlink()
    code, out, err = toys.run(*flags)
    assert code == 1 and "6 done, 2 failed" in out and toys.runs() == runs
    code, out, err = toys.run(*flags, "--retry-failed", "--workers", "1")
    assert (code, err) == (0, "") and "8 done, 0 failed" in out
    assert toys.runs() - runs == {3: 1, 5: 1}
    assert found(toys.out) == expected(toys.out) and not there.failed() and not any((toys.out / "failed").iterdir())


def test_interrupted_and_killed_sweeps_go_on_and_run_nothing_twice(toys):
    flags = ["--seeds", "20", "--workers", "1", "--wait", "0.1"]
    there = Folder(toys.out)

    process = toys.start(*flags)
    until(lambda: len(there.done()) >= 2)
    os.kill(workers_of(process)[0], signal.SIGINT)  # as a terminal does; it is none of a worker's business
    at = len(there.done())
    until(lambda: len(there.done()) >= at + 2)
    toys.hold()
    os.kill(process.pid, signal.SIGINT)
    assert end(process)[::2] == (130, "interrupted\n")
    until(lambda: is_gone(process))
    done = found(toys.out)
    assert sum(toys.runs().values()) == len(done) + 1 and not there.running()
    toys.gate.touch()

    process = toys.start(*flags)
    until(lambda: len(there.done()) >= len(done) + 2)
    os.kill(process.pid, signal.SIGKILL)  # its worker ends what it is at, and stores it
    process.communicate()
    until(lambda: is_gone(process))
    before = toys.runs()
    assert sum(before.values()) == len(there.done()) + 1

    process = toys.start(*flags)
    until(lambda: sum(toys.runs().values()) >= sum(before.values()) + 2)
    toys.hold()
    os.killpg(process.pid, signal.SIGKILL)  # nobody has time for anything
    until(lambda: is_gone(process))
    toys.gate.touch()
    assert not there.running()
    (key,) = {path.name for path in (toys.out / "running").iterdir()}
    there.result(key).parent.mkdir(exist_ok=True)
    there.result(key).with_name(f".{key}.nc.0123").write_bytes(b"half")  # as if it had been killed while writing
    done, runs = {path.name: path.read_bytes() for path in there.done().values()}, toys.runs()
    left = {path.stem: member.fields["seed"] for member in there.sweep().members() if (path := there.result(member.key)) not in there.done().values()}  # fmt: skip

    code, _, err = toys.run(*flags)
    assert (code, err) == (0, "")
    assert toys.runs() - runs == dict.fromkeys(left.values(), 1)
    assert found(toys.out) == expected(toys.out) and found(toys.out).items() >= done.items()
    assert not half_files(toys.out) and not any((toys.out / "running").iterdir())


def test_processes_that_share_a_folder_share_the_members(toys):
    """Two shares of a sweep, begun at once; then the whole of a larger one, twice at once."""
    toys.gate.unlink()
    shares = [toys.start("--seeds", "12", "--workers", "0", "--array", f"{i}/2") for i in (0, 1)]
    until(lambda: len(toys.runs()) == 2)
    toys.gate.touch()
    for share in shares:
        code, out, err = end(share)
        assert (code, err) == (0, "") and "6 done, 0 failed" in out
    assert toys.runs() == dict.fromkeys(range(12), 1)
    toys.gate.unlink()
    wholes = [toys.start("--seeds", "24", "--workers", workers) for workers in ("0", "1")]
    until(lambda: len(toys.runs()) == 14)
    toys.gate.touch()
    for whole in wholes:
        code, out, err = end(whole)
        assert (code, err) == (0, "") and "24 done, 0 failed" in out
    assert toys.runs() == dict.fromkeys(range(24), 1)
    assert found(toys.out) == expected(toys.out)


def failing(monkeypatch, times: int, number: int = errno.ENOSPC):
    """Let the `times`-th flush to the disk from here on fail, and all later ones."""
    flush, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) >= times:
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_failing_write_ends_the_sweep_and_what_was_done_stays(tmp_path, monkeypatch):
    sweep, out = Sweep(toy, seeds=5), tmp_path / "out"
    with monkeypatch.context() as full:
        # four new folders, each in the one above; the plan and two members, files in folders, and then no more
        failing(full, 4 + 2 + 2 * (1 + 2) + 1 + 1)
        with pytest.raises(InputError, match=r"Cannot write to .*out: No space left on device\. What is done is kept"):
            run(sweep, out, workers=0)
    assert len(Folder(out).done()) == 2 and not half_files(out) and not Folder(out).failed()
    assert run(sweep, out, workers=0) == (5, {})
    assert found(out) == expected(out)


def test_a_failure_that_cannot_be_recorded_ends_the_sweep_too(tmp_path, monkeypatch):
    sweep = Sweep(toy, seeds=2, base=replace(toy.Config(), fail=(0, 1)))
    with monkeypatch.context() as full:
        failing(full, 4 + 2 + 1)
        with pytest.raises(InputError, match="No space left"):
            run(sweep, tmp_path / "out", workers=0)
    assert not Folder(tmp_path / "out").failed() and not half_files(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for a few members."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_ends_the_sweep_with_one_line_and_room_lets_it_go_on(toys, small_disk):
    out = small_disk / "out"
    (small_disk / "ballast").write_bytes(bytes(32 * 1024))
    flags = ["--seeds", "20", "--workers", "1"]
    code, _, err = toys.run(*flags, out=out)
    assert code == 2 and len(err.splitlines()) == 1 and "No space left on device. What is done is kept" in err
    done = found(out)
    assert 0 < len(done) < 20 and done.items() <= expected(out).items() and not half_files(out)
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert toys.run(*flags, "--workers", "0", out=out)[0] == 0
    assert found(out) == expected(out) and all(count == 1 for seed, count in toys.runs().items() if seed < len(done))


def test_a_larger_sweep_runs_only_what_is_new_and_another_one_is_refused(tmp_path):
    out, log = tmp_path / "out", str(tmp_path / "log")
    base = replace(toy.Config(), log=log)

    def lines():
        return Path(log).read_text().splitlines()

    assert run(Sweep(toy, {"size": [2, 3]}, seeds=2, base=base), out, workers=0).done == 4
    assert run(Sweep(toy, {"size": [2, 3, 5]}, seeds=3, base=base), out, workers=0).done == 9
    assert len(lines()) == len(set(lines())) == 9
    for other, said in {
        "rate: 0.5 there, 0.7 asked for": Sweep(toy, {"size": [2, 3, 5]}, seeds=3, base=replace(base, rate=0.7)),
        "size: 3, 5 there, not asked for": Sweep(toy, {"size": [2]}, seeds=3, base=base),
        "axes: size, seed there, rate, seed asked for": Sweep(toy, {"rate": [2]}, seeds=3, base=base),
    }.items():
        with pytest.raises(InputError, match=f"holds another sweep: .*{other}.*Choose another --out"):
            run(said, out, workers=0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds something else"):
        run(Sweep(toy, base=base), tmp_path / "other", workers=0)
    assert len(lines()) == 9


def test_members_of_other_versions_and_sources_are_kept_only_when_accepted(tmp_path):
    out = tmp_path / "out"
    run(Sweep(toy, seeds=2), out, workers=0)
    plan = json.loads((out / "sweep.json").read_text())
    plan["made_with"]["versions"]["numpy"] = "1.0"
    plan["made_with"]["sources"]["gradflow/errors.py"] = "otherwise"
    (out / "sweep.json").write_text(json.dumps(plan))
    before = found(out)
    with pytest.raises(InputError, match=r"computed otherwise: numpy 1\.0 there.*1 sources changed \(gradflow/errors\.py\)"):  # fmt: skip
        run(Sweep(toy, seeds=3), out, workers=0)
    assert run(Sweep(toy, seeds=3), out, workers=0, accept_changes=True).done == 3
    assert found(out).items() >= before.items() and Folder(out).made_with() == made_with(toy.__name__)
    assert Folder(out).made_with_before() == [plan["made_with"]]
    assert run(Sweep(toy, seeds=4), out, workers=0).done == 4 and len(Folder(out).made_with_before()) == 1
    mixed = open_sweep(out).attrs["mixed"]
    assert mixed.startswith("numpy 1.0 there, ") and mixed.endswith("; 1 sources changed (gradflow/errors.py)")


def test_a_member_that_another_process_recorded_as_failed_meanwhile_is_not_run_again(tmp_path):
    out, sweep = Folder(tmp_path / "out"), Sweep(toy)
    out.begin(sweep)
    (task,) = tasks(out, list(sweep.members()), toy.__name__)
    record_failure(task, "something else")
    assert work(task) == ("failed", "something else")
    first, second = (tasks(out, list(sweep.members()), toy.__name__, retry=True)[0] for _ in range(2))
    failed = out.failure(task.key)
    os.utime(failed, (first.retry + 1,) * 2)  # the other of two processes that retry has run it again by now
    assert work(first) == work(second) == ("failed", "something else")
    os.utime(failed, (first.retry - 1,) * 2)
    assert work(first) == ("done", "") and not any((out.path / "failed").iterdir())


def test_an_interrupt_that_no_terminal_can_have_sent_is_a_failure_and_another_one_ends_the_sweep(tmp_path, monkeypatch):
    def measure(config):
        raise KeyboardInterrupt("from below")

    monkeypatch.setattr(toy, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        run(Sweep(toy), tmp_path / "out", workers=0)
    assert not Folder(tmp_path / "out").failed()
    with _deaf_to_interrupts():  # as workers are
        result = run(Sweep(toy), tmp_path / "out", workers=0)
    assert result.failed == {"seed = 0": "KeyboardInterrupt: from below"}


def test_a_worker_that_holds_on_to_other_sources_than_the_folder_refuses(tmp_path, monkeypatch):
    """A worker that runs for long: what it has imported is not what the file says by now."""
    (tmp_path / "edited_toy.py").write_text(Path(toy.__file__).read_text())
    monkeypatch.syspath_prepend(tmp_path)
    assert run(Sweep("edited_toy"), tmp_path / "one", workers=0).done == 1
    (tmp_path / "edited_toy.py").write_text(Path(toy.__file__).read_text() + "# other numbers\n")
    with pytest.raises(InputError, match=r"1 sources changed \(edited_toy\)\. Start it again"):
        run(Sweep("edited_toy"), tmp_path / "two", workers=0)


def test_a_folder_that_another_process_is_about_to_begin_is_no_foreign_one(tmp_path):
    for name in ("members", "failed", "running"):
        (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / ".sweep.json.0123").write_text("{")
    (tmp_path / "out" / ".lock").touch()
    assert run(Sweep(toy), tmp_path / "out", workers=0) == (1, {})


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert run(Sweep(toy, seeds=2), tmp_path / "out", workers=0) == (2, {})


def test_a_claim_that_another_machine_took_away_meanwhile_is_made_anew(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def stale(file, how):
        calls.append(file.name)
        if len(calls) == 2:  # after the plan's
            os.unlink(file.name)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", stale)
    assert run(Sweep(toy), tmp_path / "out", workers=0) == (1, {}) and calls[1] == calls[2]


def test_a_worker_that_died_while_idle_is_replaced_and_no_member_is_blamed(tmp_path):
    there, sweep = Folder(tmp_path / "out"), Sweep(toy)
    there.begin(sweep)
    (task,) = tasks(there, list(sweep.members()), toy.__name__)
    with _Worker() as worker:
        worker.await_start()
        worker.process.kill()
        worker.process.join()
        worker.begin(task)
        assert worker.end() == (task, ("done", ""))


def test_members_that_run_in_this_process_leave_its_environment_as_it_was(tmp_path):
    before = dict(os.environ)
    assert run(Sweep(toy), tmp_path / "out", workers=0) == (1, {})
    assert dict(os.environ) == before


def test_a_member_that_dies_beside_others_is_run_alone_at_last(monkeypatch):
    """Members 1 and 4 need the memory of all workers, and 2 dies in any case."""
    busy, told = [], {}

    class Stub(contextlib.nullcontext):
        task = None

        def __enter__(self):
            return self

        def await_start(self):
            pass

        def begin(self, task):
            self.task = task
            busy.append(self)

        def end(self):
            task, self.task = self.task, None
            dies = task.key == 2 or (task.key in (1, 4) and len(busy) > 1)
            busy.remove(self)
            return task, None if dies else Outcome("done")

        def exit(self):
            return "signal SIGKILL"

    monkeypatch.setattr(local, "_Worker", Stub)
    monkeypatch.setattr(local, "wait_for", lambda pool, _: busy[:1])
    monkeypatch.setattr(local, "record_failure", lambda task, line: None)
    todo = [Task("", "", "", "", 0.0, key, {}) for key in range(6)]
    local.run_here(todo, 3, lambda task, outcome: told.update({task.key: outcome}), lambda count: None)
    line = "its worker died 3 times, at last with signal SIGKILL and no other member beside it"
    assert told == {key: Outcome("done") for key in (0, 1, 3, 4, 5)} | {2: Outcome("failed", line)}


def test_a_script_that_workers_cannot_import_is_told_what_it_needs():
    here, there = Pipe()
    there.close()
    worker = _Worker()
    worker.pipe, worker.process = here, SimpleNamespace(join=lambda: None, exitcode=1)
    with pytest.raises(
        InputError, match=r'exit code 1, see above.*below `if __name__ == "__main__":`\. With workers=0'
    ):
        worker.await_start()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--grid", "speed=1"], "Unknown grid name 'speed'; known are seed, size, rate"),
        (["--grid", "size=four"], "size takes int, got 'four'"),
        (["--grid", "size="], "--grid takes NAME=VALUE"),
        (["--grid", "size"], "--grid takes NAME=VALUE"),
        (["--seeds", "0"], "at least one seed"),
        (["--array", "2/2"], "--array takes I/N with I from 0 to N - 1, got 2/2"),
        (["--array", "one"], "--array takes I/N, such as 0/8"),
        (["--workers", "-1"], "--workers takes 0 or more"),
        (["--workers", "1", "--scheduler", "tcp://127.0.0.1:1"], "not both"),
        (["--settings", "/no/such/file"], "Cannot read settings"),
        (["--out", "/dev/null"], "is a file; --out takes a folder"),
        (["--out", "/dev/null/below"], "Cannot write to /dev/null/below: Not a directory"),
        (["--out", "/proc/nothing"], "Cannot write to /proc/nothing"),
    ],
)
def test_bad_input_is_answered_by_one_line(flags, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended, one_line_errors():
        sys.exit(main(toy.__name__, toy.PRESETS, flags))
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith("error: ") and len(err.splitlines()) == 1 and said in err
    assert not any(tmp_path.rglob("*.nc"))


def test_a_terminal_is_told_what_is_done_running_and_failed(tmp_path, capfd):
    run(Sweep(toy, seeds=3, base=replace(toy.Config(), fail=(1,))), tmp_path / "out", workers=1, show_progress=True)
    err = capfd.readouterr().err
    assert "running = 1" in err and "failed = 1" in err and "/3 [" in err
