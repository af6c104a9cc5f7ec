"""Convergence in width and in samples, and where the balance of gradients ends over samples and sentence length."""

from pathlib import Path

RUN = "large_n"
SIMULATION = ("large_n", "--preset", "small")


def draw(run: Path, out: Path) -> list[Path]:
    """Draw the pictures of a stored run into `out`."""
    from gradflow.plotting.large_n import draw_all
    from gradflow.store import load

    return draw_all(*(load(run, name) for name in ("random", "orbits", "diagram")), out)
