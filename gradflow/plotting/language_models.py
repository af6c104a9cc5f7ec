"""The picture of language models early in training, from the dataset of `observe.language_models`."""

from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from gradflow.plotting.style import BLUE, GREEN, ORANGE, PINK, RED, SKY, panels, write

_MEASURES = {"cosine": "hidden states: COS", "repetition": r"generated tokens: repetition $\rho$"}


def draw_all(seen: xr.Dataset, folder: Path) -> list[Path]:
    """Draw the picture into a folder."""
    return [write(along_training(seen), Path(folder) / "language_models.png")]


def along_training(seen: xr.Dataset) -> Figure:
    """COS and rho over training steps; bands reach from the first to the third quartile of the questions.

    Revisions of which one has no step are drawn in order, by name.
    """
    in_order = bool(np.isnan(seen["step"]).any())
    names = list(dict.fromkeys(seen["revision"].values))
    with panels(1, 2, width=10.0, height=3.8, sharey=True) as (figure, axes):
        for each, (measure, title) in zip(axes, _MEASURES.items(), strict=True):
            for i, model in enumerate(dict.fromkeys(seen["model"].values)):
                colour = (BLUE, ORANGE, GREEN, PINK, RED, SKY)[i % 6]
                own = seen.isel(checkpoint=seen["model"].values == model)
                x = [names.index(name) for name in own["revision"].values] if in_order else own["step"].values
                own, x = own.isel(checkpoint=np.argsort(x)), np.sort(x)
                low, high = np.quantile(own[f"{measure}_of_question"], (0.25, 0.75), axis=1)
                each.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
                each.plot(x, own[measure], color=colour, marker="o", markersize=3.5, label=model)
            if in_order:
                each.set_xticks(range(len(names)), names, rotation=30, ha="right")
            else:
                each.set_xscale("symlog", linthresh=1)  # linear from step 0 to 1
                each.set_xlim(left=-0.2)
            each.set(title=title, xlabel="revision" if in_order else "training step")
        axes[0].set_ylabel("mean over questions; band: quartiles")
        axes[0].legend()
        return figure
