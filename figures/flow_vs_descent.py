"""Flow against discrete training: distance by order, what the certificate tells, conservation laws, stability, claims."""

from pathlib import Path

RUN = "flow_vs_descent"
SIMULATION = ("flow_vs_descent", "--preset", "small")


def draw(run: Path, out: Path) -> list[Path]:
    """Draw the pictures of a stored run into `out`."""
    from gradflow.plotting.comparison import draw_all
    from gradflow.store import load_all

    runs = load_all(run)
    return draw_all(runs.pop("comparison"), runs, out)
