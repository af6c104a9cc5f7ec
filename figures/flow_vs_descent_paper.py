"""Learning rate 0.01 and Kaiming weights, the experiment of Yang et al. (2024), beside smaller rates and the flow."""

from pathlib import Path

RUN = "flow_vs_descent_paper"
SIMULATION = ("flow_vs_descent", "--preset", "paper")


def draw(run: Path, out: Path) -> list[Path]:
    """Draw the pictures of a stored run into `out`."""
    from gradflow.plotting.comparison import draw_all
    from gradflow.store import load_all

    runs = load_all(run)
    return draw_all(runs.pop("comparison"), runs, out)
