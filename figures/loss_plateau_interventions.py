"""What sets the length of a loss plateau: attention biased, and parts of a trained model copied and kept."""

from pathlib import Path

RUN = "loss_plateau_interventions"
SIMULATION = ("loss_plateau_interventions", "--preset", "small")


def draw(run: Path, out: Path) -> list[Path]:
    """Draw the picture of a stored run into `out`."""
    from gradflow.plotting.loss_plateau_interventions import draw_all
    from gradflow.store import load

    return draw_all(load(run, "interventions"), out)
