"""A sweep on the workers of a Dask.distributed scheduler that runs already, on whatever machines share the folder.

Workers store what they measure themselves: killing this process, the scheduler or a worker loses nothing that is done. The
scheduler is given few members at a time (PER_THREAD for each thread), so that it stays light with any number of them.
"""

import asyncio
import contextlib
import logging
import math
import os
import pickle
import queue
import sys
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

from gradflow.errors import InputError, first_line, require
from gradflow.sweep.turns import PATIENCE, Turns
from gradflow.sweep.work import ONE_CORE, CannotGoOn, Outcome, Task, record_failure, work

# Members that the scheduler is given for each thread of its workers: one that runs, and one that follows at once
PER_THREAD = 2
# Seconds that the scheduler may take to answer
ANSWER = 4.0


def run_on(
    address: str, tasks: Iterable[Task], tell: Callable[[Task, Outcome], None], show_running: Callable[[int], None]
) -> None:
    """Run all tasks on the scheduler at `address`, until each is done or failed; `tell` hears of each outcome.

    A member that another process runs is waited for, as here (`local`). Where a worker dies, Dask runs all that it was at elsewhere,
    until they have died too often: each of these members is then run again with no other one beside it, and is recorded as failed
    only if its workers go on to die. Raises `InputError` where there is no scheduler, or none any more, and `CannotGoOn`.
    """
    turns, suspects, alone = Turns(tasks), deque(), False
    flying, landed = {}, queue.SimpleQueue()
    with _connected(address) as client:
        from distributed.scheduler import KilledWorker

        def submit(task: Task) -> None:
            key = f"sweep-{task.key}-{uuid.uuid4().hex[:8]}"
            future = client.submit(pickle.loads, pickle.dumps(_Call(task)), pure=False, key=key)
            flying[future] = task
            future.add_done_callback(landed.put)

        threads = _Threads(client, address)
        while turns or flying or suspects:
            room = PER_THREAD * max(1, threads.count()) - len(flying)
            while room > 0 and not alone and (task := turns.next()):
                submit(task)
                room -= 1
            if suspects and not flying:
                submit(suspects.popleft())
                alone = True
            show_running(min(len(flying), threads.count()))
            try:
                future = landed.get(timeout=PATIENCE)
            except queue.Empty:
                continue
            try:
                outcome = _outcome(future, address)
            except TimeoutError:  # its worker died after the end: Dask runs it again, and finds it done
                future.add_done_callback(landed.put)
                continue
            except KilledWorker as error:
                task = flying.pop(future)
                if not alone:
                    suspects.append(task)
                    continue
                line = f"its worker died {error.allowed_failures + 1} times, with no other member beside it"
                record_failure(task, line)
                outcome = Outcome("failed", line)
            else:
                task = flying.pop(future)
            alone = False
            if outcome.state == "taken":
                turns.later(task)
            else:
                tell(task, outcome)


class _Call:
    """Loading what this pickles to is to do the work. Neither the scheduler nor a worker need know gradflow until then: a worker
    that lacks it would otherwise die of the message, and leave no word.
    """

    def __init__(self, task: Task):
        self.task = task

    def __reduce__(self) -> tuple[Callable[[Task], Outcome], tuple[Task]]:
        return _work_on_one_core, (self.task,)


def _work_on_one_core(task: Task) -> Outcome:
    """What Dask's workers do, which were started by others; in time, as long as nothing else has had them load the libraries."""
    os.environ.update(ONE_CORE)
    return work(task)


class _Threads:
    """How many members the workers can run at once; says so, on a terminal, once there are none."""

    def __init__(self, client: Any, address: str):
        self.client, self.address = client, address
        self.known, self.looked, self.said = 0, -math.inf, False

    def count(self) -> int:
        """The workers' threads, as of a moment ago. Raises `InputError` where the scheduler is lost."""
        if time.monotonic() < self.looked + PATIENCE:
            return self.known
        try:
            require(self.client.status == "running", _lost(self.address))
            self.known = sum(self.client.nthreads().values())
        except (OSError, RuntimeError):  # the latter from a client that has given up
            raise InputError(_lost(self.address)) from None
        self.looked = time.monotonic()
        if not self.known and not self.said and sys.stderr.isatty():
            print(f"The scheduler at {self.address} has no workers; waiting for one.", file=sys.stderr)
            self.said = True
        return self.known


def _outcome(future: Any, address: str) -> Outcome:
    """What a worker says of a task. Raises `KilledWorker`, `TimeoutError`, and what ends the sweep."""
    from distributed.scheduler import KilledWorker

    try:
        return future.result(timeout=ANSWER)
    except (InputError, KilledWorker, TimeoutError):
        raise
    except (OSError, CancelledError, asyncio.CancelledError):
        raise InputError(_lost(address)) from None
    except Exception as error:
        raise CannotGoOn(
            f"Workers of {address} cannot run members: {first_line(error)}. They need gradflow and its dependencies, in the versions "
            "that are installed here."
        ) from error


def _lost(address: str) -> str:
    return (
        f"The scheduler at {address} was lost, or dropped the sweep. What is done is kept; run the same again to go on."
    )


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    """A client of the scheduler; `InputError` where none answers."""
    try:
        import dask
        import distributed
    except ModuleNotFoundError as error:
        raise InputError(
            f"--scheduler needs Dask.distributed ({first_line(error)}): pip install 'gradflow-dynamics[sweep]'"
        ) from None
    with _silence(), dask.config.set({"distributed.comm.timeouts.connect": ANSWER}):
        # the client itself would wait for ever for a listener that says nothing
        try:
            with ThreadPoolExecutor(1) as elsewhere:  # there may be an event loop in this thread, as notebooks have one
                kind = elsewhere.submit(asyncio.run, asyncio.wait_for(_kind(address), ANSWER + 1)).result()
            require(kind == "Scheduler", f"it is a {kind.lower()}")
            client = distributed.Client(address, timeout=ANSWER, set_as_default=False)
        except Exception as error:
            # of another kind of server the answer is read as if it were Dask's, and there is not the memory for so long a one
            reason = first_line(error) if isinstance(error, OSError | ValueError) else "what answers is something else"
            raise InputError(
                f"No Dask scheduler answers at {address!r} ({reason}); start one with `dask scheduler`, and give the "
                "address that it prints, such as tcp://host:8786."
            ) from None
        try:
            yield client
        finally:
            client.close(timeout=ANSWER)


async def _kind(address: str) -> str:
    """What answers: Scheduler, or Worker."""
    from distributed.core import rpc
    from distributed.security import Security

    async with rpc(address, connection_args=Security().get_connection_args("client")) as remote:
        return (await remote.identity())["type"]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No word from Dask: what a person can act on is said in one line here."""
    loggers = [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if name.split(".")[0] in ("distributed", "tornado", "asyncio") and isinstance(logger, logging.Logger)
    ]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="distributed")
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
