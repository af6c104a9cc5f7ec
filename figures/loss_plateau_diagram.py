"""Length of the loss plateau over attention bias and learning rate: a sweep of the moving window sum."""

from pathlib import Path

RUN = "loss_plateau_diagram"
SIMULATION = ("loss_plateau", "sweep", "--grid", "bias=log:0.25:16:7", "learning_rate=log:2.5e-4:4e-3:5", "--seeds", "3", "--steps", "800", "--save-every", "10")  # fmt: skip


def draw(run: Path, out: Path) -> list[Path]:
    """Draw the picture of a sweep into `out`."""
    from gradflow.plotting.loss_plateau_sweeps import draw_diagram
    from gradflow.sweep import open_sweep

    return [draw_diagram(open_sweep(run), out / "plateau_length.png")]
