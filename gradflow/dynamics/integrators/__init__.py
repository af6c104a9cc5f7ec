"""Ways to solve dy/dt = f(y), one library or method a file, all behind one call.

A library's file offers `solve(problem, method)`, a generator that yields one `Chunk` for each stretch of save times, so that
the caller can show progress, stop early and keep what is done. So does `auto`, which chooses between two methods as it goes;
`rkc` and `midpoint` are methods of this package's own, written as solvers of diffrax.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from gradflow.errors import require

_FILES = {
    "diffrax_": ("tsit5", "dopri8", "kvaerno5", "rkc2", "implicit_midpoint"),
    "scipy_": ("RK45", "DOP853", "LSODA", "BDF", "Radau"),
    "jax_": ("odeint",),
    "auto": ("auto",),
}
METHODS = tuple(method for methods in _FILES.values() for method in methods)
CHUNKS = 12
IMPLICIT = ("kvaerno5", "LSODA", "BDF", "Radau")
LARGEST_DENSE_JACOBIAN = 20_000  # variables: 3 GB in float64, and as much again to factor it


@dataclasses.dataclass(frozen=True)
class Problem:
    """dy/dt = field(y, *data) from `y0` at times[0], observed by `save(y, *data)` at every one of `times`."""

    field: Callable
    save: Callable
    y0: Any
    data: tuple
    times: np.ndarray
    rtol: float
    atol: float
    max_steps: int
    step: float | None = None


class Chunk(NamedTuple):
    """Save points of one stretch (the first chunk is the start alone), the state at the last of them, and what it cost.

    Where an integrator gives up within a stretch, nothing of the stretch is kept: `saved` is None, `state` that before it.
    `choice` is what a method that chooses among others says of its choice at this stretch, if anything.
    """

    saved: Any
    state: Any
    evaluations: int
    accepted: int | None
    rejected: int | None
    jacobians: int = 0
    jvps: int = 0
    failure: str | None = None
    choice: str = ""


def solver_of(method: str) -> tuple[str, Callable[[Problem, str], Iterator[Chunk]]]:
    """The library that offers a method, and its `solve`."""
    for file, methods in _FILES.items():
        if method in methods:
            return file.rstrip("_"), import_module(f"{__name__}.{file}").solve
    require(False, f"Unknown method {method!r}; known are {', '.join(METHODS)}.")


def require_room(method: str, variables: int) -> None:
    """Refuse an implicit method where its dense Jacobian would not fit into memory."""
    require(
        method not in IMPLICIT or variables <= LARGEST_DENSE_JACOBIAN,
        f"{method} needs a dense Jacobian, which {variables} variables do not allow; use rkc2 or auto.",
    )


def require_step(method: str, step: float | None) -> None:
    """Refuse a step for a method that chooses its own, and no step, or one that is none, for the one that does not."""
    if method == "implicit_midpoint":
        require(step is not None, "implicit_midpoint takes fixed steps: give their size, such as step=0.1.")
        require(math.isfinite(step) and step > 0, f"step must be a positive time, got {step}.")
    else:
        require(step is None, f"step is the size of implicit_midpoint's fixed steps; {method} chooses its own.")


def stretches(times: np.ndarray) -> list[np.ndarray]:
    """The save times after the first in up to `CHUNKS` equally long stretches; the last is padded with the end time."""
    later = times[1:]
    length = -(-later.size // CHUNKS)
    padded = np.concatenate([later, np.full(-later.size % length, times[-1])])
    return list(padded.reshape(-1, length))


def out_of_steps(max_steps: int) -> str:
    """Why a solve stopped that needed more steps than it may take."""
    return f"more than max_steps = {max_steps} steps in one stretch"
