"""What sets the length of a loss plateau? Attention helped and hindered, and parts of a trained model copied, frozen or both.

Gopalani and Hu (2025), arXiv 2506.13688, section 4: moving window sum, one layer. All trainings of a seed see the same data and begin at the
same weights, but for what is copied, which comes from a model that was trained on other data from other weights.
  c = 0.2, ...        attention maps multiplied by c on the entries that the task needs, throughout or from a step on
  KQ copied, ...      a part of a trained model, kept as it is while the rest trains
  KQ random, ...      the same part kept at its random start
interventions.nc holds numbers and curves over intervention and seed.
"""

from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gradflow.scripts import launch

if TYPE_CHECKING:
    import xarray as xr

    from gradflow.tasks.sequences import WindowSum


@dataclass(frozen=True)
class Config:
    preset: Literal["small", "paper"] = "small"
    """small: n = 8, p = 11, width 64, minutes. paper: n = 16, p = 17, width 256, an hour a seed"""
    out: Path = Path("runs/loss_plateau_interventions")
    """folder that receives config.json, interventions.nc, claims.json and the picture"""
    overwrite: bool = False
    """replace the run that the folder holds"""
    seed: int = 0
    """of the weights and the data"""
    seeds: int = 5
    """seeds, from --seed on"""
    n: int = 8
    """inputs"""
    p: int = 11
    """modulus"""
    width: int = 64
    """channels"""
    learning_rate: float = 1.5e-3
    """of Adam"""
    batch_size: int = 64
    """fresh sequences a step"""
    steps: int = 500
    """training steps"""
    donor_steps: int = 1000
    """training steps of the model that parts are copied from"""
    save_every: int = 5
    """steps between save points"""
    strengths: tuple[float, ...] = (0.2, 0.5, 2.5, 10.0)
    """factors c of the attention map's optimal entries"""
    starts: tuple[int, ...] = (25, 50, 75, 100)
    """steps from which the largest of them acts"""
    parts: tuple[str, ...] = ("KQ", "KQOV", "MLP", "embeddings")
    """parts that are copied and frozen"""


PRESETS = {
    "small": Config(),
    "paper": Config(
        preset="paper", n=16, p=17, width=256, learning_rate=1e-4, batch_size=256, steps=800, save_every=10, seeds=1
    ),
}


def prepare(config: Config) -> "WindowSum":
    """The task. Raises `InputError` for what cannot be run."""
    from gradflow.errors import require
    from gradflow.interventions.parts import PARTS
    from gradflow.observe.loss_plateau import save_points
    from gradflow.tasks.sequences import WindowSum

    require(config.seeds >= 1, f"seeds must be positive, got {config.seeds}.")
    require(config.batch_size >= 1, f"batch_size must be a positive number of sequences, got {config.batch_size}.")
    require(0 < config.learning_rate < inf, f"learning_rate must be positive, got {config.learning_rate}.")
    require(bool(config.strengths) or not config.starts, "starts are those of the largest of strengths; give one.")
    for part in config.parts:
        require(part in PARTS, f"Unknown part {part!r}; known are {', '.join(PARTS)}.")
    for steps in (config.steps, config.donor_steps):
        save_points(steps, config.save_every)
    return WindowSum(config.n, config.p)


def train_all(config: Config, seed: int) -> "xr.Dataset":
    """Every intervention on one seed: numbers and curves over `intervention`."""
    import jax
    import xarray as xr

    from gradflow.dynamics.recipes import Recipe
    from gradflow.errors import require
    from gradflow.interventions.parts import PARTS, frozen, transplant
    from gradflow.models import transformer
    from gradflow.observe.loss_plateau import curves, summary, train

    task, adam = prepare(config), Recipe()
    key_weights, key_data, key_donor, key_donor_data = jax.random.split(jax.random.key(seed), 4)

    def begin(key):
        return transformer.init(key, vocabulary=task.vocabulary, context=task.length, width=config.width)

    def learn(weights, key, *, steps=config.steps, optimizer=adam, **bias):
        return train(
            task, weights, key, optimizer=optimizer, learning_rate=config.learning_rate, steps=steps,
            batch_size=config.batch_size, save_every=config.save_every, **bias,
        )  # fmt: skip

    whole, donor = learn(begin(key_donor), key_donor_data, steps=config.donor_steps)
    right = float(whole["accuracy"][-1].mean())
    require(right > 0.99, f"The model to copy from is right in {right:.2f} of the outputs (seed {seed}); it needs more --donor-steps (and --overwrite).")  # fmt: skip
    start = begin(key_weights)
    runs = {"none": learn(start, key_data)}
    for strength in config.strengths:
        runs[f"c = {strength:g}"] = learn(start, key_data, bias=strength)
    for step in config.starts:
        strongest = max(config.strengths)
        runs[f"c = {strongest:g} from {step}"] = learn(start, key_data, bias=strongest, bias_from=step)
    for part in config.parts:
        kept = frozen(adam, start, PARTS[part])
        runs[f"{part} copied"] = learn(transplant(start, donor, PARTS[part]), key_data, optimizer=kept)
        runs[f"{part} random"] = learn(start, key_data, optimizer=kept)
    measured = [summary(run, task).merge(curves(run)) for run, _ in runs.values()]
    names = xr.Variable("intervention", list(runs), {"long_name": "intervention"})
    return xr.concat(measured, names, coords="minimal", combine_attrs="drop_conflicts")


def measure(config: Config) -> "xr.Dataset":
    """What a sweep keeps of one seed: every intervention's numbers and curves."""
    from gradflow.dynamics import progress

    with progress.silent():
        return train_all(config, config.seed)


def run(config: Config) -> None:
    """Train with every intervention, hold to the paper, draw, and store everything in `config.out`.

    Seeds are members of a sweep in `config.out`/members, a process each: what was interrupted goes on with the same flags.
    """
    from gradflow import store
    from gradflow.errors import require
    from gradflow.plotting.loss_plateau_interventions import draw_all
    from gradflow.sweep import Sweep, open_sweep
    from gradflow.sweep import run as run_sweep
    from gradflow.theory import claims as ledger
    from gradflow.theory.loss_plateau import intervention_claims

    prepare(config)
    folder = store.begin(config.out, asdict(config), overwrite=config.overwrite, unfinished="members")
    members = folder / "members"
    base = replace(config, seeds=1)
    done = run_sweep(
        Sweep("simulations.loss_plateau_interventions", seeds=config.seeds, base=base), members, retry_failed=True
    )
    require(not done.failed, "; ".join(f"{name}: {error}" for name, error in done.failed.items()))
    results = open_sweep(members).load().drop_vars(["done", "failed"])
    results.attrs = {}
    results["seed"].attrs = {"long_name": "seed of weights and data", "units": "1"}
    store.save(folder, "interventions", results)
    held = intervention_claims(results)
    store.save_claims(folder, held)
    pictures = ", ".join(path.name for path in draw_all(results, folder))
    print(f"{table(results)}\n\n{ledger.table(held)}\n\n{ledger.summary(held)}")
    print(f"In {folder}: interventions.nc, claims.json, {pictures}")


def table(results) -> str:
    """When the accuracy passes 1/2 and what the plateau is like, an intervention a line: medians over seeds; a dash is never."""
    import numpy as np

    lines = [f"{'intervention':<18} half right at (least, largest)     plateau lasts   cosine   repetition"]
    for name in results["intervention"].values:
        of = results.sel(intervention=name)
        half = of["accuracy_50"].fillna(np.inf)
        numbers = half.median(), half.min(), half.max(), *(of[each].median() for each in ("plateau_length", "cosine_plateau", "repetition_plateau"))  # fmt: skip
        middle, least, largest, lasts, cosine, repeats = (
            f"{float(each):.3g}" if np.isfinite(each) else "-" for each in numbers
        )
        lines.append(f"{name:<18} {middle:>15} {f'({least}, {largest})':<17} {lasts:>14} {cosine:>8} {repeats:>12}")
    return "\n".join(lines)


if __name__ == "__main__":
    launch(run, PRESETS, __doc__)
