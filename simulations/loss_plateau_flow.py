"""The loss plateau in continuous time: does it exist in gradient flow and in Adam's flow, where does it end, and what holds it?

One layer of linear attention (Gopalani and Hu 2025, arXiv 2506.13688) learns the moving window sum on ALL its prompts, equally likely:
the loss is that of the population.
  gradient.nc     gradient flow, and descent at two learning rates at the same times; drift of what the flow conserves
  adam.nc         the same of Adam's flow and Adam
  saddle.nc       along the plateau: gradient norm, ends of the Hessian's spectrum, where its lowest direction lives, predicted end
  escape.nc       end of the plateau by initial scale and seed, measured and predicted
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gradflow.scripts import launch

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr


@dataclass(frozen=True)
class Config:
    preset: Literal["small", "large"] = "small"
    """small: a few minutes. large: more scales and seeds"""
    out: Path = Path("runs/loss_plateau_flow")
    """folder that receives config.json, the datasets, claims.json and the pictures"""
    overwrite: bool = False
    """replace the run that the folder holds"""
    seed: int = 0
    """of the initial weights: the keys seed x seeds to (seed + 1) x seeds - 1"""
    n: int = 3
    """numbers of a prompt; there are (p - 1)^n prompts"""
    p: int = 5
    """modulus"""
    width: int = 16
    """channels of the residual stream and of the head"""
    scales: tuple[float, ...] = (0.7, 1.0, 1.4, 2.0)
    """initial scales for which the end of the plateau is found, in units of N(0, 0.02^2), ascending"""
    scaled: Literal["attention", "all"] = "attention"
    """what these scale: W_Q, W_K, W_V, W_O, with all else at 1, or all matrices"""
    scale: float = 2.0
    """of all matrices in the runs that are compared with descent and with Adam"""
    seeds: int = 1
    """random starts of every scale"""
    end: float = 120.0
    """latest time of a gradient flow at scale 1; 1 / scale^2 of it at others, but at least a tenth"""
    adam_end: float = 0.6
    """latest time of Adam's flow: learning rate x steps"""
    rtol: float = 1e-5
    """of the flows"""


PRESETS = {
    "small": Config(),
    "large": Config(preset="large", scales=(0.5, 0.7, 1.0, 1.4, 2.0), seeds=5),
}

GRADIENT_RATES, ADAM_RATES, DECAYS = (1e-3, 5e-4), (1e-3, 2.5e-4), (0.9, 0.999)


def prepare(config: Config) -> tuple:
    """The task and all its sequences. Refuses what cannot be run."""
    from itertools import pairwise

    from gradflow import enable_x64
    from gradflow.errors import require
    from gradflow.tasks.sequences import WindowSum, every_sequence

    enable_x64()
    require(config.seeds >= 1, f"seeds must be positive, got {config.seeds}.")
    require(len(config.scales) >= 2 and config.scales[0] > 0 and all(a < b for a, b in pairwise(config.scales)), "scales must be at least two positive numbers and ascend.")  # fmt: skip
    require(config.scale > 0, f"scale must be positive, got {config.scale}.")
    require(config.end > 1 and config.adam_end > 0, "end must be later than 1, adam_end later than 0.")
    task = WindowSum(config.n, config.p)
    return task, every_sequence(task, limit=4096)


def start(config: Config, scale: float, seed: int, scaled: str = "all"):
    """Random weights in float64, with all matrices `scale` times the usual ones, or those of attention."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from gradflow.models import transformer

    weights = transformer.init(
        jax.random.key(config.seed * config.seeds + seed), vocabulary=config.p + 1, context=2 * config.n,
        width=config.width, dtype=jnp.float64,
    )  # fmt: skip

    def attention(weights):
        return [getattr(weights.layers[0], name) for name in "QKVO"]

    def times(part):
        return jax.tree.map(lambda leaf: scale * leaf if leaf.ndim == 2 else leaf, part)

    return times(weights) if scaled == "all" else eqx.tree_at(attention, weights, times(attention(weights)))


def solve(config: Config, task, batch) -> "Iterator[tuple[str, xr.Dataset]]":
    """The four datasets by name, each as soon as it is there."""
    from math import log

    from gradflow.dynamics.optimizers import Adam
    from gradflow.observe import plateau_flow as observed

    def flow(weights, scale, level):
        return observed.flow_until(level, weights, batch, config.end * max(scale**-2, 0.1), config.rtol)

    weights = start(config, config.scale, 0)
    beyond = flow(weights, config.scale, 0.97 * task.losses.plateau)
    yield "gradient", observed.beside_descent(beyond, batch, GRADIENT_RATES)
    a, b = (-log(decay) / ADAM_RATES[0] for decay in DECAYS)
    yield "adam", observed.adam(weights, batch, Adam(a, b), ADAM_RATES, config.adam_end, config.rtol)
    level = 0.99 * observed.without_attention(batch)
    runs = {
        (scale, seed): flow(start(config, scale, seed, config.scaled), scale, level)
        for scale in config.scales
        for seed in range(config.seeds)
    }
    yield "saddle", observed.saddle(runs[config.scales[0], 0], batch)
    yield "escape", observed.escapes(runs, batch)


def measure(config: Config) -> "xr.Dataset":
    """What a sweep keeps of one run: the claims. A flow that does not end well raises."""
    from gradflow.dynamics import progress
    from gradflow.theory import claims as ledger
    from gradflow.theory.plateau_flow import claims

    with progress.silent():
        prepared = prepare(config)
        return ledger.dataset(claims(prepared[0].losses, **dict(solve(config, *prepared))))


def run(config: Config) -> None:
    """Solve, measure, hold to the theory, draw, and store everything in `config.out`."""
    from gradflow import store
    from gradflow.plotting.loss_plateau_flow import draw_all
    from gradflow.theory import claims as ledger
    from gradflow.theory.plateau_flow import claims

    task, batch = prepare(config)
    folder = store.begin(config.out, asdict(config), overwrite=config.overwrite)
    datasets = {}
    for name, each in solve(config, task, batch):
        each = each.assign_attrs(plateau=task.losses.plateau, marginal=task.losses.marginal, floor=task.losses.floor)
        store.save(folder, name, each)
        datasets[name] = each
    held = claims(task.losses, **datasets)
    store.save_claims(folder, held)
    pictures = ", ".join(path.name for path in draw_all(**datasets, folder=folder))
    print(f"{table(datasets)}\n\n{ledger.table(held)}\n\n{ledger.summary(held)}")
    print(f"In {folder}: *.nc, claims.json, {pictures}")


def table(datasets) -> str:
    """The saddle along the plateau, and the plateau's end by scale."""
    lines = ["time    loss     |grad|    lowest, its error   highest   in attention  growth   predicted end"]
    for _, at in datasets["saddle"].groupby("time"):
        at = at.squeeze()
        share = float(at["share"].sel(group=["Q", "K", "V", "O"]).sum())
        lines.append(f"{float(at['time']):<7.4g} {float(at['loss']):<8.4f} {float(at['gradient']):<9.3g} {float(at['lowest']):<9.4g} {float(at['error']):<9.1g} {float(at['highest']):<9.4g} {share:<13.3f} {float(at['growth']):<8.3g} {float(at['predicted']):.4g}")  # fmt: skip
    lines.append("\nscale   end of the plateau by seed; predicted from 0.5 and from 0.8 of it; gradients")
    for _, at in datasets["escape"].groupby("scale"):
        at = at.squeeze("scale")
        lines.append(f"{float(at['scale']):<7.3g} {at['end'].values.round(3)}  {at['predicted'].sel(part=0.5).values.round(3)}  {at['predicted'].sel(part=0.8).values.round(3)}  {at['evaluations'].values.astype(int)}")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    launch(run, PRESETS, __doc__)
