"""T1 and the balance of gradients over attention width and scale of W: a sweep of random networks against the mean start."""

from pathlib import Path

RUN = "phase_diagram"
SIMULATION = ("cooccurrence", "sweep", "--n", "24", "--L", "4", "--end", "1e6", "--save-points", "121", "--grid", "m=log:16:4096:9", "sigma1=log:0.01:1:9", "--seeds", "5")  # fmt: skip


def draw(run: Path, out: Path) -> list[Path]:
    """Draw the picture of a sweep into `out`."""
    from gradflow.plotting.phase_diagram import draw_all
    from gradflow.sweep import open_sweep

    return draw_all(open_sweep(run), out)
