"""Frozen parameters stand still, and the rest trains as if they were constants; in both of the model's forms."""

import jax
import numpy as np
import pytest

from gradflow import InputError
from gradflow.dynamics import gradient_flow, linear_times
from gradflow.dynamics.flow import GradientField
from gradflow.interventions.freeze import Frozen
from gradflow.models import cooccurrence, coupled
from tests.cases import away

TIMES = linear_times(20, 3)
OPTIONS = dict(times=TIMES, method="dopri8", rtol=1e-10, show_progress=False)


def test_frozen_attention_is_the_flow_of_the_other_weights_in_both_forms(batch, weights):
    def rest(trained, batch):
        W, W_V = trained
        return cooccurrence.loss(cooccurrence.Weights(W, W_V, weights.W_K, weights.W_Q, weights.a), batch)

    expected = gradient_flow(rest, (weights.W, weights.W_V), batch, **OPTIONS)
    field = Frozen(cooccurrence.loss, GradientField(cooccurrence.loss), ("W_K", "W_Q"))
    of_weights = gradient_flow(cooccurrence.loss, weights, batch, field=field, **OPTIONS)
    np.testing.assert_array_equal(of_weights.final.W_K, weights.W_K)
    assert away((of_weights.final.W, of_weights.final.W_V), expected.final) < 1e-9
    assert np.abs(of_weights.energy_residual).max() < 1e-9

    state, width = coupled.reduce(weights), coupled.width_of(weights)
    reduced_field = Frozen(coupled.loss, coupled.field, ("A", "Gamma_K", "Gamma_Q"))
    of_coupled = gradient_flow(coupled.loss, state, batch, width, field=reduced_field, **OPTIONS)
    assert away(of_coupled.final, coupled.reduce(of_weights.final)) < 1e-8
    free = gradient_flow(coupled.loss, state, batch, width, field=coupled.field, **OPTIONS)
    assert away(free.final, of_coupled.final) > 1e-4  # it does matter


def test_a_name_that_the_state_does_not_have_is_refused(batch, weights):
    field = Frozen(cooccurrence.loss, GradientField(cooccurrence.loss), ("W_O",))
    with pytest.raises(InputError, match="Weights has no 'W_O' to freeze"):
        jax.eval_shape(field, weights, batch)
