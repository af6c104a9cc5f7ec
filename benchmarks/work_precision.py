"""Work against precision to t = 1e4, on a flow that is stiff and on one that is not: scipy, diffrax, rkc2 and auto.

The co-occurrence model with n = 12, L = 4, d = 16, m = 14, m1 = 4 (732 weights, the 4 of a fixed), twice: logistic loss, where the
sharpness falls as 1 / t and explicit Runge-Kutta methods are at their best; squared loss (F - y)^2 / 2, where it settles at
12.8, a slow mode lasts to the end, and stability decides what they cost. Work is evaluations of the gradient; a
Hessian-vector product counts as two, an exact Hessian as one such product a parameter. The error is the largest over 37
save times of |theta - reference| / |reference|, the reference dopri8 at rtol = 1e-11.

Targets at rtol = 1e-6: on squared loss rkc2, and auto, work at least 8 times less than the best of RK45, DOP853 and tsit5 with
an error of at most 1e-4; on logistic loss auto works at most twice as much as that best. The picture goes to
runs/benchmarks/work_precision.png, or to the PATH of `python -m benchmarks.work_precision PATH`.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradflow
from benchmarks.timing import met, print_table
from gradflow.dynamics.trajectory import Cost
from gradflow.errors import require
from gradflow.models import cooccurrence as model
from gradflow.plotting import style
from gradflow.tasks.cooccurrence import CoOccurrence

PICTURE = Path("runs/benchmarks/work_precision.png")
SIZE = dict(d=16, L=4)
TIMES = gradflow.log_times(1e-2, 1e4, 37)
RTOLS = (1e-4, 1e-6, 1e-8)
TARGET_RTOL = 1e-6
CLASSIC = ("RK45", "DOP853", "tsit5")
METHODS = {  # scipy's open, so that they show below others; the two new ones thick
    "RK45": dict(color=style.SKY, marker="s", markerfacecolor="none", markersize=8),
    "DOP853": dict(color=style.BLUE, marker="D", markerfacecolor="none", markersize=6),
    "LSODA": dict(color=style.PINK, marker="v", markerfacecolor="none", markersize=6),
    "tsit5": dict(color=style.GREEN, marker="s", markersize=4),
    "dopri8": dict(color="0.55", marker="D", markersize=4),
    "rkc2": dict(color=style.RED, marker="o", markersize=6, linewidth=2.2, zorder=4),
    "auto": dict(color=style.BLACK, marker="o", markersize=6, linewidth=2.2, zorder=4),
}


class Point(NamedTuple):
    """One solve, and what it says of its method."""

    rtol: float
    cost: Cost
    work: int
    error: float
    how: str


def squared(weights: model.Weights, batch) -> jax.Array:
    return 0.5 * jnp.mean((model.outputs(weights, batch.tokens) - batch.label) ** 2)


LOSSES = {"logistic loss": model.loss, "squared loss": squared}


def trained(weights: model.Weights, batch) -> jax.Array:
    """The trained parameters as one vector."""
    return jnp.concatenate([matrix.ravel() for matrix in (weights.W, weights.W_V, weights.W_K, weights.W_Q)])


def solve(loss: Callable, method: str, rtol: float) -> gradflow.Trajectory:
    key_data, key_weights = jax.random.key(2), jax.random.key(1)  # a training set whose slow mode lasts to the end
    batch = CoOccurrence(n=12, random_words="iid", **SIZE).sample(key_data)
    weights = model.init(key_weights, m=14, m1=4, sigma1=0.05, **SIZE)
    return gradflow.gradient_flow(
        loss, weights, batch, times=TIMES, method=method, rtol=rtol, save=trained, max_steps=1_000_000
    )


def rtols_of(loss: Callable, method: str) -> tuple[float, ...]:
    """All; one where stability decides what a solve costs, many seconds, whichever the tolerance (tsit5 shows it)."""
    return (TARGET_RTOL,) if loss is squared and method in ("RK45", "DOP853", "dopri8") else RTOLS


def measured(loss: Callable) -> Iterator[tuple[str, Point]]:
    reference = solve(loss, "dopri8", 1e-11).states
    for method in METHODS:
        for rtol in rtols_of(loss, method):
            flow = solve(loss, method, rtol)
            require(flow.complete, f"{method} at rtol = {rtol:.0e} ended early: {flow.status}")
            error = np.linalg.norm(flow.states - reference, axis=1) / np.linalg.norm(reference, axis=1)
            work = flow.cost.evaluations + 2 * (flow.cost.jvps + flow.cost.jacobians * reference.shape[1])
            yield method, Point(rtol, flow.cost, work, error.max(), flow.method)


def table(name: str, points: dict[str, list[Point]]) -> Iterator[tuple[str, ...]]:
    yield name, "rtol", "evaluations", "Hv", "Hessians", "work", "error", "target", ""
    for method, curve in points.items():
        for p in curve:
            counts = (str(count) for count in (p.cost.evaluations, p.cost.jvps, p.cost.jacobians, p.work))
            yield method, f"{p.rtol:.0e}", *counts, f"{p.error:.1e}", "", ""
    at_target = {method: p for method, curve in points.items() for p in curve if p.rtol == TARGET_RTOL}
    best = min((at_target[method].work, method) for method in CLASSIC)
    for method in ("rkc2", "auto"):
        p, text = at_target[method], f"{method} at {TARGET_RTOL:.0e}, against {best[1]}"
        less = best[0] / p.work
        if name == "squared loss":
            yield text, *4 * ("",), f"{less:.1f} times less", "", ">= 8", met(less >= 8)
            yield f"error of {method}", *5 * ("",), f"{p.error:.1e}", "<= 1e-4", met(p.error <= 1e-4)
        elif method == "auto":
            yield text, *4 * ("",), f"{1 / less:.1f} times as much", "", "<= 2", met(1 / less <= 2)


def draw(results: dict[str, dict[str, list[Point]]], path: Path) -> Path:
    with style.panels(1, 2, width=8.0, height=3.7, sharey=True) as (figure, axes):
        for panel, (name, points) in zip(axes, results.items(), strict=True):
            for method, curve in points.items():
                work, error = [p.work for p in curve], [p.error for p in curve]
                panel.plot(work, error, label=method, **{"linewidth": 1.2, **METHODS[method]})
            for p in points["rkc2"]:
                text = ("rtol " if p.rtol == RTOLS[0] else "") + f"$10^{{{np.log10(p.rtol):.0f}}}$"
                panel.annotate(text, (p.work, p.error), (4, 6), textcoords="offset points", fontsize=8, color=style.RED)
            most = max(p.work for curve in points.values() for p in curve)
            least = min(p.work for curve in points.values() for p in curve)
            panel.set(xlim=(10 ** np.floor(np.log10(least)), 3 * most), xscale="log", yscale="log", title=name)
            panel.set_xlabel("gradient evaluations (Hv as two)")
        axes[0].set_ylabel("largest relative error of the weights")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(METHODS))
        return style.write(figure, path)


def main(path: Path = PICTURE) -> None:
    gradflow.enable_x64()
    results: dict[str, dict[str, list[Point]]] = {}
    for name, loss in LOSSES.items():
        points = results[name] = {}
        for method, point in measured(loss):
            points.setdefault(method, []).append(point)
        print_table(table(name, points))
        print("  " + next(p.how for p in points["auto"] if p.rtol == TARGET_RTOL))
    print(f"  {draw(results, path)}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
