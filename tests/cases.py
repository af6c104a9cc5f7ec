"""Training sets, weights and measures that several test files share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.models import cooccurrence
from gradflow.tasks.cooccurrence import Batch


@functools.cache
def case(n, L, d, m, m1):
    """Sentences of random words and weights large enough for attention far from uniform."""
    rng = np.random.default_rng(n)
    batch = Batch(jnp.array(rng.integers(d, size=(n, L))), jnp.array(rng.choice([-1.0, 1.0], n)), jnp.zeros(n, int))
    shapes = {"W": (m1, m), "W_V": (m, d), "W_K": (m, d), "W_Q": (m, d)}
    matrices = {
        name: jnp.array(rng.normal(scale=0.4 if name == "W" else 0.8, size=shape)) for name, shape in shapes.items()
    }
    return cooccurrence.Weights(**matrices, a=jnp.array(rng.choice([-1.0, 1.0], m1))), batch


def away(one, other):
    """Euclidean distance of two pytrees."""
    squares = jax.tree.map(lambda x, y: np.sum(np.square(np.asarray(x) - np.asarray(y))), one, other)
    return float(np.sqrt(sum(jax.tree.leaves(squares))))


def slope(by_rate):
    """Exponent of the learning rate in a dictionary of values by rate, by least squares."""
    return float(np.polyfit(np.log(list(by_rate)), np.log(list(by_rate.values())), 1)[0])
