"""From a finite random network to infinitely many samples: which limits training tends to, how fast, and where they end.

Word co-occurrence (Yang, Kailkhura, Wang, Liang 2024, arXiv 2410.09605) with unique random words, gradient flow throughout:
  random.nc    random networks of growing width, at the theorems' sigma0 ~ m^-1/2 and at sigma0 ~ m^-1
  orbits.nc    from the mean start, in 236 numbers, from a few samples to six million and to the population
  diagram.nc   the same over samples n and sentence length L, until the gradients' balance R stands still
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
    """small: seconds. large: more samples, seeds and points"""
    out: Path = Path("runs/large_n")
    """folder that receives config.json, the datasets, claims.json and the pictures"""
    overwrite: bool = False
    """replace the run that the folder holds"""
    seed: int = 0
    """of the networks"""
    seeds: int = 16
    """random networks of every width"""
    widths: tuple[int, ...] = (256, 1024, 4096, 16384, 65536, 262144)
    """their attention widths m, ascending"""
    sentences: tuple[int, ...] = (12,)
    """their numbers of training sentences, ascending multiples of 6"""
    samples: tuple[int, ...] = (60, 600, 6000, 60_000, 600_000, 6_000_000)
    """further numbers of training sentences, for the orbit flows alone"""
    L: int = 4
    """words in a sentence"""
    m1: int = 16
    """neurons of the MLP"""
    end: float = 100.0
    """until when flows are compared, in S0 t: time in units of the readout's initial rate"""
    grid: tuple[int, int] = (13, 8)
    """points of the phase diagram, at most: numbers of samples, 12 to 6 000 000, and sentence lengths, 3 to 100"""
    late: float = 1e8
    """where the phase diagram's flows end, in S0 t"""


PRESETS = {
    "small": Config(),
    "large": Config(preset="large", seeds=20, sentences=(6, 12, 24), grid=(41, 25)),
}


def prepare(config: Config) -> tuple:
    """The times of the flows that are compared, and of the phase diagram's. Refuses what cannot be run."""
    from gradflow import log_times
    from gradflow.errors import require
    from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary

    require(config.seeds >= 2, f"A confidence interval needs at least two seeds, got {config.seeds}.")
    for name in ("widths", "sentences", "samples"):
        values = getattr(config, name)
        require(bool(values) and sorted(set(values)) == list(values), f"{name} must be given and ascend, got {values}.")
    require(len(config.widths) >= 2 and config.widths[0] > 0, f"At least two positive widths, got {config.widths}.")
    require(config.sentences[-1] < config.samples[0], "samples go on where sentences end; they must be more.")
    for n in (*config.sentences, *config.samples):
        CoOccurrence(n, config.L, least_vocabulary(n, config.L))
    require(config.m1 > 0, f"m1 must be positive, got {config.m1}.")
    require(min(config.grid) >= 2, f"The phase diagram needs two points each way, got {config.grid}.")
    return log_times(0.1, config.end, 41), log_times(0.1, config.late, 91)


def solve(config: Config, window, late) -> "Iterator[tuple[str, xr.Dataset]]":
    """The three datasets by name, each as soon as it is there."""
    import jax
    import numpy as np

    from gradflow.observe.large_n import POPULATION, diagram, orbit_flows, random_flows

    shared = dict(L=config.L, m1=config.m1, widths=config.widths, times=window)
    key = jax.random.key(config.seed)
    yield "random", random_flows(key, sentences=config.sentences, seeds=config.seeds, **shared)
    every_n = (*config.sentences, *config.samples, POPULATION)
    yield "orbits", orbit_flows(samples=every_n, checked=config.sentences[-1], **shared)
    samples, lengths = (
        np.unique(np.round(np.geomspace(first, last, points)).astype(int))
        for first, last, points in ((2, 1_000_000, config.grid[0]), (3, 100, config.grid[1]))
    )
    yield "diagram", diagram(samples=6 * samples, lengths=lengths, m=config.widths[-1], m1=config.m1, times=late)


def measure(config: Config) -> "xr.Dataset":
    """What a sweep keeps of one run: the claims. A flow that does not end well raises."""
    from gradflow.dynamics import progress
    from gradflow.theory import claims as ledger
    from gradflow.theory.large_n import claims

    with progress.silent():
        return ledger.dataset(claims(**dict(solve(config, *prepare(config)))))


def run(config: Config) -> None:
    """Solve, measure, hold to the theory, draw, and store everything in `config.out`."""
    from gradflow import store
    from gradflow.plotting.large_n import draw_all
    from gradflow.theory import claims as ledger
    from gradflow.theory.large_n import claims

    times = prepare(config)
    folder = store.begin(config.out, asdict(config), overwrite=config.overwrite)
    datasets = {}
    for name, each in solve(config, *times):
        store.save(folder, name, each)
        datasets[name] = each

    held = claims(**datasets)
    store.save_claims(folder, held)
    pictures = draw_all(**datasets, folder=folder)
    print(
        f"\n{ledger.table(held)}\n\n{ledger.summary(held)}\nIn {folder}: datasets (*.nc), claims.json, {', '.join(path.name for path in pictures)}"
    )


if __name__ == "__main__":
    launch(run, PRESETS, __doc__)
