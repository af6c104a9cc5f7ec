"""Whose turn it is: the members that are left, those last that another process runs at the moment."""

import time
from collections import deque
from collections.abc import Iterable

from gradflow.sweep.work import Task

# Seconds until a member that another process runs is looked at again
PATIENCE = 0.5


class Turns:
    """Tasks in turn; those that another process runs come again, after a while."""

    def __init__(self, tasks: Iterable[Task]):
        self._ready, self._taken, self._not_before = deque(tasks), deque(), 0.0

    def __len__(self) -> int:
        return len(self._ready) + len(self._taken)

    def next(self) -> Task | None:
        """A task to begin now; None where all that are left wait for another process, or none is."""
        if not self._ready and time.monotonic() > self._not_before:
            self._ready, self._taken = self._taken, deque()
        return self._ready.popleft() if self._ready else None

    def again(self, task: Task) -> None:
        """Have a task come again whose worker died."""
        self._ready.append(task)

    def later(self, task: Task) -> None:
        """Have a task come again that another process runs, after a while: that process may die."""
        self._taken.append(task)
        self._not_before = time.monotonic() + PATIENCE
