"""Run the benchmarks: all, or those named."""

import argparse
from importlib import import_module
from pathlib import Path

from gradflow.errors import require
from gradflow.listing import scripts_in
from gradflow.scripts import one_line_errors


def main() -> None:
    known = {name: summary for name, summary in scripts_in(Path(__file__).parent).items() if name != "timing"}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--list", action="store_true", help="say what each one measures, and run none")
    arguments = parser.parse_args()
    if arguments.list:
        width = max(map(len, known))
        for name, summary in known.items():
            print(f"{name:<{width}} {summary}")
        return
    for name in arguments.names:
        require(name in known, f"Unknown benchmark {name!r}; known are {', '.join(known)}.")
    for name in arguments.names or known:
        print(f"{name}: {known[name]}", flush=True)
        import_module(f"benchmarks.{name}").main()
        print(flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
