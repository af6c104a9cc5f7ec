"""Draw figures from stored runs: all, or those named. Runs that are missing are made first."""

import argparse
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from gradflow.errors import require
from gradflow.listing import scripts_in
from gradflow.scripts import one_line_errors


def main() -> None:
    known = scripts_in(Path(__file__).parent)
    listing = "\n".join(f"  {name:<24} {summary}" for name, summary in known.items())
    parser = argparse.ArgumentParser(
        prog="python -m figures", description=__doc__, epilog=listing, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures to draw (default: all, listed below)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of stored runs (default: runs)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/figures"), help="folder for the pictures (default: runs/figures)"
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        require(name in known, f"Unknown figure {name!r}; known are {', '.join(known)}.")
    for name in arguments.names or known:
        script = import_module(f"figures.{name}")
        simulation, *flags = script.SIMULATION
        run = arguments.runs / script.RUN
        if not (run / "claims.json").exists():
            print(f"{name}: no run in {run}, making it", flush=True)
            command = [sys.executable, "-m", f"simulations.{simulation}", *flags, "--out", str(run), "--overwrite"]
            require(subprocess.run(command).returncode == 0, f"The simulation behind {name} failed.")
        for path in script.draw(run, arguments.out / name):
            print(path)


if __name__ == "__main__":
    with one_line_errors():
        main()
