"""Where attention matters: phase diagrams with the predicted border, the two phases in four regimes, prediction against measurement."""

from pathlib import Path

RUN = "attention_share"
SIMULATION = ("attention_share", "--preset", "small")


def draw(run: Path, out: Path) -> list[Path]:
    """Draw the pictures of a stored run into `out`."""
    from gradflow.plotting.attention import draw_all
    from gradflow.store import load

    return draw_all(*(load(run, name) for name in ("population", "samples", "random")), out)
