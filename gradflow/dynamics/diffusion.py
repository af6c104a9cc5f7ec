"""SGD in continuous time: the stochastic differential equations whose averages follow those of minibatch training.

With minibatches of b out of n samples drawn with replacement, g_B the gradient of one and Sigma its covariance (Li, Tai, E
2017, arXiv 1511.06251; 2019, arXiv 1811.01558), in Ito's sense,

    dX = -grad L dt + sqrt(h Sigma) dW                       weak error O(h)      order 1
    dX = -grad(L + (h/4) |grad L|^2) dt + sqrt(h Sigma) dW   weak error O(h^2)    order 2

Two identities keep this cheap and free of (P, P) matrices. The noise is the gradient of a loss with random weights,
sqrt(Sigma) dW = sum_i w_i grad l_i with w_i = (dW_i - mean dW) / sqrt(n b) and n independent W_i. And the drift that turns
Ito's integral into Stratonovich's, which the solvers take, is the gradient of -(h/4) tr Sigma, so that order 2 becomes

    dX = -grad(L + (h/4) E|g_B|^2) dt + sqrt(h Sigma) o dW,   E|g_B|^2 = |grad L|^2 + tr Sigma.

Without replacement the noise of an epoch cancels up to O(h^2), and what stays on average is the gradient flow of that same
loss (Smith, Dherin, Barrett, De 2021, arXiv 2101.12176), with tr Sigma smaller by (n - b) / (n - 1).
"""

import math
import time
from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gradflow.dynamics import progress
from gradflow.dynamics.descent import Sampling
from gradflow.dynamics.modified import along
from gradflow.dynamics.watch import squared_norm
from gradflow.errors import require


class SGDFlow(eqx.Module):
    """The flow that SGD follows on average, for `gradient_flow(field=...)`: -grad(L + (h/4) E|g_B|^2), and -dL/dt along it.

    To O(h^2) for SGD without replacement, over whole epochs. data[0] holds the samples along its leading axis, and the loss
    is their mean.
    """

    loss: Callable
    learning_rate: Float[Array, ""]
    batch_size: Float[Array, ""]
    sampling: Sampling = eqx.field(static=True, default="without_replacement")

    def __call__(self, params: PyTree, *data: PyTree) -> tuple[PyTree, Float[Array, ""]]:
        velocity = jax.grad(lambda p: -self.regularised_loss(p, *data))(params)
        return velocity, -along(lambda p: self.loss(p, *data), params, velocity)

    def regularised_loss(self, params: PyTree, *data: PyTree) -> Float[Array, ""]:
        """L + (h/4) E|g_B|^2."""
        gradient, noise = minibatch_gradient(self.loss, self.batch_size, self.sampling, params, *data)
        return self.loss(params, *data) + self.learning_rate / 4 * (gradient + noise)
