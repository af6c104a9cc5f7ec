"""Sweeps on a real Dask.distributed cluster, whose workers, clients and scheduler are killed: the same members in the end."""

import json
import os
import pickle
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

import gradflow.sweep.cluster as cluster_module
from gradflow.errors import InputError
from gradflow.sweep.cluster import run_on
from gradflow.sweep.folder import Folder
from gradflow.sweep.work import ONE_CORE
from tests.sweep.processes import Toy, end, expected, found, half_files, until

DASK = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}  # two deaths are enough here


class Cluster:
    """A scheduler and two workers on this machine; the folder they are started in holds no toy."""

    def __init__(self, toys: Toy, folder: Path, workers: int, **environment: str):
        self.toys, self.folder, self.environment = toys, folder, DASK | environment
        self.file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.workers = [self.add_worker() for _ in range(workers)]

    def _start(self, kind: str, *flags: str):
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(self.file), *flags]
        return self.toys.process(command, self.folder, quiet=True, **self.environment)

    def add_worker(self):
        """A worker that is started anew when it dies."""
        return self._start("worker", "--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder))

    @property
    def address(self) -> str:
        def known() -> bool:
            return self.file.exists() and self.file.read_text().strip().endswith("}")

        until(known)
        return json.loads(self.file.read_text())["address"]


def cluster_in(folder: Path, workers: int, **environment: str):
    (folder / "cluster").mkdir()
    toys = Toy(folder)
    try:
        yield Cluster(toys, folder / "cluster", workers, **environment)
    finally:
        toys.clear()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    yield from cluster_in(tmp_path_factory.mktemp("dask"), 2)


@pytest.fixture
def toys(cluster, tmp_path):
    it = Toy(tmp_path)
    yield it
    it.clear()


def test_a_killed_worker_and_members_that_kill_theirs_or_fail_cost_no_other_member(cluster, toys):
    toys.trouble.touch()
    flags = ["--scheduler", cluster.address, "--seeds", "8", "--die", "3", "--fail", "5", "--wait", "0.1"]
    process = toys.start(*flags)
    until(lambda: toys.runs())
    os.kill(toys.first_at_work(), signal.SIGKILL)
    code, out, err = end(process)
    assert code == 1 and err == "" and "6 done, 2 failed" in out
    assert "failed: seed = 3: its worker died 2 times, with no other member beside it" in out
    assert "failed: seed = 5: RuntimeError: seed 5 fails" in out
    # at least: Dask may begin it anew a moment before the lock of its dead worker is gone, and count from there
    assert set(toys.runs()) == set(range(8)) and toys.runs()[5] == 1 and toys.runs()[3] >= 3
    assert found(toys.out) == expected(toys.out, without=(3, 5))

    toys.trouble.unlink()
    runs = toys.runs()
    code, out, err = toys.run(*flags, "--retry-failed")
    assert (code, err) == (0, "") and toys.runs() - runs == {3: 1, 5: 1}
    assert found(toys.out) == expected(toys.out) and not any((toys.out / "failed").iterdir())


def test_interrupted_and_killed_clients_lose_nothing_and_nothing_runs_twice(cluster, toys):
    """A process of this machine takes part in the end."""
    there, share = Folder(toys.out), ["--seeds", "30", "--wait", "0.1"]
    flags = ["--scheduler", cluster.address, *share]

    process = toys.start(*flags)
    until(lambda: len(there.done()) >= 3)
    os.kill(process.pid, signal.SIGINT)
    assert end(process)[::2] == (130, "interrupted\n")

    process = toys.start(*flags)
    done = len(there.done())
    until(lambda: len(there.done()) >= done + 3)
    os.kill(process.pid, signal.SIGKILL)

    toys.gate.unlink()  # members that the last client left wait for it: the next one finds them taken
    both = [toys.start(*flags), toys.start(*share, "--workers", "0")]
    until(lambda: len(there.running()) == 3)
    toys.gate.touch()
    for each in both:
        code, out, err = end(each)
        assert (code, err) == (0, "") and "30 done, 0 failed" in out
    assert toys.runs() == dict.fromkeys(range(30), 1)
    assert found(toys.out) == expected(toys.out) and not half_files(toys.out)
    assert not any((toys.out / "running").iterdir())


def test_workers_that_hold_on_to_other_sources_end_the_sweep_with_one_line(cluster, toys):
    flags = ["--scheduler", cluster.address, "--seeds", "4"]
    assert toys.run(*flags)[0] == 0
    with (toys.folder / "toy.py").open("a") as source:
        source.write("# other numbers\n")
    code, _, err = toys.run(*flags)
    assert code == 2 and "computed otherwise: 1 sources changed (toy)" in err
    code, _, err = toys.run("--scheduler", cluster.address, "--seeds", "6", "--accept-changes")
    assert code == 2 and len(err.splitlines()) == 1 and "1 sources changed (toy)" in err and "tart it again" in err
    assert len(found(toys.out)) == 4


def test_a_scheduler_that_is_killed_ends_the_sweep_and_workers_without_gradflow_are_named(tmp_path):
    """A cluster of its own, whose worker does not know gradflow at first."""
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "gradflow.py").write_text("raise ModuleNotFoundError('No module named gradflow')")
    for cluster in cluster_in(tmp_path, 0):
        toys, address = cluster.toys, cluster.address
        process = toys.start("--scheduler", address, "--seeds", "4")
        cluster.environment = DASK | {"PYTHONPATH": str(bare)}
        worker = cluster.add_worker()
        code, _, err = end(process)
        assert code == 2 and len(err.splitlines()) == 1
        assert f"Workers of {address} cannot run members: " in err and "No module named gradflow" in err
        os.killpg(worker.pid, signal.SIGKILL)

        process = toys.start("--scheduler", address, "--seeds", "9", "--wait", "0.2", out=tmp_path / "other")
        cluster.environment = DASK
        cluster.add_worker()
        until(lambda: len(Folder(tmp_path / "other").done()) >= 2)
        os.killpg(cluster.scheduler.pid, signal.SIGKILL)
        code, _, err = end(process)
        assert code == 2 and len(err.splitlines()) == 1 and f"The scheduler at {address} was lost" in err
        assert not half_files(tmp_path / "other")


def test_an_address_without_a_scheduler_is_answered_by_one_line(tmp_path, monkeypatch):
    with socket.socket() as nobody, socket.socket() as silent:
        for each in (nobody, silent):
            each.bind(("127.0.0.1", 0))
        silent.listen()
        toys, address = Toy(tmp_path), f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        code, _, err = toys.run("--scheduler", address)
        assert code == 2 and len(err.splitlines()) == 1 and err.startswith("error: ") and address in err
        monkeypatch.setattr(cluster_module, "ANSWER", 0.5)
        for wrong in (
            f"tcp://127.0.0.1:{nobody.getsockname()[1]}",
            "nonsense",
            "tcp://host:port",
            "smoke://signal:1",
            "",
        ):
            with pytest.raises(InputError, match=f"No Dask scheduler answers at '{wrong}'.*start one with `dask sched"):
                run_on(wrong, [], print, print)


def test_a_server_of_another_kind_is_called_that():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet():
            connection, _ = server.accept()
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n" + bytes(99))
            connection.recv(1)
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(InputError, match=r"No Dask scheduler answers at .* \(what answers is something else\)"):
            run_on(f"tcp://127.0.0.1:{server.getsockname()[1]}", [], print, print)


def test_that_there_are_no_workers_is_said_once_and_on_a_terminal_only(monkeypatch, capsys):
    class Lonely:
        status = "running"

        def nthreads(self):
            return {}

    monkeypatch.setattr(cluster_module, "PATIENCE", -1.0)
    threads = cluster_module._Threads(Lonely(), "tcp://host:1")
    assert threads.count() == 0 and capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert threads.count() == threads.count() == 0
    assert capsys.readouterr().err == "The scheduler at tcp://host:1 has no workers; waiting for one.\n"


def test_a_dask_worker_has_one_core_too(monkeypatch):
    for name in ONE_CORE:
        monkeypatch.setenv(name, "of those who started it")
    monkeypatch.setattr(cluster_module, "work", lambda task: {name: os.environ[name] for name in ONE_CORE})
    assert pickle.loads(pickle.dumps(cluster_module._Call(None))) == ONE_CORE


def test_it_is_said_in_time_that_no_scheduler_answers():
    assert 2 * cluster_module.ANSWER + 1 < 10  # a first question, and the client's own


def test_without_dask_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'gradflow-dynamics\[sweep\]'"):
        run_on("tcp://127.0.0.1:1", [], print, print)
