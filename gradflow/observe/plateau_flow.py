"""What is seen of a loss plateau in continuous time: flows until it is over, beside discrete training, and the saddle on the way."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from gradflow import descend, gradient_flow
from gradflow.dynamics.optimizers import Adam, optimizer_flow
from gradflow.dynamics.sharpness import hessian_spectrum
from gradflow.dynamics.trajectory import Trajectory, stacked
from gradflow.dynamics.trees import along, squared_norm
from gradflow.models import transformer
from gradflow.models.transformer import Transformer
from gradflow.theory.plateau_flow import blow_up, resting_time, without_attention
from gradflow.theory.symmetries import of_transformer, stream_norm

GROUPS = ("Q", "K", "V", "O", "mlp", "embeddings", "norms", "head")
# All save times are multiples of it, so that descent at 1e-3 or 5e-4 has steps there.
TICK = 0.01
PARTS = (0.5, 0.8)
"""Where, as parts of the plateau, its end is predicted."""
STRETCH = 12  # saves after which a flow is asked whether the plateau is over


def flow_until(level: float, weights: Transformer, batch: Int[Array, "b T"], end: float, rtol: float) -> Trajectory:
    """Gradient flow until the loss is below `level`, or the latest at `end`; saves everything, 25 times in a factor e of time.

    By Runge-Kutta-Chebyshev: the flow is stiff where the stream of a token is small. Of the cost, `evaluations` are all.
    """
    times = np.unique(np.round(np.geomspace(5 * TICK, end, int(25 * np.log(end / (5 * TICK))) + 2), 2))
    times, parts = np.append(0.0, times), []
    for first in range(0, len(times) - 1, STRETCH):
        parts.append(
            gradient_flow(
                transformer.loss, weights, batch, times=times[first : first + STRETCH + 1], method="rkc2", rtol=rtol,
                atol=1e-7 * rtol, show_progress=False,
            ).require_complete()
        )  # fmt: skip
        weights = parts[-1].final
        if parts[-1].loss[-1] < level:
            break
    return _joined(parts)


def end_of_plateau(run: Trajectory, level: float) -> float:
    """The first time at which the loss is below a level, by linear interpolation; NaN where it never is."""
    below = np.flatnonzero(run.loss < level)
    if not below.size or below[0] == 0:
        return float("nan") if not below.size else float(run.times[0])
    after = slice(below[0] - 1, below[0] + 1)
    return float(np.interp(-level, -run.loss[after], run.times[after]))


def beside_descent(flow: Trajectory, batch: Int[Array, "b T"], rates: tuple[float, ...]) -> xr.Dataset:
    """Loss of gradient flow and of descent at some learning rates, at the flow's times, and drift of the flow's invariants."""
    weights = _at(flow.states, 0)
    runs = {"gradient flow": flow.loss}
    for rate in rates:
        runs[f"descent, {rate:g}"] = _descent(weights, batch, flow.times, rate)
    return _paths(flow, runs, batch, flow.cost.evaluations)


def adam(weights: Transformer, batch: Int[Array, "b T"], optimizer: Adam, rates: tuple[float, ...], end: float, rtol: float) -> xr.Dataset:  # fmt: skip
    """The same for Adam's flow and Adam."""
    times = np.linspace(0, end, round(end / TICK) + 1)
    flow = optimizer_flow(transformer.loss, weights, batch, optimizer=optimizer, times=times, rtol=rtol, show_progress=False).require_complete()  # fmt: skip
    runs = {"Adam's flow": flow.loss}
    for rate in rates:
        runs[f"Adam, {rate:g}"] = _descent(weights, batch, times, rate, optimizer=optimizer)
    return _paths(flow, runs, batch, flow.cost.evaluations)


def saddle(flow: Trajectory, batch: Int[Array, "b T"], count: int = 12, iterations: int = 160) -> xr.Dataset:
    """Along the plateau of a flow: gradient, ends of the spectrum, the lowest direction, its growth and the predicted end."""
    end = end_of_plateau(flow, without_attention(batch))
    until = len(flow.times) if np.isnan(end) else np.searchsorted(flow.times, end)
    chosen = np.unique(np.searchsorted(flow.times, np.linspace(0.1, 1, count) * flow.times[until - 1]))
    rows = []
    for index in chosen:
        weights = _at(flow.states, index)
        ritz = hessian_spectrum(transformer.loss, weights, batch, iterations=iterations)
        size, growth = _gradient(weights, batch)
        rows.append(
            {
                "loss": flow.loss[index],
                "gradient": size,
                "growth": growth,
                "lowest": ritz.values[0],
                "error": ritz.errors[0],
                "highest": ritz.values[-1],
                "predicted": flow.times[index] + blow_up(weights, batch),
                "share": shares(ritz.lowest),
            }
        )
    texts = {
        "loss": ("loss", "nat"),
        "gradient": ("norm of the gradient", "1"),
        "growth": ("growth of the gradient of Q, K, V, O: -d ln |g| / dt of it, exactly", "1/time"),
        "lowest": ("smallest eigenvalue of the Hessian", "1/time"),
        "error": ("its error bound", "1/time"),
        "highest": ("largest eigenvalue of the Hessian", "1/time"),
        "predicted": ("end of the plateau predicted from here", "time"),
        "share": ("share of the lowest direction's squared norm", "1"),
    }
    variables = {
        name: (
            ("time", "group")[: 1 + (name == "share")],
            np.array([np.asarray(row[name]) for row in rows]),
            {"long_name": text, "units": units},
        )
        for name, (text, units) in texts.items()
    }
    coordinates = {"time": ("time", flow.times[chosen], {"units": "learning rate x steps"}), "group": list(GROUPS)}
    return xr.Dataset(variables, coordinates, {"end": end, "without_attention": without_attention(batch)})


def shares(direction: Transformer) -> Float[np.ndarray, " group"]:
    """Shares of the squared norm of a direction, by `GROUPS`."""
    layers = direction.layers
    groups = [[getattr(layer, name) for layer in layers] for name in "QKVO"]
    groups += [[(layer.up, layer.down) for layer in layers], (direction.token_embedding, direction.position_embedding)]
    groups += [(direction.norm, [(layer.norm_1, layer.norm_2) for layer in layers]), direction.head]
    sizes = np.array([float(squared_norm(group)) for group in groups])
    return sizes / sizes.sum()


def escapes(runs: Mapping[tuple[float, int], Trajectory], batch: Int[Array, "b T"]) -> xr.Dataset:
    """The end of the plateau by scale and seed, as measured, and as predicted at parts of it."""
    level = without_attention(batch)
    scales, seeds = (sorted(set(each)) for each in zip(*runs, strict=True))
    shape = len(scales), len(seeds)
    end, evaluations, rested = (np.full(shape, np.nan) for _ in range(3))
    predicted, loss = np.full((*shape, len(PARTS)), np.nan), np.full((*shape, len(PARTS)), np.nan)
    for (scale, seed), run in runs.items():
        at = scales.index(scale), seeds.index(seed)
        end[at], evaluations[at] = end_of_plateau(run, level), run.cost.evaluations
        rested[at] = resting_time(run.times, run.loss, level) / end[at]
        for column, part in enumerate(PARTS if np.isfinite(end[at]) else ()):
            index = int(np.searchsorted(run.times, part * end[at]))
            predicted[(*at, column)] = run.times[index] + blow_up(_at(run.states, index), batch)
            loss[(*at, column)] = run.loss[index]
    grid, parts = ("scale", "seed"), ("scale", "seed", "part")
    variables = {
        "end": (grid, end, {"long_name": "end of the plateau: loss below the best without attention", "units": "time"}),
        "predicted": (parts, predicted, {"long_name": "its prediction by the blow-up of fourth order", "units": "time"}),
        "loss": (parts, loss, {"long_name": "loss where it is predicted", "units": "nat"}),
        "rested": (grid, rested, {"long_name": "time within 2 % of that loss / end", "units": "1"}),
        "evaluations": (grid, evaluations, {"long_name": "gradients that the flow cost, a Hessian product for two", "units": "1"}),
    }  # fmt: skip
    coordinates = {"scale": scales, "seed": seeds, "part": list(PARTS)}
    return xr.Dataset(variables, coordinates, {"without_attention": level})


def _descent(weights, batch, times, rate, **options) -> Float[np.ndarray, " time"]:
    steps = np.round(times / rate).astype(int)
    run = descend(transformer.loss, weights, batch, learning_rate=rate, steps=steps[-1], save_steps=steps, save=_nothing, show_progress=False, **options)  # fmt: skip
    return np.pad(run.loss, (0, len(times) - len(run.loss)), constant_values=np.nan)


def _nothing(weights, batch):
    return ()


def _paths(flow: Trajectory, runs: dict[str, np.ndarray], batch: Array, evaluations: int) -> xr.Dataset:
    laws = jax.vmap(lambda weights: of_transformer(weights) | {"stream": stream_norm(weights)})(jax.tree.map(jnp.asarray, flow.states))  # fmt: skip
    level, moved = without_attention(batch), {}
    for name, values in laws.items():
        values = np.asarray(values).reshape(len(flow.times), -1)
        moved[name] = np.linalg.norm(values - values[0], axis=1)
    return xr.Dataset(
        {
            "loss": (("run", "time"), np.stack(list(runs.values())), {"long_name": "population loss", "units": "nat"}),
            "drift": (
                ("law", "time"),
                np.stack(list(moved.values())),
                {"long_name": "|I(t) - I(0)| of the flow", "units": "1"},
            ),
            "size": (
                ("time",),
                np.asarray(jax.vmap(squared_norm)(jax.tree.map(jnp.asarray, flow.states))) ** 0.5,
                {"long_name": "norm of the weights", "units": "1"},
            ),
        },
        {"run": list(runs), "law": list(moved), "time": ("time", flow.times, {"units": "learning rate x steps"})},
        {
            "method": flow.method,
            "evaluations": evaluations,
            "without_attention": level,
            "end": end_of_plateau(flow, level),
        },
    )


@jax.jit
def _gradient(weights, batch):
    """Norm of the gradient, and the rate at which that of Q, K, V, O grows: - g_A . (H g)_A / |g_A|^2."""

    def slope(weights):
        return jax.grad(transformer.loss)(weights, batch)

    def attention(weights):
        return [(layer.Q, layer.K, layer.V, layer.O.weight) for layer in weights.layers]

    g = slope(weights)
    turning = along(slope, weights, g)
    inner = sum(jnp.vdot(a, b) for a, b in zip(*(jax.tree.leaves(attention(each)) for each in (g, turning)), strict=True))  # fmt: skip
    return jnp.sqrt(squared_norm(g)), -inner / squared_norm(attention(g))


def _at(states: Transformer, index: int) -> Transformer:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), states)


def _joined(parts: list[Trajectory]) -> Trajectory:
    """Flows that go on from each other, as one; the point where they meet is kept once."""
    import dataclasses

    kept = [(part.times, part.states, part.loss) if part is parts[-1] else jax.tree.map(lambda leaf: leaf[:-1], (part.times, part.states, part.loss)) for part in parts]  # fmt: skip
    times, states, loss = stacked(kept)
    cost = dataclasses.replace(parts[-1].cost, evaluations=sum(part.cost.evaluations + 2 * part.cost.jvps for part in parts))  # fmt: skip
    return dataclasses.replace(parts[-1], times=times, states=states, loss=loss, cost=cost)
