"""Sweeps: what two cores gain over one, what a member costs beyond its own work, and how soon ten thousand can be read.

Gain: the sweep of figures/phase_diagram.py, 405 members of a tenth of a second each; processes start, import and load or compile what they
need, which takes some five seconds and is in it.
Overhead: an empty member with one worker, per member of a longer sweep over a shorter one; nothing to start is in it.
Reading: a sweep of 10 000 empty members with a dozen numbers and two curves of 61 points, opened by a fresh process.

Targets: a gain of at least 1.7 for at least 32 members that keep a core busy, less than 20 ms a member, opened in less than 5 s.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.timing import in_words, interleaved, met, print_table, ratio
from gradflow.sweep import Sweep, run
from gradflow.sweep.plan import parse_grid
from simulations import cooccurrence

MEMBERS, ROUNDS = 405, 2
FEW, MANY, VERY_MANY = 200, 1200, 10_000
NUMBERS, POINTS = 12, 61


@dataclass(frozen=True)
class Config:
    """This benchmark as a simulation: nothing to compute, and an ordinary member's file."""

    seed: int = 0


PRESETS = {"small": Config()}


def measure(config: Config) -> xr.Dataset:
    """An empty member."""
    numbers = {f"number_{i}": ((), float(i + config.seed)) for i in range(NUMBERS)}
    curves = {name: ("clock", np.full(POINTS, float(config.seed))) for name in ("loss", "R")}
    return xr.Dataset(numbers | curves, {"clock": np.arange(float(POINTS))})


def busy(workers: int) -> float:
    """Seconds that members take which keep a core busy, from nothing to a whole folder."""
    base = replace(cooccurrence.PRESETS["small"], n=24, L=4, end=1e6, save_points=121)
    sweep = Sweep(
        cooccurrence, parse_grid(["m=log:16:4096:9", "sigma1=log:0.01:1:9"], cooccurrence.Config), seeds=5, base=base
    )
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        done = run(sweep, Path(folder) / "sweep", workers=workers, show_progress=False).done
        assert done == MEMBERS
        return time.perf_counter() - began


def empty(members: int, folder: Path) -> float:
    """Seconds that a sweep of empty members takes."""
    began = time.perf_counter()
    run(Sweep("benchmarks.sweep", seeds=members), folder, workers=1, show_progress=False)
    return time.perf_counter() - began


def main() -> None:
    busy(2)  # compiles
    one, two = zip(*((busy(1), busy(2)) for _ in range(ROUNDS)), strict=True)
    faster = ratio(one, two)
    with tempfile.TemporaryDirectory() as folder:
        overhead = (empty(MANY, Path(folder) / "many") - empty(FEW, Path(folder) / "few")) / (MANY - FEW)
        empty(VERY_MANY, Path(folder) / "very_many")
        code = "import sys, gradflow; assert bool(gradflow.open_sweep(sys.argv[1])['done'].all())"
        opened = interleaved({"open": partial(subprocess.run, [sys.executable, "-c", code, f"{folder}/very_many"], check=True)}, 3)["open"]  # fmt: skip
        resume = interleaved({"resume": partial(empty, VERY_MANY, Path(folder) / "very_many")}, 1)["resume"]
    print_table(
        [
            ("", "measured", "target", ""),
            (f"{MEMBERS} members, one worker", in_words(one), "", ""),
            ("the same, two workers", in_words(two), "", ""),
            ("two workers over one", f"{faster:.2f}", ">= 1.7", met(faster >= 1.7)),
            ("an empty member", in_words([overhead]), "< 20 ms", met(overhead < 0.02)),
            (f"{VERY_MANY} members opened", in_words(opened), "< 5 s", met(max(opened) < 5)),
            ("the finished sweep run again", in_words(resume), "", ""),
        ]
    )


if __name__ == "__main__":
    main()
