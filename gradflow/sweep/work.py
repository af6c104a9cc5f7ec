"""One member of a sweep, run by whichever process is told to: claim it, measure, store the numbers or the error."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from gradflow.errors import InputError, first_line, require
from gradflow.sweep.folder import Folder
from gradflow.sweep.plan import Member, configured, module_of
from gradflow.sweep.sources import changes, made_with, root_of

# A worker has one core: as many workers as there are cores then run side by side, and sums are taken in the same order in all.
# Numerical libraries read these when they are loaded.
ONE_CORE = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NPROC": "1",  # what XLA sizes its pool of threads by
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip(),
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # processes share a GPU
}


class Task(NamedTuple):
    """What a worker is given: plain data, so that it need not import the simulation to receive it.

    folder, root    where the sweep is, and where the simulation is imported from
    made_with       a digest of the versions and sources that the sweep is computed with
    retry           run it again if it failed until then, by the clock of the folder's file system; 0: not at all
    """

    folder: str
    root: str
    made_with: str
    simulation: str
    retry: float
    key: str
    fields: dict[str, Any]


class Outcome(NamedTuple):
    """What became of a task: done, failed, or taken by another process; `line` says why, where it failed."""

    state: str
    line: str = ""


class CannotGoOn(InputError):
    """What ends a sweep and not one member: a full disk, a worker with other versions. Nothing that is done is lost."""


def tasks(folder: Folder, members: list[Member], simulation: str, *, retry: bool = False) -> list[Task]:
    """The tasks of these members."""
    digest = hashlib.sha256(json.dumps(folder.made_with(), sort_keys=True).encode()).hexdigest()[:12]
    with _writing(folder):
        until = folder.now() if retry else 0.0
    same = str(folder.path.absolute()), str(root_of(simulation)), digest, simulation, until
    return [Task(*same, member.key, member.fields) for member in members]


def work(task: Task) -> Outcome:
    """Run a member, unless it is done or another process runs it. Raises `CannotGoOn` where no other member would fare better."""
    prepare(task.folder, task.root, task.made_with, task.simulation)
    folder = Folder(task.folder)
    with _writing(folder), folder.claim(task.key) as mine:
        if not mine:
            return Outcome("taken")
        if folder.result(task.key).exists():
            return Outcome("done")
        if folder.failed_after(task.key, task.retry):  # another process ran it, since this one began
            return Outcome("failed", folder.error(task.key))
        try:
            content = measured(task)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt) and not _is_deaf():
                raise
            line = f"{type(error).__name__}: {first_line(error)}"
            record_failure(task, line, traceback.format_exc())
            return Outcome("failed", line)
        folder.keep(task.key, content)
        return Outcome("done")


def _is_deaf() -> bool:
    """Whether Ctrl-C cannot reach this code: what looks like it was raised by the member itself."""
    is_main = threading.current_thread() is threading.main_thread()
    return not is_main or signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def measured(task: Task) -> bytes:
    """The numbers of a member, as the content of a NetCDF file: the same bytes for the same numbers."""
    module = module_of(task.simulation)
    dataset = module.measure(configured(module.Config, task.fields))
    if lost := sorted(set(task.fields) & set(getattr(dataset, "data_vars", ()))):
        raise TypeError(f"measure must not call what it returns {', '.join(lost)}, as Config does its fields: a sweep over them would hide it")  # fmt: skip
    try:
        large = {name: variable.astype(float) for name, variable in dataset.variables.items() if _is_large(variable)}
        return bytes(dataset.assign(large).to_netcdf(engine="scipy"))
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise TypeError(
            f"measure must return an xarray.Dataset of real numbers, truth values and text ({first_line(error)})"
        ) from error


def _is_large(variable: Any) -> bool:
    """Whether it has integers beyond the 32 bits that NetCDF-3 has; they are read back as floats anyway."""
    return variable.dtype.kind in "iu" and variable.size > 0 and abs(variable.values.astype(float)).max() >= 2**31


def record_failure(task: Task, line: str, details: str = "") -> None:
    """Store why a member failed. Raises `CannotGoOn`."""
    folder = Folder(task.folder)
    what = {"simulation": task.simulation, "fields": task.fields}
    where = {"host": socket.gethostname(), "process": os.getpid()}
    with _writing(folder):
        folder.record_failure(task.key, {"error": line, **what, **where, "traceback": details})


@contextlib.contextmanager
def _writing(folder: Folder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotGoOn(
            f"Cannot write to {folder.path}: {error.strerror or error}. What is done is kept; run the same again when that is mended."
        ) from error


@cache
def prepare(folder: str, root: str, made_with: str, simulation: str) -> None:
    """Once in each process and for each state of the sources: settings of JAX (64 bits, the compilation cache), which stay, and a
    look whether this process computes as the sweep does. Raises `CannotGoOn`.
    """
    if root not in sys.path:
        sys.path.append(root)
    try:
        _look(folder, simulation)
        from gradflow.precision import enable_compilation_cache, enable_x64

        enable_x64()
        enable_compilation_cache()
    except Exception as error:
        said = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {first_line(error)}"
        raise CannotGoOn(f"A worker on {socket.gethostname()} cannot begin: {said}") from error


def _look(folder: str, simulation: str) -> None:
    """Raise `InputError` unless this process sees the sweep, and computes as it does."""
    try:
        there = Folder(folder).made_with()
    except InputError as error:
        raise InputError(f"{error} Workers need the folder on a shared file system.") from None
    now = made_with(simulation)
    changed = changes(there, now)
    require(
        not changed, f"it computes otherwise than {folder} says: {'; '.join(changed)}. Mend that, and start it again."
    )
    edited = changes(_loaded_with(simulation), now)
    require(not edited, f"it was started before a change: {'; '.join(edited)}. Start it again.")


@cache
def _loaded_with(simulation: str) -> dict[str, Any]:
    """Versions and sources when this process first computed, which are those that it holds on to."""
    return made_with(simulation)
