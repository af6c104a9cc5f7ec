"""How a long solve speaks: a bar with steps, time, loss and time left, silent when the output is no terminal."""

import contextlib
import contextvars
import sys
import threading
from collections.abc import Iterator

from tqdm import tqdm

tqdm.set_lock(
    threading.RLock()
)  # bars are one process's own; a lock for several would leave semaphores where one is killed
_silent = contextvars.ContextVar("silent", default=False)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """No bars in here, in this thread, whoever asks for one."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def bar(total: int, unit: str, description: str, *, show: bool | None = None) -> tqdm:
    """A tqdm bar over `total` units of about equal work on standard error; `show=None` shows it only on a terminal."""
    visible = not _silent.get() and (sys.stderr.isatty() if show is None else show)
    return tqdm(total=total, desc=description, unit=unit, disable=not visible, leave=False, file=sys.stderr)


def report(progress: tqdm, done: int, *, time: float, steps: int, loss: float) -> None:
    """Advance the bar by `done` units and show where the solve is."""
    progress.set_postfix_str(f"t = {time:.4g}, steps = {steps}, loss = {loss:.4g}", refresh=False)
    progress.update(done)
