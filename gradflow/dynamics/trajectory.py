"""What a solve returns, whichever way it was made: times, states, what it cost, how it ended, how far to trust it."""

import dataclasses
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jaxtyping import Float, PyTree

from gradflow.errors import require


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a solve cost. A count that its library does not tell is None; `evaluations` is always true.

    `evaluations` counts every evaluation of the vector field (or of a gradient), whatever one costs, those for finite
    differences included;
    `jacobians` those of an exact Jacobian of it, `jvps` its products with a vector (each worth about two evaluations).
    """

    evaluations: int = 0
    accepted: int | None = None
    rejected: int | None = None
    jacobians: int = 0
    jvps: int = 0
    seconds: float = 0.0


class Saved(NamedTuple):
    """What is kept at each save point; stacked along a leading time axis in a trajectory."""

    state: PyTree
    loss: Float
    dissipated: Float
    drift: dict[str, Float]


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """A training run: the same for a gradient flow and for discrete training.

    times      (T,) time of each save point; learning_rate * step for discrete training
    states     what `save` returned at each of them (the whole state by default): a pytree with a leading time axis
    loss       (T,) loss
    dissipated (T,) integral of -grad loss . velocity dt up to each, |grad loss|^2 dt in gradient flow; the sum of
               -grad . step for discrete training, learning_rate * |grad|^2 each in plain descent
    drift      name -> (T,): |I(t) - I(0)| / |I(0)|, in the Frobenius norm, of each conserved quantity I that was watched
    final      the whole state at the last time
    method     how it was solved, with its tolerances or its learning rate
    cost       a `Cost`
    status     "complete", or why it ended early; then times, states and the rest hold what was done
    """

    times: Float[np.ndarray, " T"]
    states: PyTree
    loss: Float[np.ndarray, " T"]
    dissipated: Float[np.ndarray, " T"]
    drift: dict[str, Float[np.ndarray, " T"]]
    final: PyTree
    method: str
    cost: Cost
    status: str = "complete"

    @property
    def complete(self) -> bool:
        return self.status == "complete"

    def require_complete(self) -> Self:
        """This run, for code that needs all of it: raises `InputError` where it ended early, and Ctrl-C again where that ended it."""
        if self.status == "interrupted":
            raise KeyboardInterrupt
        require(self.complete, f"{self.method}: {self.status}.")
        return self

    @property
    def energy_residual(self) -> Float[np.ndarray, " T"]:
        """L(0) - L(t) - dissipated: zero along an exact flow, O(learning rate) along descent."""
        return self.loss[0] - self.loss - self.dissipated

    def trust(self) -> str:
        """The block that ends every run: method, cost, energy identity, drift of the invariants, status."""
        cost = self.cost
        steps = "" if cost.accepted is None else f"{cost.accepted} steps accepted, "
        steps += "" if cost.rejected is None else f"{cost.rejected} rejected, "
        jacobians = f", {cost.jacobians} Jacobians" if cost.jacobians else ""
        jacobians += f", {cost.jvps} Jacobian-vector products" if cost.jvps else ""
        drifts = ", ".join(f"{name} {values.max():.1e}" for name, values in self.drift.items())
        residual = np.abs(self.energy_residual).max()
        lines = [
            ("method", self.method),
            ("cost", f"{steps}{cost.evaluations} evaluations{jacobians}, {cost.seconds:.2f} s"),
            ("energy", f"|L(0) - L(t) - dissipated| <= {residual:.1e}, L(0) = {self.loss[0]:.4g}"),
            ("drift", drifts or "no invariant was watched"),
            ("status", f"{self.status}, t = {self.times[-1]:.6g}, loss = {self.loss[-1]:.4g}"),
        ]
        return "\n".join(f"  {name:<7} {text}" for name, text in lines)


def stacked(chunks: list[Any]) -> Any:
    """Join pytrees of arrays along their leading axis, as numpy arrays."""
    return jax.tree.map(lambda *parts: np.concatenate([np.asarray(part) for part in parts]), *chunks)


def finite_part(saved: Saved) -> Saved:
    """The save points before the first at which the loss or the dissipated energy is not finite, the start at least."""
    finite = np.isfinite(saved.loss) & np.isfinite(saved.dissipated)
    kept = len(finite) if finite.all() else max(int(np.argmin(finite)), 1)
    return jax.tree.map(lambda leaf: leaf[:kept], saved)
