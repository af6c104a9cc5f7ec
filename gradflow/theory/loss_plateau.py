"""What Gopalani and Hu (2025), arXiv 2506.13688, say of loss plateaus, and what the closed forms say, against trainings over several seeds."""

import math
from collections.abc import Callable
from itertools import pairwise

import xarray as xr

from gradflow.observe.loss_plateau import LEVELS
from gradflow.theory.claims import Claim, at_least, at_most, near

REPEATS = 5.0  # times as often as the data
WITHIN = {
    "initial": "one head and batch are off the mean by 0.01 or so",
    "marginal": "passed where it falls slowest: the first outputs are on their way, or inputs not yet at theirs",
    "plateau": "where it falls slowest: the other outputs are on their way",
    "floor": "what is left to learn when training stops",
}
"""Why the loss may be 0.03 nat from each level."""


def claims(summary: xr.Dataset) -> list[Claim]:
    """The claims on the numbers of `observe.loss_plateau.summary` over `seed`; each is judged by the median seed.

    A seed in which something never came counts as the worst; where it never came in half of them, there is no number and no verdict.
    The loss at the start is that of a random head; a plateau whose level is also another one's tells nothing; neither do repetitions
    where the data have none, or so many that five times as many are more than there can be.
    """

    def median(name: str, never: float = -math.inf) -> float:
        value = float(summary[name].fillna(never).median("seed"))
        return value if math.isfinite(value) else math.nan

    paper = "Gopalani and Hu 2025, section {}".format
    told = {name: float(summary[f"told_{name}"][0]) for name in LEVELS} | {"initial": float(summary["told_start"][0])}
    tells = {name: math.isfinite(level) for name, level in told.items()}
    tells["plateau"] &= told["plateau"] not in (told["marginal"], told["floor"])
    data = median("repetition_data")
    repeats = median("repetition_plateau") / data if data > 0 else math.nan
    return [
        *(
            near(f"loss: {text}", "closed form", told[name], median(f"loss_{name}"), 0.03, WITHIN[name], tells[name])
            for name, text in LEVELS.items()
        ),
        at_least("all outputs become right", paper(2), "accuracy > 0.99", median("accuracy_end"), 0.99, "as in its figures"),
        at_least("hidden states collapse on the plateau", paper(3), "cosine > 0.9", median("cosine_plateau"), 0.9, "median on the plateau"),
        at_most("... and are apart at the end", paper(3), "cosine < 0.3", median("cosine_end", math.inf), 0.3, "last tenth"),
        at_least(
            "outputs repeat on the plateau", paper(3), f"{REPEATS:g} x the data's", repeats, REPEATS, "median on the plateau over the data's",
            applies=REPEATS * data < 1,
        ),
        at_least("attention is ahead of the accuracy", paper(4), "by > 0 steps", median("lead"), 0, "each at half of its rise"),
    ]  # fmt: skip


def intervention_claims(results: xr.Dataset) -> list[Claim]:
    """The claims on `simulations.loss_plateau_interventions`, over `intervention` and `seed`; each is judged by median seeds.

    A number is the step from which half of the outputs are right; where that never came, the last one, which it is later than. So a
    ratio to what never came may be smaller than it is here, but no larger; of two that never came none is known.
    """
    last = float(results["step"][-1])
    half = results["accuracy_50"].fillna(math.inf).median("seed").clip(max=last)
    steps = {str(name): float(half.sel(intervention=name)) for name in half["intervention"].values}
    section = "Gopalani and Hu 2025, section 4"
    strengths = {float(name[4:]): name for name in steps if name.startswith("c = ") and "from" not in name} | {
        1.0: "none"
    }
    ordered = [strengths[c] for c in sorted(strengths)]
    starts = sorted((name for name in steps if "from" in name), key=lambda name: int(name.rpartition(" ")[2]))

    def falls(name: str, values: list[float]) -> Claim:
        """Values that fall from one to the next; the number is the largest ratio of neighbours, of those that can be told."""
        pairs = list(pairwise(values))
        told = [b / a for a, b in pairs if a < last or b < a]
        largest, all_told = max(told, default=math.nan), len(told) == len(pairs)
        return at_most(name, section, "each < the one before", largest, 1 - 1e-9, "largest ratio of neighbours", all_told or largest >= 1)  # fmt: skip

    def against(judge: Callable[..., Claim], name: str, source: str, statement: str, of: str, to: str, bound: float) -> Claim:  # fmt: skip
        ratio = steps[of] / steps[to]
        return judge(name, source, statement, ratio, bound, f"step over that of `{to}`", steps[to] < last or ratio < bound)  # fmt: skip

    def measured(name: str, intervention: str, never: float) -> float:
        """The median seed; one that has no plateau counts as the worst."""
        return float(results[name].sel(intervention=intervention).fillna(never).median("seed"))

    claims = [falls("the stronger the bias c, the earlier outputs are right", [steps[name] for name in ordered])]
    for text, name in {"hidden states collapse": "cosine_plateau", "outputs repeat": "repetition_plateau"}.items():
        ends = [measured(name, ordered[0], -math.inf), measured(name, ordered[-1], math.inf)]
        known = ends if all(map(math.isfinite, ends)) else []
        claims.append(falls(f"... and the less {text}, least to largest c", known))
    claims.append(
        falls("the earlier the bias begins, the earlier outputs are right", [steps[name] for name in reversed(starts)])
    )
    for part, sooner in {"KQ": True, "KQOV": True, "MLP": False, "embeddings": False}.items():
        copied, name = f"{part} copied", f"{part} of a trained model, kept"
        if copied in steps and sooner:
            claims.append(against(at_most, name, section, "most of the plateau is gone", copied, "none", 0.5))
        elif copied in steps:
            random = f"{part} random"
            claims.append(against(at_least, name, section, "the plateau stays", copied, "none", 0.5))
            claims.append(against(at_least, "... against the same kept at random", "control", "no earlier", copied, random, 0.9))  # fmt: skip
    return claims
