"""Word co-occurrence: the two phases of a transformer that learns it, as gradient flow, with discrete training over it.

Yang, Kailkhura, Wang, Liang (2024), arXiv 2410.09605. Four flows of the same training set:
  trajectory.nc       gradient flow of W_Q, W_K, W_V and W, all trained together
  coupled.nc          the same flow through the width-independent coupled system: a second route to the same numbers
  infinite_width.nc   the coupled system from its infinite-width start: the theory's curve
  descent.nc          full-batch gradient descent from the same weights
"""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gradflow.errors import InputError
from gradflow.scripts import launch

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Config:
    preset: Literal["small", "paper"] = "small"
    """small: the theorems' regime, about a minute. paper: the sizes of the paper's own experiment (Appendix A)"""
    out: Path = Path("runs/cooccurrence")
    """folder that receives config.json, the trajectories, claims.json and the pictures"""
    overwrite: bool = False
    """replace the run that the folder holds"""
    seed: int = 0
    """of the data and the weights"""
    n: int = 60
    """training sentences, a multiple of 6"""
    L: int = 5
    """words in a sentence"""
    d: int | None = None
    """words in the vocabulary (default: the fewest that unique random words need)"""
    random_words: str = "unique"
    """unique: no random word comes twice (Assumption 2.3); iid: uniform draws"""
    m: int = 1024
    """attention width"""
    m1: int = 32
    """neurons of the MLP"""
    initialisation: str = "paper"
    """paper (Gaussian, Condition 1), kaiming_normal, kaiming_uniform or torch_linear (PyTorch's own)"""
    sigma0: float | None = None
    """standard deviation of the entries of W_Q, W_K, W_V (default: the initialisation's)"""
    sigma1: float | None = None
    """standard deviation of the entries of W (default: the initialisation's)"""
    end: float | None = 1e8
    """where to end the flow, in S0 t: time in units of the readout's initial rate (default: where the descent ends)"""
    save_points: int = 241
    """times to save, logarithmically spaced"""
    method: str = "tsit5"
    """integrator: tsit5, dopri8, kvaerno5, rkc2, auto, RK45, DOP853, LSODA, BDF, Radau or odeint"""
    rtol: float = 1e-6
    """relative tolerance of the integrator"""
    learning_rate: float | None = None
    """of gradient descent (default: a fifth of 1 / sharpness at the start)"""
    steps: int = 2000
    """of gradient descent; 0: none"""
    held_out: int = 600
    """fresh sentences for the generalisation loss"""


PRESETS = {
    "small": Config(),
    "paper": Config(
        preset="paper", d=64, random_words="iid", m=128, m1=256, initialisation="torch_linear", end=None, learning_rate=0.01, steps=30_000
    ),
}  # fmt: skip


class Start:
    """The data and the weights that a configuration draws, and what all runs from them share. Refuses what cannot be run."""

    def __init__(self, config: Config):
        import jax

        from gradflow.dynamics.integrators import solver_of
        from gradflow.errors import require
        from gradflow.models import cooccurrence as model
        from gradflow.models import coupled
        from gradflow.observe.cooccurrence import Observer
        from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary

        solver_of(config.method)
        require(config.steps >= 0, f"steps must be >= 0, got {config.steps}.")
        require(
            config.learning_rate is None or config.learning_rate > 0,
            f"learning_rate must be positive, got {config.learning_rate}.",
        )
        require(
            config.end is not None or config.steps > 0, "Without descent (steps = 0), say where the flow ends: --end."
        )
        d = least_vocabulary(config.n, config.L) if config.d is None else config.d
        task = CoOccurrence(config.n, config.L, d, config.random_words)
        key_data, key_weights, key_held_out = jax.random.split(jax.random.key(config.seed), 3)
        self.config, self.batch = config, task.sample(key_data)
        self.sizes = dict(m=config.m, m1=config.m1, d=d, L=config.L)
        scales = model.entry_scales(config.initialisation, **self.sizes)
        sigma0, sigma1 = (
            scale if given is None else given
            for given, scale in zip((config.sigma0, config.sigma1), scales, strict=True)
        )
        self.scales = dict(sigma0=sigma0, sigma1=sigma1)
        self.weights = model.init(key_weights, **self.sizes, initialisation=config.initialisation, **self.scales)
        self.initial, self.width = coupled.reduce(self.weights), coupled.width_of(self.weights)
        self.S0 = float(self.initial.S)
        self.observer = Observer(self.initial, task.held_out(key_held_out, config.held_out))
        self.solver = dict(method=config.method, rtol=config.rtol)

    @cached_property
    def sharpness(self) -> float:
        from gradflow.dynamics.sharpness import sharpness
        from gradflow.models.cooccurrence import loss

        return float(sharpness(loss, self.weights, self.batch))

    @property
    def learning_rate(self) -> float:
        return 0.2 / self.sharpness if self.config.learning_rate is None else self.config.learning_rate

    @property
    def t_end(self) -> float:
        return self.config.steps * self.learning_rate if self.config.end is None else self.config.end / self.S0

    def coupled_flow(self, state, times):
        """The trajectory of the coupled system from `state`, which changes are taken from."""
        import gradflow
        from gradflow.models import coupled
        from gradflow.theory import conservation

        return gradflow.gradient_flow(
            coupled.loss, state, self.batch, self.width, field=coupled.field, invariants=conservation.of_coupled,
            times=times, save=replace(self.observer, initial=state), **self.solver,
        )  # fmt: skip

    def labelled(self, trajectory, initial=None, **attributes):
        """The dataset of a trajectory from these weights, or from `initial`."""
        from gradflow.observe.cooccurrence import dataset

        described = self.scales | dict(random_words=self.config.random_words, seed=self.config.seed) | attributes
        return dataset(trajectory, self.batch, self.initial if initial is None else initial, self.width, **described)


def measure(config: Config) -> "xr.Dataset":
    """What a sweep keeps of one run: numbers, curves and claims of the coupled flow. A run that does not end well raises."""
    import gradflow
    from gradflow.dynamics import progress
    from gradflow.observe.scaling import record
    from gradflow.theory import claims as ledger
    from gradflow.theory.cooccurrence import claims

    start = Start(config)
    # `end` itself where it is given: S0 t_end is off by rounding, and the clock is to be the same for every seed
    clock = gradflow.log_times(1e-2, start.S0 * start.t_end if config.end is None else config.end, config.save_points)
    with progress.silent():
        flow = start.labelled(start.coupled_flow(start.initial, clock / start.S0).require_complete())
    kept = record(flow, clock)
    numbers = {
        "S0": (start.S0, "readout's rate at the start, |W^T a|^2"),
        "T1_clock": (float(kept["T1"]) * start.S0, "S0 T1; see T1"),
        "loss_at_end": (float(flow["loss"][-1]), "training loss at the end"),
        "generalisation_at_end": (float(flow["generalisation_loss"][-1]), "loss on fresh sentences at the end"),
    }
    kept = kept.assign(
        {name: ((), value, {"long_name": text, "units": "1"}) for name, (value, text) in numbers.items()}
    )
    return kept.merge(ledger.dataset(claims(flow)))


def run(config: Config) -> None:
    """Solve, measure, hold to the theory, draw, and store everything in `config.out`."""
    import numpy as np

    import gradflow
    from gradflow import store
    from gradflow.dynamics.times import log_steps, together
    from gradflow.models import cooccurrence as model
    from gradflow.models import coupled
    from gradflow.observe.phases import cooccurrence_events
    from gradflow.plotting.cooccurrence import draw_all
    from gradflow.theory import claims as ledger
    from gradflow.theory import conservation
    from gradflow.theory.cooccurrence import claims

    start = Start(config)
    S0, learning_rate, sharp = start.S0, start.learning_rate, start.sharpness
    steps = log_steps(config.steps, 121) if config.steps else np.zeros(1, int)
    times = together(
        gradflow.log_times(1e-2 / S0, start.t_end, config.save_points),
        learning_rate * steps[learning_rate * steps <= start.t_end],
    )
    folder = store.begin(config.out, asdict(config), overwrite=config.overwrite)

    def keep(name, trajectory, initial=None, **more):
        labelled = start.labelled(trajectory, initial, **more)
        store.save(folder, name, labelled)
        print(f"{name}\n{trajectory.trust()}\n")
        if not trajectory.complete:
            raise InputError(f"{name} {trajectory.status}. What was done is in {folder}.")
        return labelled

    print(
        f"n = {config.n}, L = {config.L}, d = {start.sizes['d']}, m = {config.m}, m1 = {config.m1}: S0 = {S0:.4g}, sharpness {sharp:.4g}\n"
    )
    look = dict(save=start.observer, invariants=conservation.of_weights)
    flow = keep(
        "trajectory",
        gradflow.gradient_flow(model.loss, start.weights, start.batch, times=times, **look, **start.solver),
    )
    reduced = keep("coupled", start.coupled_flow(start.initial, times))
    mean = coupled.infinite_width_start(**start.sizes, **start.scales)
    runs = {"flow": flow, "infinite_width": keep("infinite_width", start.coupled_flow(mean, times), mean)}
    if config.steps:
        trained = gradflow.descend(
            model.loss, start.weights, start.batch, learning_rate=learning_rate, steps=config.steps, save_steps=steps, **look
        )  # fmt: skip
        runs["descent"] = keep("descent", trained, learning_rate=learning_rate)
        print(f"learning_rate x sharpness at the start = {learning_rate * sharp:.3g} (descent is stable below 2)")

    apart = {name: float(abs(flow[name] - reduced[name]).max()) for name in ("G", "A")}
    print(f"full weights against the coupled system: G differs by at most {apart['G']:.1e}, A by {apart['A']:.1e}\n")
    print("event            S0 t        location +-")
    for name, event in cooccurrence_events(flow).items():
        print(f"{name:<15}  {event.time * S0:<10.6g}  {event.error * S0:.1e}")
    held = claims(flow)
    store.save_claims(folder, held)
    pictures = draw_all(runs, folder)
    print(
        f"\n{ledger.table(held)}\n\n{ledger.summary(held)}\nIn {folder}: trajectories (*.nc), claims.json, {', '.join(path.name for path in pictures)}"
    )


if __name__ == "__main__":
    launch(run, PRESETS, __doc__)
