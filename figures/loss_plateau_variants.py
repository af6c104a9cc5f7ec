"""Loss plateau of the moving window sum with other sizes, attention and optimizers: which of them keep it."""

import json
from pathlib import Path

RUN = "loss_plateau_variants"
SETTINGS = Path(__file__).with_suffix(".json")
SIMULATION = ("loss_plateau", "sweep", "--settings", str(SETTINGS), "--seeds", "3")


def draw(run: Path, out: Path) -> list[Path]:
    """Draw the picture of a sweep into `out`."""
    from gradflow.plotting.loss_plateau_sweeps import draw_settings
    from gradflow.sweep import open_sweep

    def title(setting: dict) -> str:
        names = {name: value for name, value in setting.items() if name not in ("steps", "save_every", "learning_rate")}
        return ", ".join(f"{name.replace('_', '-')} {value}" if value is not True else name for name, value in names.items()).replace("optimizer ", "").replace("attention ", "")  # fmt: skip

    return [
        draw_settings(open_sweep(run), [title(each) for each in json.loads(SETTINGS.read_text())], out / "variants.png")
    ]
