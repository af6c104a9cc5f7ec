"""Draw figures from stored runs: all, or those named. Runs that are missing are made first."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

from gradflow.errors import require
from gradflow.listing import parse_names, parser_of
from gradflow.precision import enable_compilation_cache, enable_x64
from gradflow.scripts import one_line_errors
from gradflow.sweep.folder import Folder


def main() -> None:
    folder = Path(__file__).parent
    parser = parser_of(folder, __doc__, "figures to draw")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of stored runs (default: runs)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/figures"), help="folder for the pictures (default: runs/figures)"
    )
    arguments = parse_names(parser, folder)
    enable_x64()  # theory's curves are computed as they are drawn
    enable_compilation_cache()
    for name in arguments.names:
        script = import_module(f"figures.{name}")
        simulation, *flags = script.SIMULATION
        run = arguments.runs / script.RUN
        is_sweep = flags[0] == "sweep"  # goes on where it stopped
        if not (Folder(run).is_complete() if is_sweep else (run / "claims.json").exists()):
            print(f"{name}: no run in {run}, making it", flush=True)
            command = [sys.executable, "-m", f"simulations.{simulation}", *flags, "--out", str(run)]
            command += [] if is_sweep else ["--overwrite"]
            fine = (0, 1) if is_sweep else (0,)  # 1: some members failed, and are left out of the picture
            require(subprocess.run(command).returncode in fine, f"The simulation behind {name} failed.")
        for path in script.draw(run, arguments.out / name):
            print(path)


if __name__ == "__main__":
    with one_line_errors():
        main()
