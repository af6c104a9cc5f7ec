"""The mean start of a phase diagram, in one ensemble of orbit states, against one coupled flow of words for each point."""

import jax
import numpy as np
import pytest

from gradflow.dynamics import gradient_flow, log_times
from gradflow.models import coupled
from gradflow.models.cooccurrence import word_outputs
from gradflow.observe.phase_diagram import mean_start
from gradflow.observe.phases import all_positive_from
from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary


def _from_words(m, sigma1, sigma0, n=12, L=4, m1=8):
    task = CoOccurrence(n, L, least_vocabulary(n, L))
    batch, rate = task.sample(jax.random.key(0)), m * m1 * (sigma0**2 + sigma1**2)
    start = coupled.infinite_width_start(m=m, m1=m1, d=task.d, L=L, sigma0=sigma0, sigma1=sigma1)
    flow = gradient_flow(
        coupled.loss, start, batch, coupled.Width(m, m1), field=coupled.field, times=log_times(1e-2 / rate, 100 / rate, 121),
        save=lambda state, batch, width: batch.label * word_outputs(state.G, state.A, batch.tokens, width.m),
    )  # fmt: skip
    return all_positive_from(flow.times, flow.states).time


@pytest.mark.parametrize("sigma0", [None, 0.02])
def test_t1_of_the_mean_start_is_that_of_the_words(sigma0):
    m, sigma1 = [16, 256], [0.05, 0.4]
    table = mean_start(m, sigma1, n=12, L=4, m1=8, sigma0=sigma0)
    for width in m:
        for scale in sigma1:
            told = float(table["T1"].sel(m=width, sigma1=scale))
            own = 1 / (2 * (4 * width) ** 0.5) if sigma0 is None else sigma0
            assert told == pytest.approx(
                _from_words(float(width), scale, own), rel=1e-4
            )  # rtol 1e-5 over some fifty steps
            np.testing.assert_allclose(table["rate"].sel(m=width, sigma1=scale), width * 8 * (own**2 + scale**2))
