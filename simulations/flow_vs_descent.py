"""Gradient flow against discrete training: how far apart, why, and which claims of the theory survive which learning rate.

Word co-occurrence (Yang, Kailkhura, Wang, Liang 2024, arXiv 2410.09605), full weights, one training set and one start.
  comparison.nc       distances of descent from flow and what the certificate told of them, orders, conservation laws
  trajectory.nc       gradient flow
  gd_*.nc             gradient descent, from well below the stable learning rate to beyond it
  sgd_*.nc            SGD without replacement, at several batch sizes
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from gradflow.scripts import launch


@dataclass(frozen=True)
class Config:
    preset: Literal["small", "paper"] = "small"
    """small: the theorems' regime at a width where attention moves. paper: the paper's experiment, learning rate 0.01, Kaiming"""
    out: Path = Path("runs/flow_vs_descent")
    """folder that receives config.json, the runs, claims.json and the pictures"""
    overwrite: bool = False
    """replace the run that the folder holds"""
    seed: int = 0
    """of the data, the weights and the minibatches"""
    n: int = 24
    """training sentences, a multiple of 6"""
    L: int = 4
    """words in a sentence"""
    d: int | None = None
    """words in the vocabulary (default: the fewest that unique random words need)"""
    random_words: str = "unique"
    """unique: no random word comes twice (Assumption 2.3); iid: uniform draws"""
    m: int = 64
    """attention width"""
    m1: int = 16
    """neurons of the MLP"""
    initialisation: str = "paper"
    """paper (Gaussian, Condition 1), kaiming_normal, kaiming_uniform or torch_linear (PyTorch's own)"""
    sigma0: float | None = 0.003
    """standard deviation of the entries of W_Q, W_K, W_V (default: the initialisation's)"""
    compared_rates: tuple[float, ...] = (0.2, 0.1, 0.05, 0.018)
    """learning rate x largest sharpness along the flow, of the descents whose distance from it is measured"""
    compared_end: float = 300.0
    """until when it is measured, in S0 t: time in units of the readout's initial rate"""
    tolerance: float = 1e-3
    """distance from the flow that the certificate is to allow"""
    rates: tuple[float, ...] = (0.1, 0.5, 1.0, 1.5, 1.9, 2.5, 4.0)
    """learning rate x sharpness at the start of the descents that are held to the theory"""
    learning_rates: tuple[float, ...] = ()
    """their learning rates, instead of `rates`"""
    batch_sizes: tuple[int, ...] = (12, 4, 1)
    """samples in a minibatch of SGD, at the smallest of the learning rates"""
    end: float = 3000.0
    """where all of these end, in S0 t"""
    save_points: int = 161
    """times to save, logarithmically spaced"""
    held_out: int = 600
    """fresh sentences for the generalisation loss"""


PRESETS = {
    "small": Config(),
    "paper": Config(
        preset="paper", n=60, L=5, d=64, random_words="iid", m=128, m1=256, initialisation="kaiming_normal",
        sigma0=None, compared_end=150.0, learning_rates=(0.001, 0.003, 0.01), batch_sizes=(30, 6), end=3300.0,
    ),
}  # fmt: skip


def run(config: Config) -> None:
    """Compare, train, hold to the theory, draw, and store everything in `config.out`."""
    import jax

    import gradflow
    from gradflow import store
    from gradflow.dynamics.minibatches import Minibatches
    from gradflow.dynamics.sharpness import sharpness
    from gradflow.dynamics.times import log_steps
    from gradflow.errors import require
    from gradflow.models import cooccurrence as model
    from gradflow.models import coupled
    from gradflow.observe.comparison import compare, require_comparable
    from gradflow.observe.cooccurrence import Observer, dataset
    from gradflow.observe.phases import cooccurrence_events, unstable
    from gradflow.plotting.comparison import draw_all
    from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary
    from gradflow.theory import claims as ledger
    from gradflow.theory import conservation, cooccurrence, discretisation

    rates = config.learning_rates or config.rates
    require(bool(rates) and min(rates) > 0, f"Learning rates must be positive, got {rates}.")
    require(config.end > 0 and config.compared_end > 0, "end and compared_end must be positive times.")
    d = least_vocabulary(config.n, config.L) if config.d is None else config.d
    task = CoOccurrence(config.n, config.L, d, config.random_words)
    key_data, key_weights, key_held_out, key_sgd = jax.random.split(jax.random.key(config.seed), 4)
    batch = task.sample(key_data)
    sizes = dict(m=config.m, m1=config.m1, d=d, L=config.L, initialisation=config.initialisation)
    scales = model.entry_scales(**sizes)
    sigma0, sigma1 = scales[0] if config.sigma0 is None else config.sigma0, scales[1]
    weights = model.init(key_weights, **sizes, sigma0=sigma0)
    initial, width = coupled.reduce(weights), coupled.width_of(weights)
    S0, sharp = float(initial.S), float(sharpness(model.loss, weights, batch))
    learning_rates = config.learning_rates or tuple(rate / sharp for rate in config.rates)
    require_comparable(config.compared_rates)
    require(config.tolerance > 0, f"tolerance must be a positive distance, got {config.tolerance}.")
    names = [f"gd_{rate:.3g}" for rate in learning_rates]
    require(len(set(names)) == len(names), f"Learning rates must differ in three digits, got {learning_rates}.")
    for size in config.batch_sizes:  # refused before anything runs, where it cannot be had
        Minibatches.plan((batch,), size, "without_replacement", key_sgd)
    observer = Observer(initial, task.held_out(key_held_out, config.held_out), sharpness=True)
    folder = store.begin(config.out, asdict(config), overwrite=config.overwrite)
    print(
        f"n = {config.n}, L = {config.L}, d = {d}, m = {config.m}, m1 = {config.m1}: S0 = {S0:.4g}, sharpness {sharp:.4g}\n"
    )

    comparison, certificate = compare(
        model.loss, weights, batch, rate_times_sharpness=config.compared_rates,
        t_end=config.compared_end / S0, tolerance=config.tolerance, invariants=conservation.of_weights,
    )  # fmt: skip
    comparison.attrs |= {"S0": S0}
    store.save(folder, "comparison", comparison)
    held = discretisation.claims(comparison)
    print(f"{certificate}\n{certificate.flow.trust()}\n\n{ledger.table(held)}\n")

    runs, verdicts = {}, {}

    def keep(name, trajectory, label, learning_rate=0.0, batch_size=config.n):
        labelled = dataset(
            trajectory, batch, initial, width, label=label, learning_rate=learning_rate, batch_size=batch_size,
            sigma0=sigma0, sigma1=sigma1, random_words=config.random_words, seed=config.seed,
        )  # fmt: skip
        store.save(folder, name, labelled)
        require(trajectory.status != "interrupted", f"{label} interrupted. What was done is in {folder}.")
        runs[name], verdicts[label] = labelled, cooccurrence.claims(labelled)

    look = dict(save=observer, invariants=conservation.of_weights)
    times = gradflow.log_times(1e-2 / S0, config.end / S0, config.save_points)
    keep("trajectory", gradflow.gradient_flow(model.loss, weights, batch, times=times, **look), "flow")

    def train(name, label, learning_rate, batch_size=None):
        steps = max(int(config.end / S0 / learning_rate), 1)
        trained = gradflow.descend(
            model.loss, weights, batch, learning_rate=learning_rate, steps=steps,
            save_steps=log_steps(steps, config.save_points), batch_size=batch_size, key=key_sgd, **look,
        )  # fmt: skip
        keep(name, trained, label, learning_rate, batch_size or config.n)

    for name, rate in zip(names, learning_rates, strict=True):
        train(name, f"GD {rate:.3g}", rate)
    for size in config.batch_sizes:
        train(f"sgd_{size}", f"SGD {size} of {config.n}", min(learning_rates), size)

    header = "rate x sharpness: start, largest; above 2 in S0 t", "S0 T1", "loss at the end", "claims"
    print("{:<14} {:<50} {:>8} {:>16}  {}".format("", *header))
    for each in runs.values():
        label, product = each.attrs["label"], each.attrs["learning_rate"] * each["sharpness"].values
        beyond = S0 * each["time"].values[unstable(each)]
        where = f"{product[0]:.3g}, {product.max():.3g}; " + (
            f"{beyond[0]:.3g} to {beyond[-1]:.3g}" if beyond.size else "never"
        )
        t1, status = cooccurrence_events(each)["T1"].time, each.attrs["status"]
        print(
            f"{label:<14} {where:<50} {S0 * t1:>8.4g} {float(each['loss'][-1]):>16.4g}  {ledger.summary(verdicts[label])}"
            + ("" if status == "complete" else f"; {status}")
        )

    held += [ledger.named(claim, label) for label, claims in verdicts.items() for claim in claims]
    store.save_claims(folder, held)
    pictures = draw_all(comparison, runs, folder)
    print(f"\nIn {folder}: runs (*.nc), claims.json, {', '.join(path.name for path in pictures)}")


if __name__ == "__main__":
    launch(run, PRESETS, __doc__)
