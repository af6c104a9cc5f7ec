"""How well the diffusions of SGD tell its averages: weak error against the learning rate, with its Monte-Carlo error.

A nonlinear loss of two parameters on four samples, minibatches of one drawn with replacement, to t = 2; the average of |params|^2
at the end, over SGD on one side and over the diffusions of order 1 and 2 on the other. Common random numbers: from every path
its own first-order fluctuation is taken off, which has mean zero and is driven by that path's own draws, so that what
is left to average varies by O(learning rate) and not by its root. Targets: slopes 1 and 2 within 0.25, with a Monte-Carlo
error below 0.3 of the weak error at every rate.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import gradflow
from benchmarks.timing import met, print_table
from gradflow.dynamics.diffusion import Diffusion

T_END = 2.0
STEPS = {1: (24, 32, 48, 64), 2: (8, 12, 16, 24)}
PATHS, AT_ONCE = 2**17, 2**16
SUBSTEPS = 2
START = np.array([0.8, -0.5])
INPUTS = np.array([[1.0, 0.2], [-0.4, 0.9], [0.3, -0.7], [0.8, 0.5]])
LABELS = np.array([1.0, -1.0, 1.0, -1.0])
DATA = (INPUTS, LABELS)


def loss(params, data):
    """A logistic loss of a nonlinear feature: the covariance of its gradients changes along the way."""
    inputs, labels = data
    return jnp.mean(jax.nn.softplus(-labels * (inputs @ params + 0.5 * (inputs @ params) ** 2)))


def measured(params):
    return jnp.sum(params**2)


class Reference(NamedTuple):
    """Gradient descent: where it ends, its path (K, 2), and how each step carries a fluctuation on (K, 2, 2)."""

    end: Array
    path: Array
    carried: Array


@partial(jax.jit, static_argnums=1)
def gradient_descent(rate, steps: int) -> Reference:
    def step(params, _):
        return params - rate * jax.grad(loss)(params, DATA), params

    end, path = jax.lax.scan(step, START, length=steps)
    return Reference(end, path, jax.vmap(lambda p: jnp.eye(2) - rate * jax.hessian(loss)(p, DATA))(path))


def by_sgd(state, key, rate, at):
    """A step of SGD, and the kick that its sample would have given at `at`."""
    one = jax.random.randint(key, (1,), 0, len(LABELS))
    sample = jax.tree.map(lambda leaf: jnp.asarray(leaf)[one], DATA)
    kick = rate * (jax.grad(loss)(at, DATA) - jax.grad(loss)(at, sample))
    return state - rate * jax.grad(loss)(state, sample), kick


def by_diffusion(order, state, key, rate, at):
    """A step of the diffusion, and the kick that its Brownian increments would have given at `at`."""
    model = Diffusion(loss, 1, order, SUBSTEPS)
    after, _, _ = model(state, key, rate, DATA)
    path, _ = model.brownian(key, len(LABELS))
    dW = sum(path.evaluate(k / SUBSTEPS, (k + 1) / SUBSTEPS) for k in range(SUBSTEPS))
    return after, model.noise(at, rate, dW, DATA)


@partial(jax.jit, static_argnums=0)
def ends(step, keys, rate, reference: Reference):
    """What is measured at the end of each path, less its first-order fluctuation."""

    def path(key):
        def advance(carry, along):
            state, fluctuation, key = carry
            key, now = jax.random.split(key)
            state, kick = step(state, now, rate, along[0])
            return (state, along[1] @ fluctuation + kick, key), None

        (end, fluctuation, _), _ = jax.lax.scan(advance, (START, jnp.zeros(2), key), reference[1:])
        return measured(end) - jax.grad(measured)(reference.end) @ fluctuation

    return jax.vmap(path)(keys)


def average(step, steps: int) -> tuple[float, float]:
    """Average over all paths, and its standard error."""
    rate, total, squares = jnp.asarray(T_END / steps), 0.0, 0.0
    reference = gradient_descent(rate, steps)
    for part in range(PATHS // AT_ONCE):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(steps), part), AT_ONCE)
        values = np.asarray(ends(step, keys, rate, reference)) - float(measured(reference.end))
        total, squares = total + values.sum(), squares + (values**2).sum()
    mean = total / PATHS
    return mean, float(np.sqrt((squares / PATHS - mean**2) / PATHS))


def main() -> None:
    gradflow.enable_x64()
    rows = [("order", "learning rate", "weak error", "Monte-Carlo error", "of it", "")]
    errors: dict[int, dict[float, float]] = {order: {} for order in STEPS}
    trained = {steps: average(by_sgd, steps) for steps in sorted({*STEPS[1], *STEPS[2]})}
    for order in errors:
        step = partial(by_diffusion, order)
        for steps in STEPS[order]:
            mean, spread = average(step, steps)
            weak, noise = abs(mean - trained[steps][0]), np.hypot(spread, trained[steps][1])
            errors[order][T_END / steps] = weak
            rows.append(
                (
                    str(order),
                    f"{T_END / steps:.4g}",
                    f"{weak:.3g}",
                    f"{noise:.2g}",
                    f"{noise / weak:.2f}",
                    met(noise < 0.3 * weak),
                )
            )
    for order, by_rate in errors.items():
        slope = np.polyfit(np.log(list(by_rate)), np.log(list(by_rate.values())), 1)[0]
        rows.append((str(order), "slope", f"{slope:.3f}", "", f"{order} +- 0.25", met(abs(slope - order) <= 0.25)))
    print_table(rows)


if __name__ == "__main__":
    main()
