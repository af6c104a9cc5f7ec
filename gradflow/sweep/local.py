"""A sweep on this machine, without any server: worker processes, each started afresh and with one core.

Every worker has a pipe of its own, so that it is known which member a worker was at when it died (killed, out of memory): that
member is tried again, the others go on. Workers store what they measure themselves; killing this process loses nothing.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait

from gradflow.sweep.folder import Folder
from gradflow.sweep.work import ONE_CORE, CannotGoOn, Outcome, Task, record_failure, work

# A member whose worker died this often is recorded as failed.
DEATHS = 3
# Seconds until a member that another process runs is looked at again
PATIENCE = 0.5


def run_here(tasks: Iterable[Task], workers: int, tell: Callable[[Task, Outcome], None]) -> None:
    """Run all tasks in `workers` processes, or in this one for 0, until each is done or failed; `tell` hears of each outcome.

    A member that another process runs is waited for, and taken over should that process die. Raises `CannotGoOn`.
    """
    queue, deaths = _Queue(tasks), {}
    with contextlib.ExitStack() as stack:
        pool = [stack.enter_context(_Worker()) for _ in range(min(workers, len(queue)))]
        for worker in pool:
            worker.await_start()
        if not pool:
            for task in queue:
                queue.hear(task, work(task), tell)
            return
        while queue or any(worker.task for worker in pool):
            for worker in pool:
                if worker.task is None and (task := queue.next()):
                    worker.begin(task)
            for worker in wait_for(pool, PATIENCE):
                task, answer = worker.end()
                if isinstance(answer, CannotGoOn):
                    raise answer
                if answer is None:
                    deaths[task.key] = deaths.get(task.key, 0) + 1
                    if deaths[task.key] < DEATHS:
                        queue.again(task)
                        continue
                    line = f"its worker died {DEATHS} times, at last with {worker.exit()}"
                    record_failure(Folder(task.folder), task, line)
                    answer = Outcome("failed", line)
                queue.hear(task, answer, tell)


class _Queue:
    """Tasks in turn; those that another process runs come again, after a while."""

    def __init__(self, tasks: Iterable[Task]):
        self._ready, self._taken, self._not_before = deque(tasks), deque(), 0.0

    def __len__(self) -> int:
        return len(self._ready) + len(self._taken)

    def next(self) -> Task | None:
        """A task to begin now."""
        if not self._ready and time.monotonic() > self._not_before:
            self._ready, self._taken = self._taken, deque()
        return self._ready.popleft() if self._ready else None

    def __iter__(self) -> Iterator[Task]:
        while self:
            if (task := self.next()) is None:
                time.sleep(PATIENCE)
            else:
                yield task

    def again(self, task: Task) -> None:
        self._ready.append(task)

    def hear(self, task: Task, outcome: Outcome, tell: Callable[[Task, Outcome], None]) -> None:
        """Pass on what became of a task, unless it is to come again."""
        if outcome.state == "taken":
            self._taken.append(task)
            self._not_before = time.monotonic() + PATIENCE
        else:
            tell(task, outcome)


class _Worker:
    """A process that runs one task after the other."""

    def __enter__(self) -> "_Worker":
        self.task = None
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(far_end,), daemon=True)
        with _environment(ONE_CORE):
            self.process.start()
        far_end.close()

    def await_start(self) -> None:
        """Wait until the process is there; what keeps it from starting would keep every other one."""
        try:
            self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise CannotGoOn(f"Worker processes do not start (exit code {self.process.exitcode}, see above).") from None

    def begin(self, task: Task) -> None:
        self.task = task
        with contextlib.suppress(BrokenPipeError):  # it has died, as `end` will see
            self.pipe.send(task)

    def end(self) -> tuple[Task, Outcome | CannotGoOn | None]:
        """The task and what became of it; None where the process died, which is replaced."""
        task, self.task = self.task, None
        try:
            return task, self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            self.died = self.process.exitcode
            self.pipe.close()
            self._start()
            self.await_start()
            return task, None

    def exit(self) -> str:
        """How the last process that died did so."""
        return f"signal {signal.Signals(-self.died).name}" if self.died < 0 else f"exit code {self.died}"


def wait_for(pool: list[_Worker], timeout: float) -> list[_Worker]:
    """The workers that have something to say."""
    busy = {worker.pipe: worker for worker in pool if worker.task}
    return [busy[pipe] for pipe in wait(list(busy), timeout)]


def _serve(pipe: Connection) -> None:
    """What a worker process does until the other end of its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    with contextlib.suppress(EOFError, BrokenPipeError):
        pipe.send("started")
        while True:
            task = pipe.recv()
            try:
                answer = work(task)
            except CannotGoOn as error:
                answer = error
            pipe.send(answer)


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
