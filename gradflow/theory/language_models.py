"""What Gopalani and Hu (2025), arXiv 2506.13688, report of Pythia and OLMo-2 early in training, as claims.

On the dataset of `observe.language_models`, told apart by their names on the hub. A run that lacks the model, its revisions or the paper's 100 questions cannot tell.
"""

import numpy as np
import xarray as xr

from gradflow.models.pretrained import PYTHIA_REVISIONS
from gradflow.theory.claims import Claim, at_least, near

SOURCE = "Pythia and OLMo-2"
PYTHIA, OLMO = "pythia-", "OLMo-2-1124-7B"
OLMO_COSINES = {150: 0.93, 600: 0.43}
QUESTIONS = 100


def claims(seen: xr.Dataset) -> list[Claim]:
    """Every claim on the dataset; `seen.attrs["questions"]` says whose questions they are, "own" those that no file gave."""
    asked = seen.sizes["question"] == QUESTIONS and seen.attrs["questions"] != "own"
    return [_pythia(seen, asked), *(_olmo(seen, step, value, asked) for step, value in OLMO_COSINES.items())]


def _pythia(seen: xr.Dataset, asked: bool) -> Claim:
    """Step 0 has not been trained. A model that has not got there may do so at a step that was not measured."""
    chosen = seen.isel(checkpoint=[PYTHIA in name for name in seen["model"].values])
    peaks, complete = [], True
    for model in dict.fromkeys(chosen["model"].values):
        own = chosen.isel(checkpoint=chosen["model"].values == model)
        early = (own["step"] >= 1) & (own["step"] <= 10_000)
        peaks.append(float(own["cosine"].where(early).max()))
        complete &= set(PYTHIA_REVISIONS) <= set(own["revision"].values)
    least = min(peaks, default=np.nan)
    return at_least(
        "Pythia: the largest COS at steps 1 to 10 000, least of all sizes", SOURCE, "> 0.9",
        least, 0.9, "as reported", asked and (complete or least >= 0.9),
    )  # fmt: skip


def _olmo(seen: xr.Dataset, step: int, reported: float, asked: bool) -> Claim:
    here = [OLMO in name and at == step for name, at in zip(seen["model"].values, seen["step"].values, strict=True)]
    measured = float(seen["cosine"].isel(checkpoint=here).mean()) if any(here) else np.nan
    why = "two digits are reported; other number formats decide near ties otherwise"
    return near(f"OLMo-2 7B: COS at step {step}", SOURCE, reported, measured, 0.02, why, asked)
