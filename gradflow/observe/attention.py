"""What attention does for the loss: each member of an ensemble trained twice, with attention and without, and each matrix's work.

The loss falls by dLoss/dt = -(|dW|^2 + |dW_V|^2 + |dW_K|^2 + |dW_Q|^2), so the integral of each term is the work of its
matrix, and the four add up to the fall of the loss. What would have become of the loss without attention is another question: it
is answered by freezing W_K and W_Q at their start. Members are orbit states of the co-occurrence model from the mean start.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from gradflow.dynamics.ensemble import ensemble_flow
from gradflow.dynamics.trajectory import Trajectory
from gradflow.errors import InputError
from gradflow.interventions.freeze import Frozen
from gradflow.models import coupled, orbits
from gradflow.models.coupled import Coupled, Width
from gradflow.models.orbits import Classes
from gradflow.tasks.cooccurrence import CLASS_NAMES, CLASS_SHARES, LABELS
from gradflow.theory.attention import Groups, readout_rate, scales

MATRICES = ("W", "W_V", "W_K", "W_Q")
SIGNALS = ("mu1", "mu2", "mu3")


class Worked(eqx.Module):
    """An orbit state and the work that each matrix has done so far."""

    state: Coupled
    work: Float[Array, " 4"]


def worked_loss(worked: Worked, sizes: Classes, width: Width) -> Float[Array, ""]:
    """The loss of the orbit state."""
    return orbits.loss(worked.state, sizes, width)


def worked_field(worked: Worked, sizes: Classes, width: Width) -> tuple[Worked, Float[Array, ""]]:
    """The flow of the orbit state, and the power of each matrix."""
    moving, fall = orbits.field(worked.state, sizes, width)
    return Worked(moving, orbits.powers(worked.state, sizes, width)), fall


frozen_field = Frozen(orbits.loss, orbits.field, ("A", "Gamma_K", "Gamma_Q"))


def with_and_without(
    given: Groups, L: float, *, times: Float[np.ndarray, " T"], n: float = np.inf, m1: float = 1.0, rtol: float = 1e-6
) -> xr.Dataset:
    """Train members with these numbers (see `theory.attention`), arrays of one length, with attention and with attention frozen.

    times   in the readout's clock of each member, the first is 0
    n       training sentences; inf: the population, whose states are the smallest
    m1      the choice of m1, which makes no difference to what is returned

    Returns a dataset over (time, member): loss, loss_frozen, loss_by_class, loss_by_class_frozen, score (changes of A / sqrt(m)
    among the signals) and work by matrix. Raises `InputError` where a flow does not end well.
    """
    m1 = np.full(len(given.size), float(m1))
    shape = {name: jnp.asarray(each) for name, each in scales(given, m1).items()}
    width, units = Width(shape["m"], shape["m1"]), 1 / readout_rate(**shape)
    words = orbits.POPULATION_WORDS if np.isinf(n) else orbits.WORDS
    start = jax.vmap(lambda each: coupled.infinite_width_start(d=words, L=L, **each))(shape)
    sizes = orbits.classes(np.full(len(m1), n), np.full(len(m1), L))
    options = dict(units=units, times=times, rtol=rtol)
    with_work = Worked(start, jnp.zeros((len(m1), len(MATRICES))))
    full = _complete(ensemble_flow(worked_loss, with_work, sizes, width, field=worked_field, **options))
    frozen = _complete(ensemble_flow(orbits.loss, start, sizes, width, field=frozen_field, **options))
    states = full.states.state
    margins, frozen_margins = (_class_margins(each, sizes, width) for each in (states, frozen.states))
    loss, frozen_loss = (np.logaddexp(0, -each) for each in (margins, frozen_margins))
    member = ("time", "member")
    return xr.Dataset(
        {
            "loss": (member, loss @ CLASS_SHARES, {"long_name": "loss"}),
            "loss_frozen": (member, frozen_loss @ CLASS_SHARES, {"long_name": "loss with W_K and W_Q frozen"}),
            "loss_by_class": ((*member, "sentence_class"), loss, {"long_name": "loss of a class"}),
            "loss_by_class_frozen": ((*member, "sentence_class"), frozen_loss, {"long_name": "the same, frozen"}),
            "score": (
                (*member, "key", "query"),
                np.asarray(states.A)[..., :3, :3] / np.sqrt(shape["m"])[:, None, None],
                {"long_name": "change of the attention score A / sqrt(m)"},
            ),
            "work": (
                (*member, "matrix"),
                full.states.work,
                {"long_name": "int |d matrix|^2 dt, its part in the fall of the loss"},
            ),
        },
        coords={
            "time": ("time", times, {"long_name": "time in units of the readout's initial rate", "units": "1"}),
            "values": ("member", given.values, {"long_name": "sigma0^2 / (sigma0^2 + sigma1^2)", "units": "1"}),
            "richness": ("member", given.richness, {"long_name": "4 / (m^2 m1 (sigma0^2 + sigma1^2)^2)", "units": "1"}),
            "size": ("member", given.size, {"long_name": "m m1", "units": "1"}),
            "sentence_class": list(CLASS_NAMES),
            "key": list(SIGNALS),
            "query": list(SIGNALS),
            "matrix": list(MATRICES),
        },
        attrs={"L": L, "n": n, "evaluations": full.cost.evaluations + frozen.cost.evaluations},
    )


def attention_share(run: xr.Dataset) -> xr.DataArray:
    """The part of W_K and W_Q in the fall of the loss so far."""
    return run["work"].sel(matrix=["W_K", "W_Q"]).sum("matrix") / run["work"].sum("matrix")


def advantage(run: xr.Dataset) -> xr.DataArray:
    """The loss with attention frozen over the loss with it: 1 where attention does nothing for it."""
    return run["loss_frozen"] / run["loss"]


def largest_score(run: xr.Dataset) -> xr.DataArray:
    """The largest change of a score among the signals."""
    return abs(run["score"]).max(["key", "query"])


@jax.jit
def _class_margins(states: Coupled, sizes: Classes, width: Width) -> Float[Array, "T N 4"]:
    """y F of a sentence of each class, along the flow."""
    of_member = jax.vmap(lambda state, sizes, m: orbits.class_outputs(state.G, state.A, sizes, m))
    return jnp.array(LABELS) * jax.lax.map(lambda at: of_member(at, sizes, width.m), states)


def _complete(run: Trajectory) -> Trajectory:
    if not run.complete:
        raise InputError(f"The ensemble {run.status}.")
    return run
