"""Sweeps of the toy as people start them: processes of their own, watched, interrupted, killed, and never left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from gradflow.sweep.folder import Folder
from gradflow.sweep.work import Task, measured
from tests.sweep import toy

ROOT = Path(toy.__file__).parents[2]
PATIENCE = 60  # seconds until a test gives up waiting; nothing here takes so long


class Toy:
    """The toy in a folder of its own, from where alone it can be imported, and the processes that run sweeps of it."""

    def __init__(self, folder: Path):
        self.folder, self.out = folder, folder / "out"
        self.log, self.trouble, self.gate = folder / "log", folder / "trouble", folder / "gate"
        self.gate.touch()
        self.processes: list[subprocess.Popen] = []
        shutil.copy(toy.__file__, folder / "toy.py")

    def start(self, *flags: str, out: Path | None = None) -> subprocess.Popen:
        """`python -m toy sweep`, counting in `log`, failing while there is `trouble`, waiting for `gate`."""
        files = ("--log", str(self.log), "--trouble", str(self.trouble), "--gate", str(self.gate))
        return self.process([sys.executable, "-m", "toy", "sweep", "--out", str(out or self.out), *flags, *files])

    def run(self, *flags: str, out: Path | None = None) -> tuple[int, str, str]:
        """Exit code, output and errors of a sweep."""
        return end(self.start(*flags, out=out))

    def process(
        self, command: list[str], cwd: Path | None = None, *, quiet: bool = False, **environment: str
    ) -> subprocess.Popen:
        """A process in a group of its own, that knows gradflow and, unless `cwd` is elsewhere, the toy."""
        into = subprocess.DEVNULL if quiet else subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=cwd or self.folder, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            text=True, stdout=into, stderr=into, start_new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def clear(self) -> None:
        """End every process."""
        for process in self.processes:
            if not is_gone(process):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        until(lambda: all(map(is_gone, self.processes)))

    def runs(self) -> Counter[int]:
        """How often each seed was run, or begun."""
        return Counter(int(seed) for *_, seed, _ in self._lines())

    def first_at_work(self) -> int:
        """The process that began the first member."""
        return int(self._lines()[0][-1])

    def hold(self) -> None:
        """Have members wait, and return when one does."""
        self.gate.unlink()
        begun = len(self._lines())
        until(lambda: len(self._lines()) > begun)

    def _lines(self) -> list[list[str]]:
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []


def end(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, output and errors of a process that ends by itself."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def until(condition: Callable[[], object]) -> None:
    """Wait."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def group_of(process: subprocess.Popen) -> dict[int, bytes]:
    """What lives of a process and of those that it started: command lines, by number."""
    group = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, leader = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(leader) == process.pid and state != "Z":
                group[int(folder.name)] = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended since
            continue
    return group


def is_gone(process: subprocess.Popen) -> bool:
    """Whether nothing is left of a process and of those that it started."""
    return process.poll() is not None and not group_of(process)


def workers_of(process: subprocess.Popen) -> list[int]:
    """The processes started by this one that run members."""
    return [pid for pid, command in group_of(process).items() if b"spawn_main" in command]


def found(out: Path) -> dict[str, bytes]:
    """Every file below members/, half ones included, had there been any."""
    return {path.name: path.read_bytes() for path in (out / "members").rglob("*") if path.is_file()}


def expected(out: Path, without: tuple[int, ...] = ()) -> dict[str, bytes]:
    """What an undisturbed run leaves there, computed in this process, one member after the other."""
    return {f"{key}.nc": content for key, content in _undisturbed(out, without)}


def _undisturbed(out: Path, without: tuple[int, ...]) -> Iterator[tuple[str, bytes]]:
    calm = {"wait": 0.0, "fail": (), "die": (), "log": "", "gate": ""}
    for member in Folder(out).sweep().members():
        if member.fields["seed"] not in without:
            yield member.key, measured(Task("", "", "", toy.__name__, False, member.key, member.fields | calm))


def half_files(out: Path) -> list[Path]:
    """What was begun and never completed."""
    return [path for path in out.rglob(".*") if path.name != ".lock"]
