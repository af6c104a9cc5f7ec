"""Counting the evaluations of a compiled function, for libraries that do not tell."""

from collections.abc import Callable

import jax


class EvaluationCounter:
    """Counts on the host, by a callback from the compiled program (tens of microseconds an evaluation)."""

    def __init__(self):
        self._count = 0

    def counted(self, function: Callable) -> Callable:
        """The same function, counted."""

        def counting(*args):
            jax.debug.callback(self._increment)
            return function(*args)

        return counting

    def take(self, result) -> int:
        """Evaluations since the last `take`, once `result` (and all callbacks before it) is there."""
        jax.block_until_ready(result)
        jax.effects_barrier()
        count, self._count = self._count, 0
        return count

    def _increment(self):
        self._count += 1
