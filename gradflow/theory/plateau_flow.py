"""The plateau of gradient flow as a saddle of fourth order: where the loss stands, and when attention escapes.

Without attention a model knows of a sequence the current token and its position, and the loss cannot be below the entropy of the next
token given these (`without_attention`). Where attention adds nothing, W_Q = W_K = 0 say, all gradients of Q, K, V, O but that of O's
bias vanish: the model is stuck at that level. Near it, to first order in what attention adds, the loss of one layer of linear
attention with one head is

    F = < G, (mask * Q K^T / sqrt(c)) V O >,      G = d loss / d (what attention adds), at the saddle

multilinear in the four matrices (with their bias rows). Their flow is a cubic field: from theta_0 scaled by s it blows up at
T = T_1 / s^2, a finite time and a power of the scale, where a saddle of second order gives ln(1/s). For four equal scalars
theta' = |G| theta^3 and T = 1 / (2 |G| theta_0^2). `blow_up` integrates it with G, and all that is not attention, frozen.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from gradflow.dynamics.flow import gradient_flow
from gradflow.dynamics.trees import inner, squared_norm
from gradflow.errors import require
from gradflow.models import attention_maps, transformer
from gradflow.models.transformer import Linear, Transformer
from gradflow.tasks.closed_forms import Losses
from gradflow.theory.claims import Claim, at_least, at_most, near
from gradflow.theory.symmetries import LINEAR

Matrices = tuple[Linear, Linear, Linear, Float[Array, "c e"]]


def without_attention(batch: Int[np.ndarray, "b T"]) -> float:
    """Mean over positions of the entropy of the next token given the current one, in nats, each sequence equally likely."""
    batch = np.asarray(batch)
    nats = 0.0
    for pair in np.stack([batch[:, :-1], batch[:, 1:]], axis=-1).swapaxes(0, 1):
        both, now = (np.unique(each, axis=0, return_counts=True)[1] / len(batch) for each in (pair, pair[:, 0]))
        nats += float(np.sum(now * np.log(now)) - np.sum(both * np.log(both)))
    return nats / (batch.shape[1] - 1)


def first_order(matrices: Matrices, slope: Float[Array, "b i e"], x: Float[Array, "b i e"]) -> Float[Array, ""]:
    """F: the change of the loss to first order in what attention adds, O's bias left out; `x` is what the layer reads."""
    Q, K, V, O = matrices
    i = x.shape[1]
    visible = jnp.tril(jnp.ones((i, i), bool))
    added = jax.vmap(lambda x: attention_maps.linear(Q(x), K(x), visible) @ V(x) @ O)(x)
    return jnp.vdot(slope, added)


@jax.jit
def at_saddle(weights: Transformer, batch: Int[Array, "b T"]) -> tuple[Array, Array]:
    """The slope G and the layer's inputs, where attention adds its bias alone."""
    layer = weights.layers[0]

    def loss(added):
        def of_one(tokens, added):
            def tap(place, value, positions):
                return layer.O.bias + added if place == "layers/0/attention" else value

            return transformer.cross_entropy(transformer.logits(weights, tokens[:-1], tap), tokens)

        return jax.vmap(of_one)(batch, added).mean()

    stream = weights.token_embedding[batch[:, :-1]] + weights.position_embedding[: batch.shape[1] - 1]
    return jax.grad(loss)(jnp.zeros_like(stream)), layer.norm_1(stream)


def blow_up(weights: Transformer, batch: Int[Array, "b T"], **options) -> float:
    """The time from `weights` at which the flow of F blows up: the predicted end of the plateau."""
    plain = len(weights.layers) == 1 and weights.heads == 1 and weights.attention == "linear" and weights.causal
    require(plain, "The escape is predicted of one layer of causal linear attention with one head.")
    layer = weights.layers[0]
    return blow_up_of((layer.Q, layer.K, layer.V, layer.O.weight), *at_saddle(weights, batch), **options)


def blow_up_of(matrices: Matrices, slope: Array, x: Array, growth: float = 12.0, rtol: float = 1e-6) -> float:
    """The same, of given matrices, slope and inputs.

    In the clock d tau = |grad F| / |theta| dt the matrices grow by e^tau at most, and t tends to the blow-up; it is within
    e^(-2 growth) of it, relative to the last stretch, once they are aligned.
    """
    run = gradient_flow(
        _loss, (matrices, jnp.zeros(())), slope, x, field=_in_own_clock, times=np.array([0.0, growth]),
        rtol=rtol, atol=1e-6 * rtol, show_progress=False,
    ).require_complete()  # fmt: skip
    return float(run.final[1])


def _loss(state, slope, x):
    return first_order(state[0], slope, x)


def _in_own_clock(state, slope, x):
    gradient = jax.grad(first_order)(state[0], slope, x)
    clock = jnp.sqrt(squared_norm(state[0]) / squared_norm(gradient))
    velocity = jax.tree.map(lambda g: -clock * g, gradient)
    return (velocity, clock), -inner(gradient, velocity)


def misfit(predictor: Callable, scales: np.ndarray, ends: np.ndarray) -> float:
    """Largest relative error of ends = a + b predictor(scale), by least squares of the relative errors."""
    design = np.stack([np.ones_like(scales), predictor(scales)], axis=1) / ends[:, None]
    fit = design @ np.linalg.lstsq(design, np.ones_like(ends), rcond=None)[0]
    return float(np.abs(fit - 1).max())


HERE, PAPER, LAWS = "theory.plateau_flow", "Gopalani and Hu 2025, section 2", "theory.symmetries"


def claims(losses: Losses, gradient: xr.Dataset, adam: xr.Dataset, saddle: xr.Dataset, escape: xr.Dataset) -> list[Claim]:  # fmt: skip
    """What is said of the plateau in continuous time, held to the datasets of `observe.plateau_flow`."""
    return [*of_paths(losses, gradient, adam), *of_saddle(saddle), *of_escape(escape), *of_laws(gradient, adam)]


def of_paths(losses: Losses, gradient: xr.Dataset, adam: xr.Dataset) -> list[Claim]:
    """Where the flows rest, and what tends to them."""
    few, stable = "passing through takes a few percent", "until half the plateau's end: later the learning rate times the sharpness is above 2"  # fmt: skip
    part, order = "time within 2 % of that loss / time until attention is needed", "exponent of the largest distance of the losses in the learning rate"  # fmt: skip
    return [
        *(at_least(f"{flow} rests {where}", source, part, resting_time(*_of_flow(runs), level) / runs.attrs["end"], 0.2, few)
          for flow, runs in (("gradient flow", gradient), ("Adam's flow", adam))
          for level, where, source in ((losses.plateau, "where y_1 is right and all else at its marginal", PAPER), (runs.attrs["without_attention"], "at the best loss without attention", HERE))),
        near("descent tends to gradient flow at first order", "dynamics", 1.0, _order(gradient), 0.2, f"{order}, {stable}"),
        near("Adam tends to Adam's flow at first order", "dynamics", 1.0, _order(adam), 0.2, f"{order}, {stable}"),
    ]  # fmt: skip


def of_saddle(saddle: xr.Dataset) -> list[Claim]:
    """What the Hessian says of the way out, at the save point next to 3/4 of the plateau."""
    ended = bool(np.isfinite(saddle.attrs["end"]))
    at = saddle.sel(time=0.75 * saddle.attrs["end"] if ended else 0.0, method="nearest")
    attention = float(at["share"].sel(group=["Q", "K", "V", "O"]).sum())
    return [
        at_most("on the plateau the Hessian has a negative eigenvalue", HERE, "lowest eigenvalue + its error < 0", float(at["lowest"] + at["error"]), 0.0, "at 3/4 of the plateau", ended),
        at_least("... whose direction is mostly attention's", HERE, "share of Q, K, V, O", attention, 0.5, "of its squared norm", ended),
        near("... and at whose rate the gradient of attention grows", HERE, float(-at["lowest"]), float(at["growth"]), 0.2 * abs(float(at["lowest"])), "a fifth: the direction is not attention's alone", ended),
    ]  # fmt: skip


def of_escape(escape: xr.Dataset) -> list[Claim]:
    """How the end of the plateau depends on the initial scale, and whether the blow-up tells it."""
    level, smallest = escape.attrs["without_attention"], escape.isel(scale=0)
    scales, ends = (np.asarray(each) for each in (escape["scale"], escape["end"].mean("seed")))
    exponent = power = logarithm = math.nan
    if np.isfinite(ends).all():
        exponent = float(np.polyfit(np.log(scales), np.log(ends), 1)[0])
        power, logarithm = misfit(lambda s: s**-2.0, scales, ends), misfit(lambda s: -np.log(s), scales, ends)
    return [
        near("halfway to its end the loss is that of the best model without attention", HERE, level, float(smallest["loss"].sel(part=0.5).mean()), 0.05, "nat, at the smallest scale: the rest of the model is still on its way"),
        at_least("... and within 2 % of it", HERE, "time there / time until attention is needed", float(smallest["rested"].mean()), 0.2, "passing through takes a few percent; at the smallest scale"),
        near("the end of the plateau is a power of the initial scale of attention", HERE, -2.0, exponent, 0.2, "exponent over all scales, mean of seeds; the rest of the model learns, too"),
        at_least("... and no logarithm of it", HERE, "misfit of a + b ln(1/s) over that of a + b / s^2", logarithm / power, 3.0, "both have two constants"),
        *(near(f"the blow-up of fourth order tells the end from {part:g} of it", HERE, 1.0, float((smallest["predicted"].sel(part=part) / smallest["end"]).mean()), 0.2, "predicted / measured at the smallest scale, what is not attention frozen") for part in escape["part"].values),
    ]  # fmt: skip


def of_laws(gradient: xr.Dataset, adam: xr.Dataset) -> list[Claim]:
    """What is conserved."""
    drift, adams = ((runs["drift"].max("time") / runs["size"].max()).to_series() for runs in (gradient, adam))
    linear, quadratic = ([name for name in drift.index if (name in LINEAR) == kind and name != "stream"] for kind in (True, False))  # fmt: skip
    return [
        at_most("gradient flow keeps the linear laws", LAWS, "largest drift / |weights|", float(drift[linear].max()), 1e-12, "rounding"),
        at_most("... the quadratic ones to the integrator's tolerance", LAWS, "largest drift / |weights|", float(drift[quadratic].max()), 1e-3, "100 times rtol"),
        at_least("... and the scale of the stream only far above the norms' eps", LAWS, "drift / |weights| of stream_norm", float(drift["stream"]), 1e-3, "more than the integrator may"),
        at_least("Adam's flow keeps none of the quadratic laws", LAWS, "smallest of their drifts / |weights|", float(adams[quadratic].min()), 1e-2, "10 times what gradient flow is allowed"),
    ]  # fmt: skip


def resting_time(times: np.ndarray, loss: np.ndarray, level: float, within: float = 0.02) -> float:
    """For how long the loss is within a part of a level, by linear interpolation on a fine grid."""
    fine = np.linspace(times[0], times[-1], 20_001)
    return float((np.abs(np.interp(fine, times, loss) / level - 1) < within).mean() * (times[-1] - times[0]))


def _of_flow(runs: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    return runs["time"].values, runs["loss"].values[0]


def _order(runs: xr.Dataset) -> float:
    """The exponent of descent's distance from the flow in the learning rate; NaN where the plateau has no end."""
    loss, early = runs["loss"].values, runs["time"].values <= runs.attrs["end"] / 2
    off = np.abs(loss[1:] - loss[0])[:, early].max(axis=1, initial=0)
    rates = [float(str(name).rsplit(", ", 1)[1]) for name in runs["run"].values[1:]]
    return math.log(off[0] / off[1]) / math.log(rates[0] / rates[1]) if (off > 0).all() else math.nan
