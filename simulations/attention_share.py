"""Where does attention matter? Training with attention and without it, over every initialisation scale and width.

The coupled system of Yang, Kailkhura, Wang, Liang (2024), arXiv 2410.09605, from its mean start, on the orbits of its symmetry: sigma0,
sigma1, m and m1 enter in three numbers (derivations/attention_speed.py), and a point of a phase diagram costs milliseconds.
  population.nc       infinitely many sentences: diagrams over m m1 and either sigma0^2 / sigma1^2 or the richness epsilon, by which
                      the readout's rate grows; four regimes, the theorems' and the paper's own among them; other widths, same numbers
  samples.nc          a diagram over m m1 and the number of training sentences
  random.nc           finite random networks
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from gradflow.scripts import launch


@dataclass(frozen=True)
class Config:
    preset: Literal["small", "large"] = "small"
    """small: about a minute. large: finer diagrams and more random networks"""
    out: Path = Path("runs/attention_share")
    """folder that receives config.json, the diagrams, claims.json and the pictures"""
    overwrite: bool = False
    """replace the run that the folder holds"""
    L: int = 5
    """words in a sentence"""
    end: float = 1e6
    """where to end, in units of 1 / (m m1 (sigma0^2 + sigma1^2)), the time of the readout's initial rate"""
    save_points: int = 61
    """times to save, logarithmically spaced"""
    points: int = 15
    """of a diagram, along each axis"""
    samples: tuple[float, ...] = (24, 60, 240, 2400, 24_000, 6_000_000)
    """training sentences of the diagram over their number, multiples of 6"""
    n: int = 24
    """training sentences of the random networks, a multiple of 6"""
    seeds: int = 3
    """random networks of each kind"""


PRESETS = {
    "small": Config(),
    "large": Config(preset="large", points=41, seeds=12),
}


def run(config: Config) -> None:
    """Train everything twice, hold to the theory, draw, and store everything in `config.out`."""
    import numpy as np

    import gradflow
    from gradflow import store
    from gradflow.errors import require
    from gradflow.models.cooccurrence import entry_scales
    from gradflow.observe.attention import (
        RANDOM_NUMBERS,
        advantage,
        attention_share,
        largest_score,
        random_networks,
        with_and_without,
    )
    from gradflow.plotting.attention import draw_all
    from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary
    from gradflow.theory import claims as ledger
    from gradflow.theory.attention import Groups, claims, groups

    require(config.L >= 3, f"L must be at least 3, got {config.L}.")
    require(config.end > 100, f"end must be later than 100, when Phase 1 is over, got {config.end}.")
    require(config.points >= 2, f"A diagram needs at least 2 points along each axis, got {config.points}.")
    require(config.seeds >= 1, f"seeds must be positive, got {config.seeds}.")
    task = CoOccurrence(config.n, config.L, least_vocabulary(config.n, config.L))
    times = gradflow.log_times(1e-2, config.end, config.save_points)
    folder = store.begin(config.out, asdict(config), overwrite=config.overwrite)

    def pairs(others):
        return (each.ravel() for each in np.meshgrid(np.geomspace(8, 2**17, config.points), others))

    def train(name, parts, **each_labelled):
        """All parts in one ensemble, with the part that each member belongs to."""
        labels = np.concatenate([[part] * np.size(given.size) for part, given in parts.items()])
        columns = zip(*parts.values(), strict=True)
        members = Groups(*(np.concatenate([np.atleast_1d(each) for each in column]) for column in columns))
        trained = with_and_without(
            members, config.L, times=times, **{key: of(labels) for key, of in each_labelled.items()}
        )
        trained = trained.assign_coords(part=("member", labels))
        store.save(folder, name, trained)
        return trained

    size, ratio = pairs(np.geomspace(1e-4, 1e4, config.points))
    parts = {"scales": Groups(ratio / (1 + ratio), np.full_like(size, 1e-6), size)}
    size, richness = pairs(np.geomspace(1e-6, 1e4, config.points))
    parts["richness"] = Groups(np.full_like(size, 0.5), richness, size)
    for name, m, m1, initialisation in (("theorems", 1024, 32, "paper"), ("experiment", 128, 256, "kaiming_normal")):
        sigma0, sigma1 = entry_scales(initialisation, m=m, m1=m1, d=64, L=config.L)
        parts[name] = groups(m=m, m1=m1, sigma0=sigma0, sigma1=sigma1)
    parts |= {"large values": Groups(0.99, 1e-3, 16.0), "rich": Groups(0.5, 1e2, 16.0)}
    parts["rich, m1 = 3"] = parts["rich"]
    population = train("population", parts, m1=lambda labels: np.where(labels == "rich, m1 = 3", 3.0, 1.0))
    size, n = pairs(config.samples)
    parts = {"samples": Groups(np.full_like(size, 0.99), np.full_like(size, 1e-2), size), "mean start": RANDOM_NUMBERS}
    samples = train("samples", parts, n=lambda labels: np.append(n, [config.n] * int((labels == "mean start").sum())))
    networks = random_networks(task, times=times, seeds=config.seeds)
    store.save(folder, "random", networks)

    print(
        "regime           values    richness  m m1    largest score  loss frozen / loss  attention's part of the fall"
    )
    for name in ("theorems", "experiment", "large values", "rich"):
        end = population.isel(time=-1, member=int(np.argmax(population["part"].values == name)))
        shown = (float(each(end)) for each in (largest_score, advantage, attention_share))
        print(
            f"{name:<15}  {{:<8.3g}}  {{:<8.3g}}  {{:<6.0f}}  {{:<13.3g}}  {{:<18.5g}}  {{:.2g}}".format(
                *(float(end[c]) for c in ("values", "richness", "size")), *shown
            )
        )
    held = claims(population, samples, networks)
    store.save_claims(folder, held)
    pictures = draw_all(population, samples, networks, folder)
    print(
        f"\n{ledger.table(held)}\n\n{ledger.summary(held)}\nIn {folder}: *.nc, claims.json, {', '.join(path.name for path in pictures)}"
    )


if __name__ == "__main__":
    launch(run, PRESETS, __doc__)
