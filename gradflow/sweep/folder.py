"""A sweep on disk: what is planned, which members are done, failed or running, and which process runs which.

    sweep.json              the plan, the versions and sources that it is computed with, and those before, where they were changed
    members/ab/KEY.nc       a finished member (NetCDF, opens in xarray): complete or absent, whatever happens
    failed/KEY.json         a member that failed: its error and its configuration
    .lock                   held by the process that begins the sweep or lets it grow
    running/KEY             held by the process that runs the member, under a lock that ends with the process; says who that is

Any number of processes, on any number of machines that share the folder, may work on it at once.
"""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradflow.errors import InputError, require
from gradflow.files import complete_or_absent, make_folder
from gradflow.store import load_config
from gradflow.sweep.plan import Sweep
from gradflow.sweep.sources import changes, made_with

_FOLDERS, _LOCK = ("members", "failed", "running"), ".lock"


class Folder:
    """A folder that holds a sweep. All methods are safe beside other processes that use it."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    # --------------------------------------------------------------------------------------------------- the plan

    def begin(self, sweep: Sweep, *, accept_changes: bool = False) -> None:
        """Make the folder hold this sweep. It may hold a part of it already.

        Raises `InputError` where it cannot be written, holds something else (the differences are listed), or was computed
        with other versions or sources, unless `accept_changes`.
        """
        plan = {"sweep": sweep.to_json(), "made_with": made_with(sweep.simulation)}
        try:
            holds = self._holds(sweep, plan, accept_changes)
            for name in _FOLDERS:  # also of a sweep that is there: copies may lack folders that were empty
                make_folder(self.path / name)
            if holds:
                return
            with (self.path / _LOCK).open("a") as file:  # shares of a sweep begin together, and each may let it grow
                _lock(file, wait=True)
                if not self._holds(sweep, plan, accept_changes):
                    self._write(self.path / "sweep.json", json.dumps(plan | self._before(plan), indent=1).encode())
        except OSError as error:
            raise InputError(f"Cannot write to {self.path}: {error.strerror}.") from error

    def _holds(self, sweep: Sweep, plan: dict[str, Any], accept_changes: bool) -> bool:
        """Whether the folder holds this very plan; `InputError` where it holds what does not go with it."""
        require(not self.path.exists() or self.path.is_dir(), f"{self.path} is a file; --out takes a folder.")
        file = self.path / "sweep.json"
        if not file.exists():
            inside = {path.name for path in self.path.iterdir()} if self.path.exists() else set()
            others = {
                name for name in inside - {*_FOLDERS, _LOCK} if not name.startswith((".sweep.json", "sweep.json"))
            }
            require(not others, f"{self.path} holds something else; --out takes a new folder, or one of a sweep.")
            return False
        there = load_config(file)
        differences = sweep.differences(Sweep.from_json(there["sweep"]))
        require(not differences, f"{self.path} holds another sweep: {'; '.join(differences)}. Choose another --out.")
        changed = changes(there["made_with"], plan["made_with"])
        require(
            not changed or accept_changes,
            f"{self.path} was computed otherwise: {'; '.join(changed)}. Choose another --out, or keep its members with --accept-changes.",
        )
        return there.items() >= json.loads(json.dumps(plan)).items()

    def _before(self, plan: dict[str, Any]) -> dict[str, list]:
        """What sweep.json is to say of versions and sources before this plan's; nothing where there are none."""
        if not (self.path / "sweep.json").exists():
            return {}
        before = self.made_with_before()
        if changes(self.made_with(), plan["made_with"]):
            before.append(self.made_with())
        return {"made_with_before": before} if before else {}

    def sweep(self) -> Sweep:
        """The plan."""
        return Sweep.from_json(self._json("sweep"))

    def made_with(self) -> dict[str, Any]:
        """Versions and sources that members are computed with now."""
        return self._json("made_with")

    def made_with_before(self) -> list[dict[str, Any]]:
        """Those that earlier members may have been computed with, as changes were accepted, in the order of time."""
        return self._json("made_with_before", [])

    def _json(self, part: str, default: Any = None) -> Any:
        file = self.path / "sweep.json"
        require(file.exists(), f"{self.path} holds no sweep (there is no sweep.json).")
        return load_config(file).get(part, default)

    # ------------------------------------------------------------------------------------------------ its members

    def result(self, key: str) -> Path:
        """The file of a finished member."""
        return self.path / "members" / key[:2] / f"{key}.nc"

    def failure(self, key: str) -> Path:
        """The file of a failed member."""
        return self.path / "failed" / f"{key}.json"

    def done(self) -> dict[str, Path]:
        """The finished members, by key."""
        return {path.stem: path for path in (self.path / "members").glob("??/*.nc")}

    def failed(self) -> dict[str, Path]:
        """The failed members, by key."""
        return {
            path.stem: path for path in (self.path / "failed").glob("*.json") if not self.result(path.stem).exists()
        }

    def is_complete(self) -> bool:
        """Whether every member of a sweep in here is done or failed; False where there is no sweep."""
        if not (self.path / "sweep.json").exists():
            return False
        ended = self.done().keys() | self.failed().keys()
        return all(member.key in ended for member in self.sweep().members())

    def error(self, key: str) -> str:
        """Why a member failed."""
        return load_config(self.failure(key))["error"]

    def failed_after(self, key: str, time: float) -> bool:
        """Whether a member is recorded to have failed after a time of `now`."""
        file = self.failure(key)
        return file.exists() and file.stat().st_mtime > time

    def now(self) -> float:
        """The time by the clock that dates the files in here, whichever machine's that is."""
        (self.path / _LOCK).touch()
        return (self.path / _LOCK).stat().st_mtime

    def running(self) -> dict[str, Path]:
        """The members that a process runs now, by key. Processes on other machines are seen where the file system shares locks."""
        return {path.name: path for path in (self.path / "running").glob("*") if _is_locked(path)}

    def runner(self, key: str) -> dict[str, Any]:
        """Who runs a member: host, process and started (seconds since 1970); empty where it ended, or has not said so yet."""
        try:
            return json.loads((self.path / "running" / key).read_text())
        except (OSError, ValueError):
            return {}

    def keep(self, key: str, content: bytes) -> None:
        """Store a finished member."""
        self._write(self.result(key), content)
        self.failure(key).unlink(missing_ok=True)

    def record_failure(self, key: str, record: dict[str, Any]) -> None:
        """Store why a member failed."""
        self._write(self.failure(key), json.dumps(record, indent=1).encode())

    def _write(self, path: Path, content: bytes) -> None:
        make_folder(path.parent)
        with complete_or_absent(path) as temporary:
            temporary.write_bytes(content)

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Hold a member while running it; False where another process holds it. A process that dies, however, lets go."""
        path = self.path / "running" / key
        while True:
            with path.open("a") as file:
                try:
                    locked = _lock(file)
                except BlockingIOError:
                    yield False
                    return
                if not _is_same_file(path, file):
                    continue  # its last holder took it away between our opening and locking it
                try:
                    file.truncate(0)  # what a holder that was killed wrote
                    json.dump({"host": socket.gethostname(), "process": os.getpid(), "started": time.time()}, file)
                    file.flush()
                    if locked:
                        self._sweep_up(key)
                    yield True
                finally:
                    path.unlink(missing_ok=True)
                return

    def _sweep_up(self, key: str) -> None:
        """Remove what a holder of this member left that was killed while writing."""
        for place in (self.result(key), self.failure(key)):
            for left in place.parent.glob(f".{place.name}.*"):
                left.unlink()


def _lock(file: Any, *, wait: bool = False) -> bool:
    """Lock a file until it is closed; `BlockingIOError` where another process has it. False: this file system has no locks.

    Without locks two processes may run the same member at once, to the same end: files are complete or absent anyway.
    """
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.ESTALE:  # NFS: another machine took the file away, as `_is_same_file` sees
            return True
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        return False
    return True


def _is_same_file(path: Path, file: Any) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:  # it is gone, or, on NFS, stale
        return False


def _is_locked(path: Path) -> bool:
    import fcntl

    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
