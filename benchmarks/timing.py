"""What the benchmarks share: alternating timings, and a table of numbers against their targets."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping


def interleaved(sides: Mapping[str, Callable[[], object]], rounds: int, *, turn: float = 0.0) -> dict[str, list[float]]:
    """Seconds of a call, for every side and round. Sides take turns, so that what slows the machine down slows all of them.

    A turn is one call, or as many as fill `turn` seconds: then the number is their mean. Each side is called once before,
    to compile. A call must return when its result is there, not when it is promised.
    """
    for call in sides.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            began, calls = time.perf_counter(), 0
            while calls == 0 or time.perf_counter() - began < turn:
                call()
                calls += 1
            seconds[name].append((time.perf_counter() - began) / calls)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median over the rounds of slow / fast."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def in_words(seconds: list[float]) -> str:
    """The median, in ms or s."""
    median = statistics.median(seconds)
    return f"{median:.3g} s" if median >= 1 else f"{median * 1e3:.3g} ms"


def met(holds: bool) -> str:
    """The last column of a row that has a target."""
    return "met" if holds else "MISSED"


def print_table(rows: Iterable[tuple[str, ...]]) -> None:
    """Rows of text, the columns aligned."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)
