"""Figure 1 of Yang et al. (2024), from gradient descent with the paper's own sizes (Appendix A)."""

from pathlib import Path

RUN = "cooccurrence_paper"
SIMULATION = ("cooccurrence", "--preset", "paper")


def draw(run: Path, out: Path) -> list[Path]:
    """Draw the figure from a stored run into `out`."""
    from gradflow.plotting.cooccurrence import figure_1, flow_over_descent
    from gradflow.plotting.style import write
    from gradflow.store import load

    runs = {"flow": load(run), "descent": load(run, "descent")}
    return [
        write(figure_1(runs), out / "figure_1.png"),
        write(flow_over_descent(runs), out / "flow_over_descent.png"),
    ]
