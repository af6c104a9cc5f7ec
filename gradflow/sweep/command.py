"""`python -m simulations.NAME sweep`: its flags, and what it prints."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradflow.errors import InputError, require, shortened
from gradflow.scripts import OneLineParser, parse
from gradflow.sweep.plan import Sweep, fields_of, parse_grid
from gradflow.sweep.run import require_by_whom, run


def main(module: str, presets: Mapping[str, Any], arguments: Sequence[str]) -> int:
    """Run the sweep that the command line asks for. Returns the exit code: 1 where members failed."""
    kind = type(next(iter(presets.values())))
    parser = _parser(module, kind)
    flags, rest = parser.parse_known_args(arguments)
    base = parse(presets, f"The members' configuration, for {parser.prog}.", rest, prog=parser.prog)
    array = _array(flags.array)
    require_by_whom(flags.workers, flags.scheduler, array)
    seeds = {} if flags.seeds is None else {"seeds": flags.seeds}
    sweep = Sweep(module, parse_grid(flags.grid, kind), settings=_settings(flags.settings), base=base, **seeds)
    axes = ", ".join(f"{name} ({len(values)})" for name, values in sweep.axes.items())
    print(f"{module}: {len(sweep)} members over {axes}", flush=True)
    result = run(
        sweep, flags.out, workers=flags.workers, scheduler=flags.scheduler, array=array,
        retry_failed=flags.retry_failed, accept_changes=flags.accept_changes,
    )  # fmt: skip
    for name, error in list(result.failed.items())[:10]:
        print(f"failed: {name}: {shortened(error)}")
    print(f"{result.done} done, {len(result.failed)} failed, in {flags.out}; gradflow.open_sweep reads them")
    return 1 if result.failed else 0


def _parser(module: str, kind: type) -> argparse.ArgumentParser:
    name = module.rpartition(".")[2]
    parser = OneLineParser(
        prog=f"python -m {module} sweep",
        description="Run many members of this simulation, and keep what each measures. However it was stopped, a sweep goes on "
        f"with the same command. All flags of the simulation itself (python -m {module} --help) are taken, too, and hold for every member.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUES",
        help="every combination is run: m=64,256,1024 or m=log:64:1024:5 or m=lin:1:9:5; parts of one value are separated by /",
    )
    add(
        "--settings",
        type=Path,
        metavar="FILE",
        help="instead of a grid: a JSON list of objects, the fields of each setting",
    )
    add("--seeds", type=int, help="runs of each, counted from --seed (default 1)")
    add(
        "--out",
        type=Path,
        default=Path(f"runs/{name}_sweep"),
        help="folder that receives the members (default %(default)s)",
    )
    add("--workers", type=int, help="processes on this machine (default: one for each core; 0: in this process)")
    add(
        "--scheduler",
        metavar="ADDRESS",
        help="run on the workers of this Dask.distributed scheduler instead, such as tcp://host:8786",
    )
    add("--array", metavar="I/N", help="run only the I-th of N shares, I from 0 to N - 1; any number may run at once")
    add(
        "--retry-failed",
        action="store_true",
        help="run members again that failed before; until their turn `status` counts them as failed",
    )
    add("--accept-changes", action="store_true", help="go on in a folder that was begun with other versions or sources")
    parser.epilog = f"Names for --grid: {', '.join(fields_of(kind))}."
    flags = vars(parser.parse_args([]))
    taken = [name for name in fields_of(kind) if name in flags]
    if taken:
        parser.epilog += (
            f" Where the sweep has a flag of the same name ({', '.join(taken)}), that is the sweep's; "
            f"the simulation's is given in the grid, if need be with one value: --grid {taken[0]}=VALUE."
        )
    return parser


def _settings(path: Path | None) -> list | None:
    if path is None:
        return None
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read settings from {path}: {error}.") from error
    objects = isinstance(settings, list) and all(isinstance(each, dict) for each in settings)
    require(objects, f'{path} must hold a JSON list of objects, such as [{{"m": 64}}, {{"m": 256}}].')
    return settings


def _array(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition("/")
    require(first.isdecimal() and last.isdecimal(), f"--array takes I/N, such as 0/8, got {text!r}.")
    return int(first), int(last)
