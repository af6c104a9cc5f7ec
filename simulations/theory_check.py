"""The claims ledger: every theorem and lemma of the co-occurrence paper against a grid of runs, each with a verdict.

Yang, Kailkhura, Wang, Liang (2024), arXiv 2410.09605. The coupled system is exact at every width and costs the same at
each, so that the constants in the paper's O(.), Theta(.) and Omega(.) can be followed over decades. From a base setting,
n, L, m, m1 and the scale of W are varied one by one, from the start of Condition 1 and from one so small that |F(0)| <= 0.01.
  grid.nc      the runs in a few numbers each, over (setting, seed)
  ledger.md    the verdicts
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gradflow.scripts import launch

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr


@dataclass(frozen=True)
class Config:
    preset: Literal["small", "paper"] = "small"
    """small: three widths and three n, under a minute. paper: the full grid, minutes"""
    out: Path = Path("runs/theory_check")
    """folder that receives config.json, grid.nc, claims.json, ledger.md and the picture"""
    overwrite: bool = False
    """replace the grid that the folder holds"""
    seed: int = 0
    """of the data and the starts: the grid takes the keys seed x seeds to (seed + 1) x seeds - 1, so that no two seeds share a run"""
    seeds: int = 10
    """runs of each setting, with data and start of their own"""
    n: tuple[int, ...] = (36, 18, 72)
    """training sentences, multiples of 6. The first value of this list and of those below make the base setting"""
    L: tuple[int, ...] = (4,)
    """words in a sentence; n is varied with them, at fixed n / (L - 2). A trend in L is judged where its values span a factor of 4"""
    m: tuple[float, ...] = (65536, 4096, 256)
    """attention width"""
    m1: tuple[float, ...] = (32,)
    """neurons of the MLP"""
    readout: tuple[float, ...] = (1.0,)
    """sigma1 sqrt(m1)"""
    start: tuple[float, ...] = (0.5, 0.001)
    """sigma0 sqrt(L m); everything else is varied for each"""
    end: float = 1e7
    """where to end the flows, in sigma1^2 m m1 t: time in units of the readout's initial rate"""
    save_points: int = 121
    """times to save, logarithmically spaced"""
    held_out: int = 600
    """fresh sentences for the generalisation loss"""
    workers: int = 2
    """runs at a time; settings of different shapes are compiled side by side"""


# of the solver; the absolute tolerance is as much of the smallest scale at the start, that of the scores
RTOL = 1e-6

PRESETS = {
    "small": Config(),
    "paper": Config(
        preset="paper", n=(48, 24, 96, 192), L=(4, 3, 5), m=(2**20, 2**16, 2**12, 2**10, 2**8), m1=(32, 8, 128),
        readout=(1.0, 0.5, 2.0), end=1e8
    ),
}  # fmt: skip


def settings(config: Config) -> list:
    """The base setting, and those that differ from it in one value, for each start; L is varied at fixed n / (L - 2)."""
    from gradflow.errors import require
    from gradflow.observe.scaling import Setting

    lists = {name: getattr(config, name) for name in ("n", "L", "m", "m1", "readout", "start")}
    for name, values in lists.items():
        allowed = len(values) > 0 and min(values, default=0) > 0 and len(set(values)) == len(values)
        require(allowed, f"{name} takes positive and distinct values, got {values}.")
    found = set()
    for start in config.start:
        base = Setting(*(lists[name][0] for name in ("n", "L", "m", "m1")), start, config.readout[0])
        found |= {base._replace(**{name: value}) for name in ("n", "m", "m1", "readout") for value in lists[name]}
        found |= {base._replace(L=L, n=base.n * (L - 2) // (base.L - 2)) for L in config.L if base.L > 2}
    return sorted(found)


def prepare(config: Config) -> tuple:
    """The task of every setting, the times to save in units of the readout's rate, and the seeds. Refuses what cannot be run."""
    from gradflow import log_times
    from gradflow.errors import require
    from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary

    require(config.seeds >= 3, f"Intervals need at least 3 seeds, got {config.seeds}.")
    require(config.end > 100, f"end must leave Phase 1 behind, which lasts until about 13 to 30; got {config.end}.")
    require(config.workers > 0, f"workers must be at least 1, got {config.workers}.")
    require(config.held_out > 0, f"held_out must be a positive number of sentences, got {config.held_out}.")
    tasks = {each: CoOccurrence(each.n, each.L, least_vocabulary(each.n, each.L)) for each in settings(config)}
    first = config.seed * config.seeds
    return tasks, log_times(1e-2, config.end, config.save_points), range(first, first + config.seeds)


def solve(config: Config, tasks, clock, seeds) -> "Iterator[tuple[tuple, str, xr.Dataset | None]]":
    """(setting, seed), how the flow ended, and its record where that is well: for every run, as they are done."""
    import jax

    import gradflow
    from gradflow.dynamics import progress
    from gradflow.models import coupled
    from gradflow.observe.cooccurrence import Observer, dataset
    from gradflow.observe.scaling import record

    def follow(setting, seed):
        task, width = tasks[setting], coupled.Width(float(setting.m), float(setting.m1))
        key_data, key_start, key_held_out = jax.random.split(jax.random.key(seed), 3)
        batch, scales = task.sample(key_data), dict(sigma0=setting.sigma0, sigma1=setting.sigma1)
        initial = coupled.draw(key_start, m=setting.m, m1=setting.m1, d=task.d, L=setting.L, **scales)
        observer = Observer(initial, task.held_out(key_held_out, config.held_out))
        flow = gradflow.gradient_flow(
            coupled.loss, initial, batch, width, field=coupled.field, times=clock / setting.rate,
            save=observer, rtol=RTOL, atol=RTOL * setting.score, show_progress=False,
        )  # fmt: skip
        return flow.status, record(dataset(flow, batch, initial, width, **scales), clock) if flow.complete else None

    by_shape = {}
    for setting, seed in product(tasks, seeds):
        by_shape.setdefault((setting.n, setting.L), []).append((setting, seed))
    # in turns, so that no two workers compile for one shape
    todo = [each for turn in zip_longest(*by_shape.values()) for each in turn if each]
    pool = ThreadPoolExecutor(config.workers)
    try:
        with progress.bar(len(todo), " runs", "grid") as done:
            for each, (status, kept) in zip(todo, pool.map(follow, *zip(*todo, strict=True)), strict=True):
                yield each, status, kept
                done.update()
    finally:
        pool.shutdown(cancel_futures=True)  # who stops listening wants no more of them


def measure(config: Config) -> "xr.Dataset":
    """What a sweep keeps of one grid: its claims. A run that does not end well raises."""
    from gradflow.dynamics import progress
    from gradflow.errors import require
    from gradflow.observe.scaling import grid
    from gradflow.theory import claims as claims_of
    from gradflow.theory.ledger import ledger
    from gradflow.theory.statements import ENTRIES

    tasks, clock, seeds = prepare(config)
    runs = {}
    with progress.silent():
        for (setting, seed), status, kept in solve(config, tasks, clock, seeds):
            require(kept is not None, f"{setting}, seed {seed}: {status}.")
            runs[setting, seed] = kept
    return claims_of.dataset(verdict.claim() for verdict in ledger(grid(runs, seeds), ENTRIES))


def run(config: Config) -> None:
    """Solve every setting for every seed, judge, draw, and store everything in `config.out`."""
    from gradflow import store
    from gradflow.errors import require
    from gradflow.observe.scaling import grid
    from gradflow.plotting.style import write
    from gradflow.plotting.theory_check import one_page
    from gradflow.theory import claims as claims_of
    from gradflow.theory.ledger import ledger, table
    from gradflow.theory.statements import ENTRIES

    tasks, clock, seeds = prepare(config)
    folder = store.begin(config.out, asdict(config), overwrite=config.overwrite)
    runs = {}
    try:
        for (setting, seed), status, kept in solve(config, tasks, clock, seeds):
            if kept is None:
                print(f"left out: {setting}, seed {seed}: {status}")
            else:
                runs[setting, seed] = kept
    except KeyboardInterrupt:
        if not runs:
            raise
        print(f"interrupted: judging the {len(runs)} runs that are done")
    require(bool(runs), "No run of the grid ended well.")
    stacked = grid(runs, seeds)
    store.save(folder, "grid", stacked)
    verdicts = ledger(stacked, ENTRIES)
    claims = [verdict.claim() for verdict in verdicts]
    store.save_claims(folder, claims)
    (folder / "ledger.md").write_text(table(verdicts) + "\n")
    picture = write(one_page(stacked, verdicts), folder / "one_page.png")
    for verdict in verdicts:
        print(f"{verdict.entry.source}: {verdict.entry.name}\n    {verdict.text}")
    print(f"\n{claims_of.summary(claims)}\nIn {folder}: grid.nc, claims.json, ledger.md (with numbers), {picture.name}")


if __name__ == "__main__":
    launch(run, PRESETS, __doc__)
