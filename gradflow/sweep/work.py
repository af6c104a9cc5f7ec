"""One member of a sweep, run by whichever process is told to: claim it, measure, store the numbers or the error."""

import os
import socket
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from gradflow.errors import InputError, first_line
from gradflow.sweep.folder import Folder, changes, made_with
from gradflow.sweep.plan import Member, module_of

# A process of a sweep has one core: as many processes as there are cores then run side by side, and sums are taken in the
# same order everywhere. Numerical libraries read these when they are loaded.
ONE_CORE = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NPROC": "1",  # what XLA sizes its pool of threads by
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip(),
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # processes share a GPU
}


class Task(NamedTuple):
    """What a worker is given: plain data, so that it need not import the simulation to receive it. `root` is where that is."""

    folder: str
    root: str
    simulation: str
    key: str
    fields: dict[str, Any]

    def named(self) -> dict[str, Any]:
        """What a failure is recorded with."""
        return {"simulation": self.simulation, "fields": self.fields}


class Outcome(NamedTuple):
    """What became of a task: done, failed, or taken by another process; `line` says why, where it failed."""

    state: str
    line: str = ""


class CannotGoOn(InputError):
    """What ends a sweep and not one member: a full disk, a worker with other versions. Nothing that is done is lost."""


def tasks(folder: Folder, members: list[Member], simulation: str) -> list[Task]:
    """The tasks of these members."""
    root = Path(module_of(simulation).__file__).parents[simulation.count(".")]
    where = str(folder.path.absolute()), str(root)
    return [Task(*where, simulation, member.key, member.fields) for member in members]


def work(task: Task) -> Outcome:
    """Run a member, unless it is done or another process runs it. Raises `CannotGoOn` where no other member would fare better."""
    prepare(task.folder, task.root, task.simulation)
    folder = Folder(task.folder)
    try:
        with folder.claim(task.key) as mine:
            if not mine:
                return Outcome("taken")
            if folder.result(task.key).exists():
                return Outcome("done")
            try:
                content = measured(task)
            except Exception as error:
                line = f"{type(error).__name__}: {first_line(error)}"
                record_failure(folder, task, line, traceback.format_exc())
                return Outcome("failed", line)
            folder.keep(task.key, content)
            return Outcome("done")
    except OSError as error:
        raise CannotGoOn(
            f"Cannot write to {task.folder}: {error.strerror}. What is done is kept; run the same again when that is mended."
        ) from error


def measured(task: Task) -> bytes:
    """The numbers of a member, as the content of a NetCDF file: the same bytes for the same numbers."""
    module = module_of(task.simulation)
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in task.fields.items()}
    return bytes(module.measure(module.Config(**fields)).to_netcdf(engine="scipy"))


def record_failure(folder: Folder, task: Task, line: str, details: str = "") -> None:
    """Store why a member failed."""
    where = {"host": socket.gethostname(), "process": os.getpid()}
    folder.record_failure(task.key, {"error": line, **task.named(), **where, "traceback": details})


@cache
def prepare(folder: str, root: str, simulation: str) -> None:
    """Once in each process: settings of JAX, and a look whether this process computes as the sweep does."""
    for name, value in ONE_CORE.items():
        os.environ.setdefault(name, value)
    if root not in sys.path:
        sys.path.append(root)
    from gradflow.precision import enable_compilation_cache, enable_x64

    try:
        there = Folder(folder).made_with()
    except InputError as error:
        raise CannotGoOn(
            f"A worker on {socket.gethostname()} does not see the sweep: {error} Workers need the folder on a shared file system."
        ) from None
    changed = changes(there, made_with(simulation))
    if changed:
        raise CannotGoOn(
            f"A worker on {socket.gethostname()} computes otherwise than {Path(folder)} says: {'; '.join(changed)}."
        )
    enable_x64()
    enable_compilation_cache()
