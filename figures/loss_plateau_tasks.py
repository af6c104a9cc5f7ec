"""Every task of the loss-plateau paper at small size: accuracy, attention progress, collapse and repetition."""

import json
from pathlib import Path

RUN = "loss_plateau_tasks"
SETTINGS = Path(__file__).with_suffix(".json")
SIMULATION = ("loss_plateau", "sweep", "--settings", str(SETTINGS), "--seeds", "3")


def draw(run: Path, out: Path) -> list[Path]:
    """Draw the picture of a sweep into `out`."""
    from gradflow.plotting.loss_plateau_sweeps import draw_settings
    from gradflow.sweep import open_sweep

    titles = [each["task"].replace("_", " ") for each in json.loads(SETTINGS.read_text())]
    return [draw_settings(open_sweep(run), titles, out / "tasks.png")]
