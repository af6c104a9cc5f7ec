"""The linear theory of Phase 1 tells when the nonlinear flow leaves zero."""

import jax
import numpy as np
import sympy as sp

import gradflow
from derivations import phase_1
from gradflow.models import cooccurrence
from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary


def readout_size(weights, *_data):
    return weights.u @ weights.u


def escape_time(sigma, batch, d, m1):
    """When |u|^2 passes 1/2, where the loss has long ceased to be linear in F, from weights of size sigma."""
    weights = cooccurrence.init(jax.random.key(3), m=4, m1=m1, d=d, L=4, sigma0=sigma, sigma1=sigma)
    flow = gradflow.gradient_flow(
        cooccurrence.loss, weights, batch, times=gradflow.linear_times(40, 4001), method="dopri8", rtol=1e-9,
        atol=1e-12 * sigma, save=readout_size, show_progress=False,
    )  # fmt: skip
    return np.interp(np.log(0.5), np.log(flow.states), flow.times)


def test_each_power_of_ten_in_the_initial_scale_costs_ln_10_over_lambda():
    n, L, m1 = 12, 4, 3
    d = least_vocabulary(n, L)
    batch = CoOccurrence(n, L, d).sample(jax.random.key(0))
    rate = float(sp.sqrt(m1 * phase_1.squared_length(sp.Integer(n), sp.Integer(L))))
    late, later = (escape_time(sigma, batch, d, m1) for sigma in (1e-5, 1e-8))
    # what the linear theory leaves out is of the order of the larger scale
    np.testing.assert_allclose((later - late) * rate, 3 * np.log(10), rtol=1e-5)
