"""The co-occurrence paper on one page: its theorems and lemmas against a grid of runs, each with a verdict."""

from pathlib import Path

RUN = "theory_check"
SIMULATION = ("theory_check", "--preset", "small")


def draw(run: Path, out: Path) -> list[Path]:
    """Draw the page from a stored grid into `out`."""
    from gradflow.plotting.style import write
    from gradflow.plotting.theory_check import one_page
    from gradflow.store import load
    from gradflow.theory.ledger import ledger
    from gradflow.theory.statements import ENTRIES

    grid = load(run, "grid")
    return [write(one_page(grid, ledger(grid, ENTRIES)), out / "one_page.png")]
