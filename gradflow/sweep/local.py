"""A sweep on this machine, without any server: worker processes, each started afresh and with one core.

Every worker has a pipe of its own, so that it is known which member a worker was at when it died (killed, out of memory): that
member is tried again, at last alone, the others go on. Workers store what they measure themselves; killing this process loses nothing.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

from gradflow.sweep.turns import PATIENCE, Turns
from gradflow.sweep.work import ONE_CORE, CannotGoOn, Outcome, Task, record_failure, work

# A member whose worker died this often, at last with no other member beside it (memory is shared), is recorded as failed.
DEATHS = 3


def run_here(
    tasks: Iterable[Task], workers: int, tell: Callable[[Task, Outcome], None], show_running: Callable[[int], None]
) -> None:
    """Run all tasks in `workers` processes, or in this one for 0, until each is done or failed; `tell` hears of each outcome.

    A member that another process runs is waited for, and taken over should that process die. Raises `CannotGoOn`.
    """
    turns, deaths, suspects, alone = Turns(tasks), {}, deque(), False

    def hear(task: Task, outcome: Outcome) -> None:
        if outcome.state == "taken":
            turns.later(task)
        else:
            tell(task, outcome)

    while turns and not workers:
        if task := turns.next():
            hear(task, work(task))
        else:
            time.sleep(PATIENCE)
    with contextlib.ExitStack() as stack:
        pool = [stack.enter_context(_Worker()) for _ in range(min(workers, len(turns)))]
        for worker in pool:
            worker.await_start()
        while turns or suspects or any(worker.task for worker in pool):
            for worker in pool:
                if worker.task is None and not alone and (task := turns.next()):
                    worker.begin(task)
            if suspects and not any(worker.task for worker in pool):
                pool[0].begin(suspects.popleft())
                alone = True
            show_running(sum(worker.task is not None for worker in pool))
            for worker in wait_for(pool, PATIENCE):
                task, answer = worker.end()
                if isinstance(answer, CannotGoOn):
                    raise answer
                if answer is None:
                    deaths[task.key] = deaths.get(task.key, 0) + 1
                    if deaths[task.key] < DEATHS - 1:
                        turns.again(task)
                        continue
                    if not alone:
                        suspects.append(task)
                        continue
                    line = f"its worker died {deaths[task.key]} times, at last with {worker.exit()} and no other member beside it"
                    record_failure(task, line)
                    answer = Outcome("failed", line)
                alone = False
                hear(task, answer)


class _Worker:
    """A process that runs one task after the other."""

    def __enter__(self) -> "_Worker":
        self.task = None
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()
        self.process.kill()  # whatever it is at: files are complete or absent, and its lock ends with it
        self.process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(far_end,), daemon=True)
        with _environment(ONE_CORE), _deaf_to_interrupts():
            self.process.start()
        far_end.close()

    def await_start(self) -> None:
        """Wait until the process is there; what keeps it from starting would keep every other one."""
        try:
            self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            raise CannotGoOn(
                f"Worker processes do not start (exit code {self.process.exitcode}, see above). They import the script that starts them: "
                'it must be a file, with all that it does below `if __name__ == "__main__":`. With workers=0 none is started.'
            ) from None

    def begin(self, task: Task) -> None:
        if not self.process.is_alive():  # it died while idle, which is no fault of this task
            self._replace()
        self.task = task
        with contextlib.suppress(ConnectionError):  # it has died, as `end` will see
            self.pipe.send(task)

    def end(self) -> tuple[Task, Outcome | CannotGoOn | None]:
        """The task and what became of it; None where the process died, which is replaced."""
        task, self.task = self.task, None
        try:
            return task, self.pipe.recv()
        except (EOFError, OSError):  # OSError: in the middle of an answer
            self._replace()
            return task, None

    def _replace(self) -> None:
        self.process.join()
        self.died = self.process.exitcode
        self.pipe.close()
        self._start()
        self.await_start()

    def exit(self) -> str:
        """How the last process that died did so."""
        return f"signal {signal.Signals(-self.died).name}" if self.died < 0 else f"exit code {self.died}"


def wait_for(pool: list[_Worker], timeout: float) -> list[_Worker]:
    """The workers that have something to say."""
    busy = {worker.pipe: worker for worker in pool if worker.task}
    return [busy[pipe] for pipe in wait(list(busy), timeout)]


def _serve(pipe: Connection) -> None:
    """What a worker process does until the other end of its pipe is closed."""
    with contextlib.suppress(EOFError, ConnectionError):
        pipe.send("started")
        while True:
            task = pipe.recv()
            try:
                answer = work(task)
            except CannotGoOn as error:
                answer = error
            pipe.send(answer)


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C is for this process, not for those that are started in here, not even while they load."""
    resource_tracker.ensure_running()  # starting it would undo this
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables for the processes that are started in here."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
