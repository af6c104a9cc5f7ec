"""What Gopalani and Hu (2025), arXiv 2506.13688, say of loss plateaus, and what the closed forms say, against trainings over several seeds."""

import math

import xarray as xr

from gradflow.observe.loss_plateau import LEVELS
from gradflow.theory.claims import Claim, at_least, at_most, near


def claims(summary: xr.Dataset) -> list[Claim]:
    """The claims on the numbers of `observe.loss_plateau.summary` over `seed`; each is judged by the median seed.

    A seed in which something never came counts as the worst.
    """

    def median(name: str, never: float = -math.inf) -> float:
        return float(summary[name].fillna(never).median("seed"))

    paper, told = (
        "Gopalani and Hu 2025, section {}".format,
        {name: float(summary[f"told_{name}"][0]) for name in LEVELS},
    )
    repeats = median("repetition_plateau") / median("repetition_data") if median("repetition_data") > 0 else math.inf
    return [
        *(
            near(f"loss: {text}", "closed form", told[name], median(f"loss_{name}"), 0.03, "where it falls slowest", math.isfinite(told[name]))
            for name, text in LEVELS.items()
        ),
        at_least("all outputs become right", paper(2), "accuracy > 0.99", median("accuracy_end"), 0.99, "as in its figures"),
        at_least("hidden states collapse on the plateau", paper(3), "cosine > 0.9", median("cosine_plateau"), 0.9, "median on the plateau"),
        at_most("... and are apart at the end", paper(3), "cosine < 0.3", median("cosine_end", math.inf), 0.3, "last tenth"),
        at_least("outputs repeat on the plateau", paper(3), "5 x the data's", repeats, 5, "median on the plateau over the data's"),
        at_least("attention is ahead of the accuracy", paper(4), "by > 0 steps", median("lead"), 0, "each at half of its rise"),
    ]  # fmt: skip
