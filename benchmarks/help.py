"""How long the command line makes one wait: `python -m simulations` and `python -m simulations.cooccurrence --help`.

Whole processes, from start to exit. Target: under 0.7 s, both the best and the median of 7.
"""

import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.timing import in_words, interleaved, met, print_table

COMMANDS = (("-m", "simulations"), ("-m", "simulations.cooccurrence", "--help"))
ROUNDS = 7
LONGEST = 0.7


def main() -> None:
    root = Path(__file__).parents[1]
    sides = {
        " ".join(("python", *command)): partial(
            subprocess.run, [sys.executable, *command], cwd=root, check=True, stdout=subprocess.DEVNULL
        )
        for command in COMMANDS
    }  # fmt: skip
    rows = [("", "best", "median", "target", "")]
    for name, seconds in interleaved(sides, ROUNDS).items():
        rows.append(
            (
                name,
                in_words([min(seconds)]),
                in_words(seconds),
                f"< {LONGEST} s",
                met(statistics.median(seconds) < LONGEST),
            )
        )
    print_table(rows)


if __name__ == "__main__":
    main()
