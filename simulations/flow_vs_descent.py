"""Gradient flow against discrete training: how far apart, why, and which claims of the theory survive which learning rate.

Word co-occurrence (Yang, Kailkhura, Wang, Liang 2024, arXiv 2410.09605), full weights, one training set and one start.
  comparison.nc       distances of descent from flow and what the certificate told of them, orders, conservation laws
  trajectory.nc       gradient flow
  gd_*.nc             gradient descent, from well below the stable learning rate to beyond it
  sgd_*.nc            SGD without replacement, at several batch sizes
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


class Start:
    """The data and the weights that a configuration draws, and what all runs from them share. Refuses what cannot be run."""

    def __init__(self, config: Config):
        import jax

        from gradflow.dynamics.minibatches import Minibatches
        from gradflow.dynamics.sharpness import sharpness
        from gradflow.errors import require
        from gradflow.models import cooccurrence as model
        from gradflow.models import coupled
        from gradflow.observe.comparison import require_comparable
        from gradflow.observe.cooccurrence import Observer
        from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary
        from gradflow.theory import conservation

        rates = config.learning_rates or config.rates
        require(bool(rates) and min(rates) > 0, f"Learning rates must be positive, got {rates}.")
        require(config.end > 0 and config.compared_end > 0, "end and compared_end must be positive times.")
        self.config, self.d = config, least_vocabulary(config.n, config.L) if config.d is None else config.d
        task = CoOccurrence(config.n, config.L, self.d, config.random_words)
        key_data, key_weights, key_held_out, self.key_sgd = jax.random.split(jax.random.key(config.seed), 4)
        self.batch = task.sample(key_data)
        sizes = dict(m=config.m, m1=config.m1, d=self.d, L=config.L, initialisation=config.initialisation)
        scales = model.entry_scales(**sizes)
        self.scales = dict(sigma0=scales[0] if config.sigma0 is None else config.sigma0, sigma1=scales[1])
        self.weights = model.init(key_weights, **sizes, sigma0=self.scales["sigma0"])
        self.initial, self.width = coupled.reduce(self.weights), coupled.width_of(self.weights)
        self.S0 = float(self.initial.S)
        self.sharpness = float(sharpness(model.loss, self.weights, self.batch))
        self.learning_rates = config.learning_rates or tuple(rate / self.sharpness for rate in config.rates)
        require_comparable(config.compared_rates)
        require(config.tolerance > 0, f"tolerance must be a positive distance, got {config.tolerance}.")
        names = {f"{rate:.3g}" for rate in self.learning_rates}
        require(
            len(names) == len(self.learning_rates),
            f"Learning rates must differ in three digits, got {self.learning_rates}.",
        )
        for size in config.batch_sizes:  # refused before anything runs, where it cannot be had
            Minibatches.plan((self.batch,), size, "without_replacement", self.key_sgd)
        observer = Observer(self.initial, task.held_out(key_held_out, config.held_out), sharpness=True)
        self.look = dict(save=observer, invariants=conservation.of_weights)

    def compare(self):
        """The comparison of descents with the flow, and the certificate."""
        from gradflow.models.cooccurrence import loss
        from gradflow.observe.comparison import compare

        config = self.config
        comparison, certificate = compare(
            loss, self.weights, self.batch, rate_times_sharpness=config.compared_rates,
            t_end=config.compared_end / self.S0, tolerance=config.tolerance, invariants=self.look["invariants"],
        )  # fmt: skip
        comparison.attrs |= {"S0": self.S0}
        return comparison, certificate

    def trainings(self) -> "Iterator[tuple[str, xr.Dataset]]":
        """The flow, and every training that is held to the theory: (name, run), each as soon as it is there."""
        import gradflow
        from gradflow.models.cooccurrence import loss

        times = gradflow.log_times(1e-2 / self.S0, self.config.end / self.S0, self.config.save_points)
        flow = gradflow.gradient_flow(loss, self.weights, self.batch, times=times, **self.look)
        yield "trajectory", self.labelled(flow, "flow")
        for rate in self.learning_rates:
            yield f"gd_{rate:.3g}", self.trained(f"GD {rate:.3g}", rate)
        for size in self.config.batch_sizes:
            yield f"sgd_{size}", self.trained(f"SGD {size} of {self.config.n}", min(self.learning_rates), size)

    def trained(self, label, learning_rate, batch_size=None):
        import gradflow
        from gradflow.dynamics.times import log_steps
        from gradflow.models.cooccurrence import loss

        steps = max(int(self.config.end / self.S0 / learning_rate), 1)
        descent = gradflow.descend(
            loss, self.weights, self.batch, learning_rate=learning_rate, steps=steps,
            save_steps=log_steps(steps, self.config.save_points), batch_size=batch_size, key=self.key_sgd, **self.look,
        )  # fmt: skip
        return self.labelled(descent, label, learning_rate, batch_size)

    def labelled(self, trajectory, label, learning_rate=0.0, batch_size=None):
        from gradflow.observe.cooccurrence import dataset

        return dataset(
            trajectory, self.batch, self.initial, self.width, label=label, learning_rate=learning_rate, batch_size=batch_size or self.config.n,
            **self.scales, random_words=self.config.random_words, seed=self.config.seed,
        )  # fmt: skip


def measure(config: Config) -> "xr.Dataset":
    """What a sweep keeps of one run: the claims on the comparison and on every training, and where each training gets to.

    Trainings are called by what the configuration says of them, and not by the learning rates that follow from the seed. A
    descent that diverges is a result, not `complete`; a flow that does not end well raises, and so does a comparison.
    """
    import xarray as xr

    from gradflow.dynamics import progress
    from gradflow.errors import require
    from gradflow.observe.phases import cooccurrence_events
    from gradflow.theory import claims as ledger
    from gradflow.theory import cooccurrence, discretisation

    start = Start(config)
    rates = [f"{rate:.3g}" for rate in config.learning_rates] or [f"{rate:g} / sharpness" for rate in config.rates]
    names = ["flow", *(f"GD {rate}" for rate in rates), *(f"SGD {size}" for size in config.batch_sizes)]
    runs = []
    with progress.silent():
        held = discretisation.claims(start.compare()[0])
        for _, each in start.trainings():
            status = each.attrs["status"]
            if status == "interrupted":
                raise KeyboardInterrupt
            is_flow = not runs
            require(status == "complete" or not is_flow, f"{each.attrs['method']}: {status}.")
            runs.append(each)
    held += [
        ledger.named(claim, name) for name, each in zip(names, runs, strict=True) for claim in cooccurrence.claims(each)
    ]
    columns = {
        "T1_clock": (
            [start.S0 * cooccurrence_events(each)["T1"].time for each in runs],
            "S0 T1, T1 the first time that every sample is right; NaN where that never is",
        ),
        "loss_at_end": ([float(each["loss"][-1]) for each in runs], "training loss at the end"),
        "rate_times_sharpness": (
            [each.attrs["learning_rate"] * float(each["sharpness"].max()) for each in runs],
            "learning rate x largest sharpness along the run",
        ),
        "R_at_end": ([float(each["R"][-1]) for each in runs], "R at the end"),
        "complete": (
            [float(each.attrs["status"] == "complete") for each in runs],
            "1 where the run went to its end, 0 where it diverged",
        ),
    }
    of_runs = {name: ("run", values, {"long_name": text, "units": "1"}) for name, (values, text) in columns.items()}
    return xr.Dataset(of_runs, {"run": ("run", names, {"long_name": "training"})}).merge(ledger.dataset(held))


def run(config: Config) -> None:
    """Compare, train, hold to the theory, draw, and store everything in `config.out`."""
    from gradflow import store
    from gradflow.errors import require
    from gradflow.observe.phases import cooccurrence_events, unstable
    from gradflow.plotting.comparison import draw_all
    from gradflow.theory import claims as ledger
    from gradflow.theory import cooccurrence, discretisation

    start = Start(config)
    S0 = start.S0
    folder = store.begin(config.out, asdict(config), overwrite=config.overwrite)
    print(
        f"n = {config.n}, L = {config.L}, d = {start.d}, m = {config.m}, m1 = {config.m1}: S0 = {S0:.4g}, sharpness {start.sharpness:.4g}\n"
    )

    comparison, certificate = start.compare()
    store.save(folder, "comparison", comparison)
    held = discretisation.claims(comparison)
    print(f"{certificate}\n{certificate.flow.trust()}\n\n{ledger.table(held)}\n")

    runs, verdicts = {}, {}
    for name, each in start.trainings():
        store.save(folder, name, each)
        label = each.attrs["label"]
        require(each.attrs["status"] != "interrupted", f"{label} interrupted. What was done is in {folder}.")
        runs[name], verdicts[label] = each, cooccurrence.claims(each)

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
