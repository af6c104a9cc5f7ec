"""Word co-occurrence in the theorems' regime: two phases, balance, scores, attention, descent over flow."""

from pathlib import Path

RUN = "cooccurrence"
SIMULATION = ("cooccurrence", "--preset", "small")


def draw(run: Path, out: Path) -> list[Path]:
    """Draw the pictures of a stored run into `out`."""
    from gradflow.plotting.cooccurrence import draw_all
    from gradflow.store import load

    names = {"flow": "trajectory", "infinite_width": "infinite_width", "descent": "descent"}
    return draw_all({name: load(run, stored) for name, stored in names.items()}, out)
