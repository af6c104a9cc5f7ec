"""python -m gradflow.sweep: how a sweep stands, its numbers as a table, and the whole of it as one file."""

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradflow.errors import shortened
from gradflow.scripts import one_line_errors

if TYPE_CHECKING:
    import xarray as xr

    from gradflow.sweep.folder import Folder

# lines that `status` prints of a kind, and finished members, at least, that it takes the speed from
_LINES, _RECENT = 10, 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for, and return the exit code."""
    flags = _parser().parse_args(arguments)
    with one_line_errors():
        flags.action(flags)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gradflow.sweep", description=__doc__.partition(": ")[2])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, action, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument("folder", type=Path, metavar="DIR", help="folder of the sweep")
        one.set_defaults(action=action)
        return one

    command("status", _status, "how many members are done, who runs what, what failed, and when it will be done")
    packing = command("pack", _pack, "write the sweep into one file, NetCDF or Zarr")
    packing.add_argument("file", type=Path, metavar="FILE", help="ends with .nc or .zarr")
    packing.add_argument("--overwrite", action="store_true", help="replace the file, if there is one")
    table = command("summary", _summary, "median, its bootstrap interval and the number of values at each grid point")
    table.add_argument("names", nargs="+", metavar="NAME", help="variable")
    table.add_argument("--over", default="seed", metavar="AXIS", help="what to summarise over (default %(default)s)")
    table.add_argument("--confidence", type=float, default=0.95, help="of the interval (default %(default)s)")
    return parser


# ------------------------------------------------------------------------------------------------------------- status


def _status(flags: argparse.Namespace) -> None:
    from gradflow.sweep.folder import Folder
    from gradflow.sweep.run import describe

    folder = Folder(flags.folder)
    sweep = folder.sweep()
    names = {member.key: describe(sweep, member) for member in sweep.members()}
    # in this order: a member that ends meanwhile is done, and not missing
    running, done, failed = folder.running(), folder.done(), folder.failed()
    done = {key: path for key, path in done.items() if key in names}
    running = [key for key in names if key in running and key not in done]
    failed = [key for key in names if key in failed and key not in {*done, *running}]
    missing = len(names) - len(done) - len(failed) - len(running)
    print(
        f"{sweep.simulation}: {len(names)} members, {len(done)} done, {len(running)} running, {len(failed)} failed, {missing} missing"
    )
    left = missing + len(running)
    if left and not running:
        print("no process runs it; the command that began it goes on")
    elif left:
        started = [runner["started"] for key in running if (runner := folder.runner(key))]
        longest = time.time() - min(started, default=time.time())
        seconds = _seconds_each((path.stat().st_mtime for path in done.values()), len(running), longest)
        print("time left: " + ("not known yet" if seconds is None else f"about {_duration(left * seconds)}"))
    _some("running", [_run(folder, key, names[key]) for key in running])
    _some("failed", [f"{names[key]}: {shortened(folder.error(key))}" for key in failed[:_LINES]], len(failed))


def _seconds_each(finished: Iterable[float], running: int, longest: float) -> float | None:
    """Seconds between the ends of members, of which `running` run at once, one of them for `longest` seconds already; None
    where the ends say nothing.

    While a member runs, as many end as run at once, be it all together or one by one: so many gaps make up a member's time. A gap
    far longer than that, and long beside all, is a stop of the sweep, after which the first member took its time as well.
    """
    times = sorted(finished)[-max(_RECENT, 5 * running) :]
    if len(times) <= running:
        return None
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    member = max(sorted(_sums(gaps, running))[(len(gaps) - running) // 4], longest)
    stop = max(5 * member, sum(gaps) / 10)
    durations = _sums([member if gap > stop else gap for gap in gaps], running)
    return sum(durations) / len(durations) / running


def _sums(gaps: Sequence[float], number: int) -> list[float]:
    """Of every so many gaps that follow each other."""
    totals = list(itertools.accumulate(gaps, initial=0.0))
    return [later - earlier for earlier, later in zip(totals, totals[number:], strict=False)]


def _run(folder: "Folder", key: str, name: str) -> str:
    runner = folder.runner(key)
    if not runner:
        return name
    return f"{name}: {runner['host']}, process {runner['process']}, for {_duration(time.time() - runner['started'])}"


def _some(title: str, lines: Sequence[str], number: int | None = None) -> None:
    """The first of `number` lines (default: of those given)."""
    number = len(lines) if number is None else number
    if number:
        print(f"{title}:")
    for line in lines[:_LINES]:
        print(f"  {line}")
    if number > _LINES:
        print(f"  and {number - _LINES} more")


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


# --------------------------------------------------------------------------------------------------- pack and summary


def _pack(flags: argparse.Namespace) -> None:
    from gradflow.sweep.packing import pack

    print(pack(flags.folder, flags.file, overwrite=flags.overwrite))


def _summary(flags: argparse.Namespace) -> None:
    from gradflow.sweep.reading import open_sweep
    from gradflow.sweep.summary import summarise

    summary = summarise(
        open_sweep(flags.folder), flags.names, over=flags.over, confidence=flags.confidence, quantiles=()
    )
    for name in flags.names:
        print(
            f"{summary[name].attrs['long_name']} ({summary[name].attrs.get('units', 'no units')}), {flags.confidence:.0%} interval"
        )
        print("\n".join(_table(summary, name)) + "\n")


def _table(summary: "xr.Dataset", name: str) -> list[str]:
    """A line each grid point: where it is, then median, interval and count."""
    import numpy as np

    parts = {"": "median", "_low": "low", "_high": "high", "_count": "count"}
    dims, shape = summary[name].dims, summary[name].shape
    where = {dim: summary[dim] if dim in summary.coords else None for dim in dims}
    where |= {
        each: summary[each] for each, values in summary.coords.items() if values.dims and {*values.dims} <= {*dims}
    }
    rows = [[*where, *parts.values()]]
    for at in np.ndindex(*shape):
        place = dict(zip(dims, at, strict=True))
        labels = [
            place[label] if each is None else each.isel({dim: place[dim] for dim in each.dims}).item()
            for label, each in where.items()
        ]
        rows.append([_cell(value) for value in (*labels, *(summary[name + part].values[at] for part in parts))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _cell(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
