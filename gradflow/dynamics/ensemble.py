"""Many small flows solved as one: a phase diagram costs about what its slowest point does.

The members of an ensemble are independent flows of one loss, from other starts or with other data. Together they are one
gradient flow, of the sum of their losses. Each may have its own unit of time, so that all pass through the same events
while the integrator takes one step for all: the step that the most restless of them needs.
"""

import dataclasses
import math
from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from gradflow.dynamics.flow import GradientField, gradient_flow
from gradflow.dynamics.trajectory import Trajectory
from gradflow.errors import require


def ensemble_flow(
    loss: Callable,
    states: PyTree,
    *data: PyTree,
    units: Float[np.ndarray, " members"],
    times: np.ndarray,
    field: Callable | None = None,
    rtol: float = 1e-6,
    **options,
) -> Trajectory:
    """Follow the flow of every member; `times` are in each member's own unit of time.

    states, data   as for one flow, with a leading axis of members on every leaf
    units          length of each member's unit of time
    rtol           for each member: the solver measures a mean over members, and is given rtol / sqrt(members)
    field, options as in `gradient_flow`; `save`, where given, takes all members at once: `save(states, units, *data)`

    `states` of the trajectory have axes (time, member, ...); its loss is the sum over members.
    """
    units = np.asarray(units, float)
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves((states, data))}
    require(
        sizes == {units.shape} and units.ndim == 1,
        f"Every leaf needs one leading axis of {units.size} members, as units has; got {sorted(sizes)}.",
    )
    run = gradient_flow(
        Together(loss), states, units, *data,
        times=times, field=TogetherField(field or GradientField(loss)), rtol=rtol / math.sqrt(units.size), **options,
    )  # fmt: skip
    return dataclasses.replace(run, method=f"{units.size} members at once: {run.method}")


class Together(eqx.Module):
    """The sum of the members' losses."""

    loss: Callable

    def __call__(self, states: PyTree, units: Float[Array, " members"], *data: PyTree) -> Float[Array, ""]:
        return jax.vmap(self.loss)(states, *data).sum()


class TogetherField(eqx.Module):
    """The members' velocities, each in its own unit of time, and the fall of the sum of their losses."""

    field: Callable

    def __call__(
        self, states: PyTree, units: Float[Array, " members"], *data: PyTree
    ) -> tuple[PyTree, Float[Array, ""]]:
        velocities, falls = jax.vmap(self.field)(states, *data)
        return jax.tree.map(lambda leaf: leaf * units.reshape(-1, *[1] * (leaf.ndim - 1)), velocities), falls @ units
