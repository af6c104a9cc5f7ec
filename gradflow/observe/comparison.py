"""Gradient descent against gradient flow, measured and predicted, for any loss: distances, orders, broken conservation laws.

`compare` runs descent at several learning rates over one certificate (`dynamics.certificate`) and returns one labelled
dataset, from which claims (`theory.discretisation`) and pictures (`plotting.comparison`) are made.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import PyTree

from gradflow.dynamics.certificate import Certificate, certify
from gradflow.dynamics.descent import descend
from gradflow.dynamics.modified import modified_flow
from gradflow.dynamics.times import linear_times
from gradflow.dynamics.trees import along, plus, squared_norm
from gradflow.errors import require

ORDERS = (1, 2, 3)


def compare(
    loss: Callable,
    params: PyTree,
    *data: PyTree,
    rate_times_sharpness: Sequence[float],
    t_end: float,
    tolerance: float,
    invariants: Callable | None = None,
    saves: int = 20,
    rtol: float = 1e-11,
    method: str = "dopri8",
) -> tuple[xr.Dataset, Certificate]:
    """Descent on `loss(params, *data)` at several learning rates against its flow until `t_end`.

    rate_times_sharpness  the learning rates, in units of 1 / largest sharpness along the flow; each is lowered to the next
                          that makes `t_end` a multiple of `saves` steps
    tolerance             of the certificate: the distance from the flow to be allowed
    invariants            `invariants(params, *data) -> {name: array}`, conserved by the flow
    rtol, method          of the flows, far more accurate than the distances that are measured

    Returns a dataset over (learning_rate, time), and the certificate:

        distance, predicted_distance     |descent - flow| and learning_rate * |eps|
        distance_from_order              (learning_rate, order) |descent - modified flow of that order| at the end
        drift, predicted_drift           (quantity, learning_rate, time) change of a conserved quantity along descent
        drift_residual                   and what the prediction leaves of it, all in the Frobenius norm
        sharpness                        (time) along the flow

    Raises `InputError` where a run does not end well.
    """
    require_comparable(rate_times_sharpness)
    solver = dict(rtol=rtol, method=method)
    times = linear_times(t_end, saves + 1)
    certificate = certify(loss, params, *data, times=times, tolerance=tolerance, invariants=invariants, **solver)
    certificate.flow.require_complete()
    least_steps = t_end * float(certificate.sharpness.max()) / np.array(rate_times_sharpness)
    steps = saves * np.ceil(least_steps / saves).astype(int)
    require(
        len(set(steps)) == len(steps), f"The learning rates must differ in their steps, which are {steps.tolist()}."
    )
    rates = t_end / steps

    distance, from_order, drifts = [], [], []
    for rate, count in zip(rates, steps, strict=True):
        trained = descend(
            loss,
            params,
            *data,
            learning_rate=rate,
            steps=int(count),
            save_steps=np.arange(saves + 1) * (count // saves),
        )
        trained.require_complete()
        distance.append([_away(_at(trained.states, k), _at(certificate.flow.states, k)) for k in range(saves + 1)])
        from_order.append([distance[-1][-1]])
        for order in ORDERS[1:]:
            flow = modified_flow(loss, params, *data, learning_rate=rate, order=order, times=times[[0, -1]], **solver)
            flow.require_complete()
            from_order[-1].append(_away(trained.final, flow.final))
        if invariants:
            drifts.append(_drifts(invariants, trained.states, certificate, rate, data))

    variables = {
        "distance": (("learning_rate", "time"), distance, "distance of descent from the flow"),
        "predicted_distance": (
            ("learning_rate", "time"),
            [certificate.predicted_distance(rate) for rate in rates],
            "distance that the certificate predicts, to first order in the learning rate",
        ),
        "distance_from_order": (("learning_rate", "order"), from_order, "distance from the modified flow at the end"),
        "sharpness": (("time",), certificate.sharpness, "largest eigenvalue, in size, of the loss's Hessian"),
    }
    coords = {"learning_rate": rates, "order": list(ORDERS), "time": times}
    if invariants:
        coords["quantity"] = list(drifts[0])
        parts = (
            ("drift", "change of a conserved quantity along descent"),
            ("predicted_drift", "change that the certificate predicts"),
            ("drift_residual", "change that the prediction leaves"),
        )
        for part, (name, long_name) in enumerate(parts):
            values = [[drift[quantity][part] for drift in drifts] for quantity in coords["quantity"]]
            variables[name] = (("quantity", "learning_rate", "time"), values, long_name)
    described = {
        name: (dims, np.asarray(values), {"long_name": long_name, "units": "1"})
        for name, (dims, values, long_name) in variables.items()
    }
    return xr.Dataset(described, coords, {"tolerance": tolerance}), certificate


def _drifts(invariants: Callable, states: PyTree, certificate: Certificate, rate: float, data: tuple) -> dict:
    """For every quantity: |change|, |predicted change| and |residual|, each (T,)."""
    flow, error, changes = certificate.flow.states, certificate.error, _Changes(invariants)
    seen = [
        changes(_at(flow, 0), _at(states, k), _at(flow, k), _at(error, k), rate, data)
        for k in range(len(certificate.distance))
    ]
    return {name: np.array([each[name] for each in seen]).T for name in seen[0]}


def require_comparable(rate_times_sharpness: Sequence[float]) -> None:
    """Refuse learning rates at which no comparison is meant."""
    require(len(rate_times_sharpness) > 0, "At least one learning rate is needed.")
    lowest, highest = min(rate_times_sharpness), max(rate_times_sharpness)
    require(lowest > 0, f"Learning rates must be positive, got {lowest}.")
    require(
        highest < 2,
        f"A learning rate of {highest} / sharpness is beyond stability; only below 2 does a flow describe descent.",
    )


class _Changes(eqx.Module):
    """How far descent moved each conserved quantity, how far it was told to, and the difference, in the Frobenius norm."""

    invariants: Callable

    @eqx.filter_jit
    def __call__(self, start, trained, flow, error, rate, data):
        def of(params):
            return self.invariants(params, *data)

        moved = jax.tree.map(lambda now, initial: now - initial, of(trained), of(start))
        told = jax.tree.map(lambda per_rate: rate * per_rate, along(of, flow, error))
        return {
            name: jnp.stack(
                [jnp.linalg.norm(jnp.ravel(each)) for each in (moved[name], told[name], moved[name] - told[name])]
            )
            for name in moved
        }


def _at(states: PyTree, index: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), states)


def _away(one: PyTree, other: PyTree) -> float:
    """Euclidean distance over all leaves."""
    return float(jnp.sqrt(squared_norm(plus(one, -1, other))))
