"""Claims: what a theory says of a run, what the run measured, and whether the one holds in the other.

A claim that does not hold is a result. It is shown as such, and its tolerance is never fitted to make it hold.
"""

import dataclasses
import math
from collections.abc import Iterable

import xarray as xr


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim, evaluated on one run.

    predicted   the number that the theory gives, or its statement where that is no number
    measured    the number that the run gives (for a statement: the constant in it)
    tolerance   by how much they may differ, and why
    holds       True, False, or None where the run cannot tell (too short, or another data model)
    """

    name: str
    source: str
    predicted: float | str
    measured: float
    tolerance: str
    holds: bool | None


def near(
    name: str, source: str, predicted: float, measured: float, within: float, why: str, applies: bool = True
) -> Claim:
    """|measured - predicted| <= within."""
    holds = bool(abs(measured - predicted) <= within) if applies and math.isfinite(measured) else None
    return Claim(name, source, float(predicted), float(measured), f"+- {within:.3g}: {why}", holds)


def at_least(
    name: str, source: str, statement: str, measured: float, least: float, why: str, applies: bool = True
) -> Claim:
    """measured >= least."""
    holds = bool(measured >= least) if applies and math.isfinite(measured) else None
    return Claim(name, source, statement, float(measured), f">= {least:.3g}: {why}", holds)


def at_most(
    name: str, source: str, statement: str, measured: float, most: float, why: str, applies: bool = True
) -> Claim:
    """measured <= most."""
    holds = bool(measured <= most) if applies and math.isfinite(measured) else None
    return Claim(name, source, statement, float(measured), f"<= {most:.3g}: {why}", holds)


def named(claim: Claim, run: str) -> Claim:
    """The claim with the name of the run that it was evaluated on, for a ledger of several runs."""
    return dataclasses.replace(claim, name=f"{run}: {claim.name}")


def dataset(claims: Iterable[Claim]) -> xr.Dataset:
    """The numbers of claims over `claim`, their names, as a sweep keeps them.

    measured, predicted (NaN for a statement), holds (1 yes, 0 no, NaN where the run cannot tell). A name that begins with "..."
    goes on where the last whole one ended, which stands before it here: rows are told by their names alone.
    """
    claims, names, whole = list(claims), [], ""
    for claim in claims:
        goes_on = claim.name.startswith("...")
        whole = whole if goes_on else claim.name
        names.append(f"{whole} {claim.name}" if goes_on else whole)
    columns = {
        "measured": ("measured by the run", [claim.measured for claim in claims]),
        "predicted": ("predicted by the theory; NaN for a statement that is no number", [math.nan if isinstance(claim.predicted, str) else claim.predicted for claim in claims]),
        "holds": ("1 holds, 0 fails, NaN cannot be told from the run", [math.nan if claim.holds is None else float(claim.holds) for claim in claims]),
    }  # fmt: skip
    return xr.Dataset(
        {name: ("claim", values, {"long_name": text, "units": "1"}) for name, (text, values) in columns.items()},
        {"claim": ("claim", names, {"long_name": "claim of the theory"})},
    )


def table(claims: Iterable[Claim]) -> str:
    """The claims as a text table, a line each."""
    mark = {True: "holds", False: "FAILS", None: "-"}
    rows = [
        (mark[c.holds], c.name, c.source, _number(c.predicted), _number(c.measured), c.tolerance.split(":")[0])
        for c in claims
    ]
    header = ("", "claim", "source", "predicted", "measured", "tolerance")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join(lines)


def summary(claims: Iterable[Claim]) -> str:
    """How many hold, fail and cannot be told, in a line."""
    verdicts = [claim.holds for claim in claims]
    return f"{verdicts.count(True)} claims hold, {verdicts.count(False)} fail, {verdicts.count(None)} cannot be told from this run"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.5g}"
