"""Loss plateaus: a small transformer learns an algorithmic task all of a sudden, and what happens before it does.

Gopalani and Hu (2025), arXiv 2506.13688. Every step sees fresh sequences. Trained once for each of several seeds:
  trajectory.nc   losses by token, accuracy by output, repetition, collapse of hidden states, attention progress and maps, over seed and step
  summary.nc      the numbers of each seed: levels, and when outputs, attention and the plateau change
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gradflow.scripts import launch

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

    from gradflow.models.transformer import Transformer
    from gradflow.tasks.sequences import Task

# of the paper, where not one layer and no clipping
LAYERS = {"permutation": 2, "histogram": 2}
CLIP = {"histogram": 1.0}


@dataclass(frozen=True)
class Config:
    preset: Literal["small", "paper"] = "small"
    """small: half a minute. paper: the paper's sizes (n = 16, width 256), minutes a seed"""
    out: Path = Path("runs/loss_plateau")
    """folder that receives config.json, the trajectories, claims.json, the pictures and checkpoints of unfinished seeds"""
    overwrite: bool = False
    """replace the run that the folder holds"""
    seed: int = 0
    """of the weights and the data"""
    seeds: int = 8
    """trainings, from --seed on"""
    task: str = "window_sum"
    """what is learned: window_sum, prefix_sum, ...; a name that is none lists them"""
    sizes: Literal["small", "paper"] = "small"
    """of the task, where n, p and k do not say"""
    n: int | None = None
    """inputs"""
    p: int | None = None
    """modulus"""
    k: int | None = None
    """numbers in a window"""
    layers: int | None = None
    """layers (default: the paper's for this task)"""
    heads: int = 1
    """attention heads"""
    width: int = 64
    """channels; the MLP has four times as many units"""
    attention: Literal["linear", "softmax"] = "linear"
    """linear: scores weigh the values as they are"""
    optimizer: str = "adam"
    """adam, adamw, sgd, momentum, rmsprop, muon or sign"""
    learning_rate: float = 1.5e-3
    """its largest value"""
    warm_up: int = 0
    """steps over which it grows from 0"""
    cosine_decay: bool = False
    """let it fall to 0 again until the end"""
    clip: float | None = None
    """largest norm of the gradient (default: the task's in the paper; histogram has 1)"""
    steps: int = 300
    """training steps"""
    batch_size: int = 64
    """fresh sequences a step"""
    held_out: int = 64
    """fresh sequences for each save point"""
    save_every: int = 5
    """steps between save points"""
    bias: float = 1.0
    """the attention map's optimal entries are multiplied by this, in training and evaluation"""
    bias_from: int = 0
    """step from which they are"""

    def task_at_size(self) -> "Task":
        """The task, with the sizes that were asked for. Raises `InputError` where there is none of that name or size."""
        from gradflow.errors import require
        from gradflow.tasks.sequences import PAPER, SMALL

        tasks = {"small": SMALL, "paper": PAPER}[self.sizes]
        require(self.task in tasks, f"Unknown task {self.task!r}; known are {', '.join(tasks)}.")
        task = tasks[self.task]
        said = {name: getattr(self, name) for name in ("n", "p", "k") if getattr(self, name) is not None}
        for name in said:
            require(name in asdict(task), f"{self.task} has no {name}; it has {', '.join(asdict(task))}.")
        return replace(task, **said)


PRESETS = {
    "small": Config(),
    "paper": Config(
        preset="paper", sizes="paper", width=256, learning_rate=1e-4, steps=400, batch_size=256, seeds=1, save_every=10
    ),
}


def prepare(config: Config, seed: int) -> "Callable[..., tuple[xr.Dataset, Transformer]]":
    """One training, to be called for what is observed and the trained weights. Raises `InputError` for what cannot be run."""
    import jax

    from gradflow.dynamics.recipes import Recipe
    from gradflow.errors import require
    from gradflow.models import transformer
    from gradflow.observe import loss_plateau

    task = config.task_at_size()
    for name in ("batch_size", "held_out"):
        require(getattr(config, name) >= 1, f"{name} must be a positive number of sequences, got {getattr(config, name)}.")  # fmt: skip
    require(0 < config.learning_rate < inf, f"learning_rate must be positive, got {config.learning_rate}.")
    require(isfinite(config.bias), f"bias must be a number, got {config.bias}.")
    loss_plateau.save_points(config.steps, config.save_every)
    key_weights, key_data = jax.random.split(jax.random.key(seed))
    weights = transformer.init(
        key_weights, vocabulary=task.vocabulary, context=task.length, layers=LAYERS.get(config.task, 1) if config.layers is None else config.layers,
        heads=config.heads, width=config.width, attention=config.attention,
    )  # fmt: skip
    cosine_to = config.steps if config.cosine_decay else None
    clip = CLIP.get(config.task) if config.clip is None else config.clip
    recipe = Recipe(config.optimizer, config.warm_up, cosine_to, clip)
    return partial(
        loss_plateau.train, task, weights, key_data, optimizer=recipe, learning_rate=config.learning_rate, steps=config.steps,
        batch_size=config.batch_size, held_out=config.held_out, save_every=config.save_every,
        bias=config.bias, bias_from=config.bias_from,
    )  # fmt: skip


def measure(config: Config) -> "xr.Dataset":
    """What a sweep keeps of the training of `seed`: its numbers, and the curves."""
    from gradflow.dynamics import progress
    from gradflow.observe.loss_plateau import curves, summary

    with progress.silent():
        run, _ = prepare(config, config.seed)()
    return summary(run, config.task_at_size()).merge(curves(run))


def run(config: Config) -> None:
    """Train, hold to the theory, draw, and store everything in `config.out`. What was interrupted goes on with the same flags."""
    import xarray as xr

    from gradflow import store
    from gradflow.errors import require
    from gradflow.observe.loss_plateau import summary, table
    from gradflow.plotting.loss_plateau import draw_all
    from gradflow.theory import claims as ledger
    from gradflow.theory.loss_plateau import claims

    require(config.seeds >= 1, f"seeds must be positive, got {config.seeds}.")
    task = config.task_at_size()
    seeds = range(config.seed, config.seed + config.seeds)
    trainings = [prepare(config, seed) for seed in seeds]
    folder = store.begin(config.out, asdict(config), overwrite=config.overwrite, unfinished="seed_*.npz")
    checkpoints = [folder / f"seed_{seed}.npz" for seed in seeds]
    runs = [train(checkpoint=each)[0] for train, each in zip(trainings, checkpoints, strict=True)]
    numbers = [summary(each, task) for each in runs]
    over = xr.Variable("seed", list(seeds), {"long_name": "seed of weights and data", "units": "1"})
    trained, numbers = (xr.concat(each, over, combine_attrs="drop_conflicts") for each in (runs, numbers))
    store.save(folder, "trajectory", trained)
    store.save(folder, "summary", numbers)
    held = claims(numbers)
    store.save_claims(folder, held)
    for checkpoint in checkpoints:
        checkpoint.unlink()
    pictures = ", ".join(path.name for path in draw_all(trained, numbers, folder))
    print(f"{table(numbers)}\n\n{ledger.table(held)}\n\n{ledger.summary(held)}")
    print(f"In {folder}: *.nc, claims.json, {pictures}")


if __name__ == "__main__":
    launch(run, PRESETS, __doc__)
