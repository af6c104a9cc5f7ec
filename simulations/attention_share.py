"""Where does attention matter? Training with attention and without it, over every initialisation scale and width.

The coupled system of Yang, Kailkhura, Wang, Liang (2024), arXiv 2410.09605, from its mean start, on the orbits of its symmetry: sigma0,
sigma1, m and m1 enter in three numbers (derivations/attention_speed.py), and a point of a phase diagram costs milliseconds.
  population.nc       infinitely many sentences: diagrams over m m1 and either sigma0^2 / sigma1^2 or the richness epsilon, by which
                      the readout's rate grows; four regimes, the theorems' and the paper's own among them; other widths, same numbers
  samples.nc          a diagram over m m1 and the number of training sentences
  random.nc           finite random networks
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gradflow.scripts import launch

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr


@dataclass(frozen=True)
class Config:
    preset: Literal["small", "large"] = "small"
    """small: about a minute. large: finer diagrams and more random networks"""
    out: Path = Path("runs/attention_share")
    """folder that receives config.json, the diagrams, claims.json and the pictures"""
    overwrite: bool = False
    """replace the run that the folder holds"""
    seed: int = 0
    """of the random networks: they take the keys seed x seeds to (seed + 1) x seeds - 1, so that no two seeds share one"""
    L: int = 5
    """words in a sentence"""
    end: float = 1e6
    """where to end, in units of 1 / (m m1 (sigma0^2 + sigma1^2)), the time of the readout's initial rate"""
    save_points: int = 61
    """times to save, logarithmically spaced"""
    points: int = 15
    """of a diagram, along each axis"""
    samples: tuple[float, ...] = (24, 60, 240, 2400, 24_000, 6_000_000)
    """training sentences of the diagram over their number: two or more, ascending multiples of 6"""
    n: int = 24
    """training sentences of the random networks, a multiple of 6"""
    seeds: int = 3
    """random networks of each kind"""


PRESETS = {
    "small": Config(),
    "large": Config(preset="large", points=41, seeds=12),
}


def prepare(config: Config) -> tuple:
    """The random networks' task, and the times to save. Refuses what no run is meant for."""
    from gradflow import log_times
    from gradflow.errors import require
    from gradflow.models import orbits
    from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary

    require(config.L >= 3, f"L must be at least 3, got {config.L}.")
    require(config.end > 100, f"end must be later than 100, when Phase 1 is over, got {config.end}.")
    require(config.points >= 2, f"A diagram needs at least 2 points along each axis, got {config.points}.")
    require(config.seeds >= 1, f"seeds must be positive, got {config.seeds}.")
    require(
        len(config.samples) >= 2 and all(a < b < float("inf") for a, b in pairwise(config.samples)),
        f"samples must be at least two finite numbers in ascending order, got {' '.join(f'{n:g}' for n in config.samples)}.",
    )
    orbits.classes(config.samples, config.L)
    task = CoOccurrence(config.n, config.L, least_vocabulary(config.n, config.L))
    return task, log_times(1e-2, config.end, config.save_points)


def solve(config: Config, task, times) -> "Iterator[tuple[str, xr.Dataset]]":
    """Everything trained twice: the three datasets by name, each as soon as it is there."""
    from gradflow.observe.attention import population_parts, random_networks, samples_parts, train_parts

    yield "population", train_parts(population_parts(config.points, config.L), config.L, times=times)
    parts = samples_parts(config.points, config.samples, config.n)
    yield "samples", train_parts(parts, config.L, times=times)
    first = config.seed * config.seeds
    yield "random", random_networks(task, times=times, seeds=range(first, first + config.seeds))


def measure(config: Config) -> "xr.Dataset":
    """What a sweep keeps of one run: the claims, and what attention does in four regimes. A flow that does not end well raises."""
    from gradflow.dynamics import progress
    from gradflow.theory import claims as ledger
    from gradflow.theory.attention import claims

    with progress.silent():
        datasets = dict(solve(config, *prepare(config)))
    return regimes(datasets["population"]).merge(ledger.dataset(claims(*datasets.values())))


def run(config: Config) -> None:
    """Train everything twice, hold to the theory, draw, and store everything in `config.out`."""
    from gradflow import store
    from gradflow.plotting.attention import draw_all
    from gradflow.theory import claims as ledger
    from gradflow.theory.attention import claims

    prepared = prepare(config)
    folder = store.begin(config.out, asdict(config), overwrite=config.overwrite)
    datasets = {}
    for name, each in solve(config, *prepared):
        store.save(folder, name, each)
        datasets[name] = each

    held = claims(*datasets.values())
    store.save_claims(folder, held)
    pictures = ", ".join(path.name for path in draw_all(*datasets.values(), folder))
    print(f"{table(regimes(datasets['population']))}\n\n{ledger.table(held)}\n\n{ledger.summary(held)}")
    print(f"In {folder}: *.nc, claims.json, {pictures}")


def regimes(population) -> "xr.Dataset":
    """What attention does in four regimes until the end, over `regime`."""
    import xarray as xr

    from gradflow.observe.attention import advantage, attention_share, largest_score, part

    names = ("theorems", "experiment", "large values", "rich")
    ends = [part(population, name).isel(time=-1, member=0) for name in names]
    columns = {
        "values": (lambda end: end["values"], "sigma0^2 / (sigma0^2 + sigma1^2)"),
        "richness": (lambda end: end["richness"], "4 / (m^2 m1 (sigma0^2 + sigma1^2)^2)"),
        "size": (lambda end: end["size"], "m m1"),
        "largest_score": (largest_score, "largest change of a score A / sqrt(m) among the signals"),
        "advantage": (advantage, "loss with W_K and W_Q frozen over loss"),
        "attention_share": (attention_share, "part of W_K and W_Q in the fall of the loss"),
    }
    return xr.Dataset(
        {
            name: ("regime", [float(of(end)) for end in ends], {"long_name": text, "units": "1"})
            for name, (of, text) in columns.items()
        },
        {"regime": ("regime", list(names), {"long_name": "initialisation and width"})},
    )


def table(regimes) -> str:
    """The regimes, a line each."""
    lines = [
        "regime           values    richness  m m1    largest score  loss frozen / loss  attention's part of the fall"
    ]
    for name, *numbers in zip(regimes["regime"].values, *(each.values for each in regimes.values()), strict=True):
        values, richness, size, score, gain, share = numbers
        lines.append(
            f"{name:<15}  {values:<8.3g}  {richness:<8.3g}  {size:<6.0f}  {score:<13.3g}  {gain:<18.5g}  {share:.2g}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    launch(run, PRESETS, __doc__)
