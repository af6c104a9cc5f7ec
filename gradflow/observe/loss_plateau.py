"""One training on a sequence task, watched, and what of it is compared over seeds: levels of the loss, and when things happen.

Gopalani and Hu (2025), arXiv 2506.13688: the plateau, what is right before it ends, how outputs repeat and hidden states collapse on it, and
by how much attention is ahead of the drop.
"""

import math
from collections.abc import Callable

import jax
import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from gradflow.dynamics import descend
from gradflow.errors import require
from gradflow.interventions.attention_bias import Biased, WithStrength
from gradflow.models import transformer
from gradflow.models.transformer import Transformer
from gradflow.observe.phases import NEVER, first_upward_crossing
from gradflow.observe.plateaus import find_plateau, half_rise, lead
from gradflow.observe.sequences import Observer, dataset, repetition
from gradflow.tasks.sequences import Fresh, Task

SAMPLE = 65_536  # sequences that tell how often the data repeat themselves
LEVELS = {
    "initial": "all tokens equally likely",
    "marginal": "all outputs at their marginals",
    "plateau": "the first outputs right",
    "floor": "all outputs right",
}


def train(
    task: Task,
    weights: Transformer,
    key: PRNGKeyArray,
    *,
    optimizer: Callable,
    learning_rate: float,
    steps: int,
    batch_size: int,
    held_out: int = 64,
    save_every: int = 5,
    bias: float = 1.0,
    bias_from: int = 0,
    **options,
) -> tuple[xr.Dataset, Transformer]:
    """Train weights on fresh sequences of a task and observe them on other fresh ones; returns the dataset and the trained weights.

    optimizer   as in `descend`
    bias        attention maps are biased by this on their optimal entries, from step `bias_from` on (`interventions.attention_bias`)
    options     of `descend`, such as `checkpoint`

    Raises `InputError` where training does not end well, and as `save_points`.
    """
    key_train, key_held_out = jax.random.split(key)
    streams = {"stream": Fresh(task, batch_size, key_train), "held_out": Fresh(task, held_out, key_held_out)}
    tap_for = transformer.no_tap
    if bias != 1:
        streams = {name: WithStrength(stream, bias, bias_from) for name, stream in streams.items()}
        tap_for = Biased(task)
    run = descend(
        transformer.Loss(tap_for), weights, **streams, optimizer=optimizer, learning_rate=learning_rate, steps=steps,
        save_steps=save_points(steps, save_every), save=Observer(task, tap_for), **options,
    ).require_complete()  # fmt: skip
    return dataset(run, task, weights, learning_rate, width=weights.head.shape[0]), run.final


def save_points(steps: int, save_every: int) -> Int[np.ndarray, " T"]:
    """The steps at which a training is observed: 0, every `save_every`-th, and the last. Raises `InputError` for fewer than `summary` takes."""
    require(save_every >= 1, f"save_every must be a positive number of steps, got {save_every}.")
    points = np.unique(np.append(np.arange(0, steps, save_every), steps))
    require(
        points.size >= 8,
        f"A plateau is looked for in 8 save points or more; {steps} steps have {points.size} with save_every = {save_every}.",
    )
    return points


def summary(run: xr.Dataset, task: Task) -> xr.Dataset:
    """The numbers of one training (`run` has no dimension but those of `observe.sequences.dataset`); NaN for what did not happen.

    On the plateau means from start to end of the one before the largest drop (`find_plateau`). The first outputs are those that are said to be right on it, as many as
    `task.losses.first`: where it is 0, every moment on the plateau will do, and where it is None, none. Attention progress is `progress`.
    """
    step = run["step"].values.astype(float)
    loss = run["loss"].values
    by_output = run["accuracy"].transpose("step", "output").values
    accuracy, attention = by_output.mean(axis=1), progress(run).values
    count = task.losses.first
    begun = first_upward_crossing(step, by_output[:, : count or 1].max(axis=1), 0.5).time
    first = math.nan if count is None else first_upward_crossing(step, by_output[:, :count].min(axis=1, initial=1), 0.5).time  # fmt: skip
    known = first_upward_crossing(step, accuracy, 0.5).time
    half, ahead = half_rise(step, accuracy).time, lead(step, attention, accuracy)
    if not math.isfinite(known):  # a rise that leads nowhere has no middle
        half, ahead = math.nan, NEVER
    plateau = find_plateau(step, loss, floor=task.losses.floor)
    during = (step >= plateau.start.time) & (step <= plateau.end.time)
    cosine, repeats = run["cosine"].sel(place="final").values, run["repetition"].values
    sample = task.sample(jax.random.key(0), SAMPLE)
    late = slice(-max(len(step) // 10, 1), None)
    values = {
        "loss_initial": (loss[0], "loss at the start", "nat"),
        "loss_marginal": (slowest(step, loss, step < begun), "loss where it falls slowest before a first output is right", "nat"),
        "loss_plateau": (slowest(step, loss, during & (step >= first)), "loss where it falls slowest on the plateau, the first outputs right", "nat"),
        "loss_floor": (np.median(loss[late]), "loss at the end, median over the last tenth", "nat"),
        "first_known": (first if count else math.nan, "step from which each first output is right in half of the sequences", "1"),
        "accuracy_half": (half, "step at which the accuracy has made half of its rise", "1"),
        "accuracy_50": (known, "step from which half of the outputs are right", "1"),
        "accuracy_99": (first_upward_crossing(step, accuracy, 0.99).time, "step from which 99 % of the outputs are right", "1"),
        "accuracy_end": (accuracy[-1], "share of right outputs at the end", "1"),
        "progress_half": (half_rise(step, attention).time, "step at which attention progress has made half of its rise", "1"),
        "lead": (ahead.time, "steps by which attention is ahead of accuracy, at half of the rise", "1"),
        "lead_error": (ahead.error, "its error", "1"),
        "plateau_start": (plateau.start.time, "step at which the plateau that is found begins", "1"),
        "plateau_end": (plateau.end.time, "step at which it ends; so far, where it is censored", "1"),
        "plateau_length": (plateau.length.time, "steps that it lasts; so far, where it is censored", "1"),
        "plateau_censored": (plateau.censored if plateau.found else math.nan, "1 where it has not ended when training does, else 0", "1"),
        "plateau_level": (plateau.level.value, "its mean loss", "nat"),
        "drop": (plateau.drop.time, "step at which half of the drop after it is done", "1"),
        "cosine_plateau": (_median(cosine[during]), "median cosine between final hidden states on the plateau", "1"),
        "cosine_end": (np.median(cosine[late]), "cosine between final hidden states at the end", "1"),
        "repetition_plateau": (_median(repeats[during]), "median repetition frequency on the plateau", "1"),
        "repetition_end": (np.median(repeats[late]), "repetition frequency at the end", "1"),
        "repetition_data": (float(repetition(sample[:, task.prompt :])), "repetition frequency of the data", "1"),
    }  # fmt: skip
    values["told_start"] = (random_head(task, run.attrs.get("width", math.nan)), "closed form of the loss: random head, not trained", "nat")  # fmt: skip
    for name in LEVELS:
        values[f"told_{name}"] = (
            getattr(task.losses, name, math.nan),
            f"closed form of the loss: {LEVELS[name]}",
            "nat",
        )
    return xr.Dataset(
        {name: ((), float(value), {"long_name": text, "units": units}) for name, (value, text, units) in values.items()}
    )


def random_head(task: Task, width: int) -> float:
    """The expected loss of an untrained model: ln V and half the variance of logits over tokens.

    The final norm makes hidden states of `width` channels with variance 1, a head of N(0, s^2) logits of variance width s^2, and to
    second order E[ln mean exp z - z] is half their sample variance, ln V + width s^2 (1 - 1/V) / 2. NaN where the width is.
    """
    return task.losses.initial + width * transformer.INITIAL_SCALE**2 / 2 * (1 - 1 / task.vocabulary)


def strategy(run: xr.Dataset) -> int:
    """The index of the way to solve the task that attention takes: its progress, mean over layers, rises most from start to end."""
    by_strategy = run["progress"].mean("layer")
    return int((by_strategy.isel(step=-1) - by_strategy.isel(step=0)).argmax("strategy"))


def progress(run: xr.Dataset) -> Float[xr.DataArray, " T"]:
    """Attention progress of this `strategy`, mean over the layers of which something is asked."""
    return run["progress"].isel(strategy=strategy(run)).mean("layer")


def curves(run: xr.Dataset) -> xr.Dataset:
    """The curves of one training that a sweep keeps: one number a save point."""
    kept = run[["loss", "repetition", "agreement", "entropy"]]
    named = {
        "accuracy": (run["accuracy"].mean("output"), "share of right outputs"),
        "progress": (progress(run), "attention progress, mean over layers"),
        "cosine": (run["cosine"].sel(place="final"), "mean cosine between final hidden states of output rows"),
    }
    for name, (values, text) in named.items():
        kept[name] = values.variable
        kept[name].attrs = {"long_name": text, "units": "1"}
    return kept.drop_vars([name for name in kept.coords if name != "step"], errors="ignore").astype(float)


def table(summary: xr.Dataset) -> str:
    """The numbers over `seed`, a line each: median, least and largest; a dash where something never came."""
    width = max(len(values.attrs["long_name"]) for values in summary.data_vars.values())
    lines = [f"{'over ' + str(summary.sizes['seed']) + ' seeds':<{width}} {'median':>9} {'least':>9} {'largest':>9}"]
    for values in summary.data_vars.values():
        known = values.fillna(math.inf)
        three = (float(of("seed")) for of in (known.median, known.min, known.max))
        numbers = " ".join(f"{number:>9.4g}" if math.isfinite(number) else f"{'-':>9}" for number in three)
        lines.append(f"{values.attrs['long_name']:<{width}} {numbers}")
    return "\n".join(lines)


def slowest(step: Float[np.ndarray, " T"], loss: Float[np.ndarray, " T"], among: Bool[np.ndarray, " T"]) -> float:
    """The loss, mean of three save points, where it changes least per step; NaN where there is no choice."""
    smooth = np.convolve(np.pad(loss, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    slope = np.where(among, np.abs(np.gradient(smooth, step)), np.inf)
    return float(smooth[np.argmin(slope)]) if among.any() else math.nan


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else math.nan
