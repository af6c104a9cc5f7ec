"""The loss plateau in continuous time: losses of flows and of training, the saddle, its end by initial scale, conserved quantities."""

from pathlib import Path

RUN = "loss_plateau_flow"
SIMULATION = ("loss_plateau_flow", "--preset", "small")


def draw(run: Path, out: Path) -> list[Path]:
    """Draw the pictures of a stored run into `out`."""
    from gradflow.plotting.loss_plateau_flow import draw_all
    from gradflow.store import load

    return draw_all(*(load(run, name) for name in ("gradient", "adam", "saddle", "escape")), out)
