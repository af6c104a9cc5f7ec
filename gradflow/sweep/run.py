"""Running a sweep into a folder: what is left to do, by whom, and what it says meanwhile."""

import os
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

from gradflow.errors import require
from gradflow.sweep.folder import Folder
from gradflow.sweep.plan import Member, Sweep
from gradflow.sweep.work import Outcome, Task, tasks


class Result(NamedTuple):
    """How many members of a sweep (or of one process's share) are done, and the errors of those that failed, by member."""

    done: int
    failed: dict[str, str]


def run(
    sweep: Sweep,
    out: Path | str,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    array: tuple[int, int] | None = None,
    retry_failed: bool = False,
    accept_changes: bool = False,
    show_progress: bool | None = None,
) -> Result:
    """Run what is not done yet of a sweep, into the folder `out`, which `open_sweep` reads at any time.

    workers         processes on this machine (default: one for each core; 0: in this process, one after the other). They are
                    started afresh, so a script that calls this needs `if __name__ == "__main__":`. In this process JAX's
                    64-bit numbers and the compilation cache stay on
    scheduler       address of a Dask.distributed scheduler, whose workers see `out`, instead
    array           (i, n): run only every n-th member, from the i-th, counted from 0; the other shares are for other processes
    retry_failed    run members again that failed before this call
    accept_changes  go on in a folder that was begun with other versions or sources

    Members that another process runs into the same folder are waited for, not run again. A member whose worker dies three times, at
    last alone, is recorded as failed. Raises `InputError` where the sweep cannot begin or go on (folder, disk, scheduler); what is
    done is kept, and the same call goes on from there.
    """
    require(
        os.name == "posix", "Sweeps need Linux or macOS: processes that share a folder are told apart by its locks."
    )
    require_by_whom(workers, scheduler, array)
    folder = Folder(out)
    i, n = array or (0, 1)
    share = list(sweep.members())[i::n]
    folder.begin(sweep, accept_changes=accept_changes)
    done, failed = folder.done(), folder.failed()
    left = [member for member in share if member.key not in done and (retry_failed or member.key not in failed)]
    todo = tasks(folder, left, sweep.simulation, retry=retry_failed)
    names = {member.key: describe(sweep, member) for member in share}
    errors = {names[key]: folder.error(key) for key in names if key in failed and not retry_failed}

    from tqdm import tqdm  # gradflow.dynamics has a bar, too, and imports what members may need to set JAX up for

    hidden = None if show_progress is None else not show_progress  # None: where there is no terminal
    finished = sum(member.key in done for member in share)
    with tqdm(
        total=len(share), initial=finished + len(errors), desc="sweep", unit=" members", disable=hidden, leave=False
    ) as bar:

        def tell(task: Task, outcome: Outcome) -> None:
            nonlocal finished
            if outcome.state == "failed":
                errors[names[task.key]] = outcome.line
            else:
                finished += 1
            bar.update()

        def show_running(count: int) -> None:
            bar.set_postfix_str(f"running = {count}, failed = {len(errors)}")

        if scheduler is not None:
            from gradflow.sweep.cluster import run_on

            run_on(scheduler, todo, tell, show_running)
        elif todo:
            from gradflow.sweep.local import run_here

            run_here(todo, cores() if workers is None else workers, tell, show_running)
    return Result(finished, errors)


def describe(sweep: Sweep, member: Member) -> str:
    """Where a member is, in words; for a setting also its fields."""
    where = {name: values[i] for (name, values), i in zip(sweep.axes.items(), member.at, strict=True)}
    if sweep.settings is not None:
        where |= sweep.settings[where["setting"]]
    return ", ".join(f"{name} = {value}" for name, value in where.items())


def require_by_whom(workers: Any, scheduler: Any, array: Any) -> None:
    """Raise `InputError` unless these say by whom members are run."""
    whole = workers is None or (isinstance(workers, Integral) and workers >= 0)
    require(whole, f"--workers takes 0 or more processes, got {workers!r}.")
    require(
        workers is None or scheduler is None,
        "Choose --workers (here) or --scheduler (the workers of that one), not both.",
    )
    if array is not None:
        pair = isinstance(array, tuple | list) and len(array) == 2 and all(isinstance(each, Integral) for each in array)
        require(pair, f"array takes (i, n), such as (0, 8), got {array!r}.")
        i, n = array
        require(0 <= i < n, f"--array takes I/N with I from 0 to N - 1, got {i}/{n}.")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
