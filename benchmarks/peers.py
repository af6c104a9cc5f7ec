"""One gradient flow by gradflow's default and by the libraries one would otherwise take: torchdiffeq, scipy, JAX's odeint.

Full weights of word co-occurrence, unique random words, the theorems' initial scales, 51 save points from t = 0, rtol = 1e-6
and atol = 1e-9 for all, 64 bits. Two sizes: n = 60, L = 5, m = 64, m1 = 32 to t = 50, where arithmetic takes the time, and
n = 12, L = 4, m = m1 = 8 to t = 1000, where overhead does. The torch side gathers by word as gradflow does and differentiates
by autograd, with torch's default number of threads and with one; scipy and odeint get gradflow's own compiled gradient.
Everything is compiled before it is timed. Target: at the first size at least 20 times faster than the faster torchdiffeq, and
all end at the same loss to 1e-4.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.ode import odeint
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp

import gradflow
from benchmarks.timing import in_words, interleaved, met, print_table, ratio
from gradflow.models import cooccurrence as model
from gradflow.tasks.cooccurrence import Batch, CoOccurrence, least_vocabulary

RTOL, ATOL = 1e-6, 1e-9
SAVE_POINTS = 51
ROUNDS = 7
OURS = "gradflow tsit5"
TORCH = ("torchdiffeq dopri5", "torchdiffeq dopri5, one thread")

Solver = Callable[[], float]


class Problem(NamedTuple):
    """A flow to solve: where it starts, what it learns from, when to save."""

    weights: model.Weights
    batch: Batch
    times: np.ndarray


def problem(*, n: int, L: int, m: int, m1: int, t_end: float) -> Problem:
    key_data, key_weights = jax.random.split(jax.random.key(0))
    d = least_vocabulary(n, L)
    weights = model.init(key_weights, m=m, m1=m1, d=d, L=L)
    return Problem(weights, CoOccurrence(n=n, L=L, d=d).sample(key_data), gradflow.linear_times(t_end, SAVE_POINTS))


def by_gradflow(weights: model.Weights, batch: Batch, times: np.ndarray) -> Solver:
    def solve() -> float:
        return float(gradflow.gradient_flow(model.loss, weights, batch, times=times, rtol=RTOL, atol=ATOL).loss[-1])

    return solve


def by_scipy(method: str, weights: model.Weights, batch: Batch, times: np.ndarray) -> Solver:
    start, unravel = ravel_pytree(weights)
    loss = jax.jit(lambda flat: model.loss(unravel(flat), batch))
    gradient = jax.jit(jax.grad(lambda flat: model.loss(unravel(flat), batch)))

    def solve() -> float:
        solution = solve_ivp(
            lambda t, y: -np.asarray(gradient(y)),
            (times[0], times[-1]),
            np.asarray(start),
            method,
            t_eval=times,
            rtol=RTOL,
            atol=ATOL,
        )
        return float(loss(solution.y[:, -1]))

    return solve


def by_jax(weights: model.Weights, batch: Batch, times: np.ndarray) -> Solver:
    def velocity(weights, t):
        return jax.tree.map(jnp.negative, jax.grad(model.loss)(weights, batch))

    loss = jax.jit(model.loss)
    flow = jax.jit(lambda weights: odeint(velocity, weights, jnp.asarray(times), rtol=RTOL, atol=ATOL))

    def solve() -> float:
        return float(loss(jax.tree.map(lambda leaf: leaf[-1], flow(weights)), batch))

    return solve


def by_torch(threads: int | None, weights: model.Weights, batch: Batch, times: np.ndarray) -> Solver:
    import torch
    from torchdiffeq import odeint as torch_odeint

    threads = threads or torch.get_num_threads()
    start = tuple(torch.tensor(np.asarray(matrix)) for matrix in (weights.W, weights.W_V, weights.W_K, weights.W_Q))
    a, tokens, label = (torch.tensor(np.asarray(array)) for array in (weights.a, batch.tokens, batch.label))
    key_words, query_words = tokens[:, :, None], tokens[:, None, :]

    def loss(W, W_V, W_K, W_Q):
        G = (a @ W) @ W_V
        A = W_K.T @ W_Q
        attended = torch.softmax(A[key_words, query_words] / len(W_K) ** 0.5, dim=1).sum(dim=2)
        outputs = (attended * G[tokens]).sum(dim=1)
        return torch.nn.functional.softplus(-label * outputs).mean()

    def velocity(t, weights):
        with torch.enable_grad():
            weights = tuple(matrix.detach().requires_grad_() for matrix in weights)
            return tuple(-gradient for gradient in torch.autograd.grad(loss(*weights), weights))

    @torch.no_grad()
    def solve() -> float:
        torch.set_num_threads(threads)
        states = torch_odeint(velocity, start, torch.tensor(times), method="dopri5", rtol=RTOL, atol=ATOL)
        return float(loss(*(matrix[-1] for matrix in states)))

    return solve


def compare(given: Problem, target: float | None) -> list[tuple[str, ...]]:
    """The rows of one problem; `target` is how many times slower torchdiffeq should be."""
    makers = {
        OURS: by_gradflow,
        "jax odeint": by_jax,
        "scipy DOP853": partial(by_scipy, "DOP853"),
        "scipy RK45": partial(by_scipy, "RK45"),
    }
    if find_spec("torch") and find_spec("torchdiffeq"):
        makers |= {TORCH[0]: partial(by_torch, None), TORCH[1]: partial(by_torch, 1)}
    sides = {name: make(*given) for name, make in makers.items()}
    losses = {name: solve() for name, solve in sides.items()}
    seconds = interleaved(sides, ROUNDS)
    slower = {name: ratio(seconds[name], seconds[OURS]) for name in sides}
    rows = [(name, in_words(seconds[name]), f"{slower[name]:.1f}", f"{losses[name]:.8g}", "", "") for name in sides]
    if target and TORCH[0] in sides:
        least = min(slower[name] for name in TORCH)
        rows.append(("the faster torchdiffeq", "", f"{least:.1f}", "", f">= {target:g}", met(least >= target)))
    spread = (max(losses.values()) - min(losses.values())) / losses[OURS]
    return [*rows, ("relative spread of the losses", "", "", f"{spread:.1e}", "<= 1e-4", met(spread <= 1e-4))]


def main() -> None:
    gradflow.enable_x64()
    if not (find_spec("torch") and find_spec("torchdiffeq")):
        print("  without torch and torchdiffeq there is no row for them; to have it: pip install -e '.[benchmark]'")
    sizes = {20: dict(n=60, L=5, m=64, m1=32, t_end=50), None: dict(n=12, L=4, m=8, m1=8, t_end=1000)}
    for target, size in sizes.items():
        header = (
            ", ".join(f"{name} = {value}" for name, value in size.items()),
            "time",
            "times gradflow's",
            "loss at the end",
            "target",
            "",
        )
        print_table([header, *compare(problem(**size), target)])


if __name__ == "__main__":
    main()
