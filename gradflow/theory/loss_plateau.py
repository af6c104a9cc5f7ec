"""What Gopalani and Hu (2025), arXiv 2506.13688, say of loss plateaus, and what the closed forms say, against trainings over several seeds."""

import math
from itertools import pairwise

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


def intervention_claims(results: xr.Dataset) -> list[Claim]:
    """The claims on `simulations.loss_plateau_interventions`, over `intervention` and `seed`; each is judged by median seeds.

    A number is the step from which half of the outputs are right; where that never came, the last one, which it is later than.
    """
    half = results["accuracy_50"].fillna(float(results["step"][-1])).median("seed")
    steps = {str(name): float(half.sel(intervention=name)) for name in half["intervention"].values}
    collapse, repeats = (results[name].median("seed") for name in ("cosine_plateau", "repetition_plateau"))
    section, without = "Gopalani and Hu 2025, section 4", steps["none"]
    strengths = {float(name[4:]): name for name in steps if name.startswith("c = ") and "from" not in name} | {
        1.0: "none"
    }
    ordered = [strengths[c] for c in sorted(strengths)]
    starts = sorted((name for name in steps if "from" in name), key=lambda name: int(name.rpartition(" ")[2]))

    def falls(name: str, values: list[float]) -> Claim:
        """Values that fall from one to the next; the number is the largest ratio of neighbours."""
        largest = max((b / a for a, b in pairwise(values)), default=math.nan)
        return at_most(name, section, "each < the one before", largest, 1 - 1e-9, "largest ratio of neighbours")

    claims = [falls("the stronger the bias c, the earlier outputs are right", [steps[name] for name in ordered])]
    for text, of in {"hidden states collapse": collapse, "outputs repeat": repeats}.items():
        values = [float(of.sel(intervention=name)) for name in (ordered[0], ordered[-1])]
        claims.append(falls(f"... and the less {text}, least to largest c", values))
    claims.append(
        falls("the earlier the bias begins, the earlier outputs are right", [steps[name] for name in reversed(starts)])
    )
    for part, sooner in {"KQ": True, "KQOV": True, "MLP": False, "embeddings": False}.items():
        if f"{part} copied" in steps:
            copied, name = steps[f"{part} copied"], f"{part} of a trained model, kept"
            if sooner:
                claims.append(
                    at_most(
                        name, section, "most of the plateau is gone", copied / without, 0.5, "step over that of `none`"
                    )
                )
            else:
                claims.append(
                    at_least(name, section, "the plateau stays", copied / without, 0.5, "step over that of `none`")
                )
                of_random = copied / steps[f"{part} random"]
                claims.append(
                    at_least(
                        "... against the same kept at random",
                        "control",
                        "no earlier",
                        of_random,
                        0.9,
                        "step over that of random ones",
                    )
                )
    return claims
