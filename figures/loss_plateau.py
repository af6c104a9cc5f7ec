"""Loss plateau of the moving window sum: loss with its closed-form levels, outputs, attention progress, repetition, collapse, maps."""

from pathlib import Path

RUN = "loss_plateau"
SIMULATION = ("loss_plateau", "--preset", "small")


def draw(run: Path, out: Path) -> list[Path]:
    """Draw the pictures of a stored run into `out`."""
    from gradflow.plotting.loss_plateau import draw_all
    from gradflow.store import load

    return draw_all(*(load(run, name) for name in ("trajectory", "summary")), out)
