"""Parameters with a rate of their own: frozen ones stand still and the rest trains as if they were constants; in both of the model's forms."""

import jax
import numpy as np
import pytest

from gradflow import InputError
from gradflow.dynamics import gradient_flow, linear_times
from gradflow.dynamics.flow import GradientField
from gradflow.interventions.rates import OwnRate
from gradflow.models import cooccurrence, coupled
from tests.cases import away

TIMES = linear_times(20, 3)
OPTIONS = dict(times=TIMES, method="dopri8", rtol=1e-10, show_progress=False)


def weights_loss(weights, batch, rate):
    return cooccurrence.loss(weights, batch)


def coupled_loss(state, batch, width, rate):
    return coupled.loss(state, batch, width)


WEIGHTS = OwnRate(cooccurrence.loss, GradientField(cooccurrence.loss), ("W_K", "W_Q"))
COUPLED = OwnRate(coupled.loss, coupled.field, ("A", "Gamma_K", "Gamma_Q"))


def test_frozen_attention_is_the_flow_of_the_other_weights(batch, weights):
    def rest(trained, batch):
        W, W_V = trained
        return cooccurrence.loss(cooccurrence.Weights(W, W_V, weights.W_K, weights.W_Q, weights.a), batch)

    expected = gradient_flow(rest, (weights.W, weights.W_V), batch, **OPTIONS)
    frozen = gradient_flow(weights_loss, weights, batch, 0.0, field=WEIGHTS, **OPTIONS)
    np.testing.assert_array_equal(frozen.final.W_K, weights.W_K)
    assert away((frozen.final.W, frozen.final.W_V), expected.final) < 1e-9
    assert np.abs(frozen.energy_residual).max() < 1e-9


@pytest.mark.parametrize("rate", [0.0, 3.0])
def test_attention_at_another_rate_is_the_same_in_the_coupled_variables(batch, weights, rate):
    of_weights = gradient_flow(weights_loss, weights, batch, rate, field=WEIGHTS, **OPTIONS)
    state, width = coupled.reduce(weights), coupled.width_of(weights)
    of_coupled = gradient_flow(coupled_loss, state, batch, width, rate, field=COUPLED, **OPTIONS)
    assert away(of_coupled.final, coupled.reduce(of_weights.final)) < 1e-8
    plain = gradient_flow(coupled_loss, state, batch, width, 1.0, field=COUPLED, **OPTIONS)
    assert away(plain.final, of_coupled.final) > 1e-4  # it does matter
    assert np.abs(of_coupled.energy_residual).max() < 1e-9


def test_a_name_that_the_state_does_not_have_is_refused(batch, weights):
    field = OwnRate(cooccurrence.loss, GradientField(cooccurrence.loss), ("W_O",))
    with pytest.raises(InputError, match="Weights has no 'W_O' to train"):
        jax.eval_shape(field, weights, batch, 0.0)
