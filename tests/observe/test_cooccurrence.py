"""Observation: what the dataset says, recomputed by hand from its own tokens and states; flow and descent look alike."""

import equinox as eqx
import jax
import numpy as np
import pytest

from gradflow.dynamics import descend, gradient_flow, log_times
from gradflow.models import cooccurrence, coupled
from gradflow.observe.cooccurrence import Observer, dataset
from gradflow.tasks.cooccurrence import CoOccurrence


@pytest.fixture(scope="module")
def runs(batch, weights):
    """The same training by three routes, observed."""
    initial, width = coupled.reduce(weights), coupled.width_of(weights)
    observer = Observer(initial, CoOccurrence(12, 4, initial.G.size).held_out(jax.random.key(9), 40))
    times = log_times(1e-2, 30.0, 25)
    full = gradient_flow(cooccurrence.loss, weights, batch, times=times, save=observer, rtol=1e-9)
    reduced = gradient_flow(
        coupled.loss, initial, batch, width, times=times, field=coupled.field, save=observer, rtol=1e-9
    )
    trained = descend(cooccurrence.loss, weights, batch, learning_rate=1e-3, steps=300, save=observer)
    return {
        name: dataset(trajectory, batch, initial, width, sigma0=1.0, sigma1=1.0, random_words="unique")
        for name, trajectory in {"full": full, "reduced": reduced, "descent": trained}.items()
    }


def test_full_and_coupled_flow_are_observed_alike(runs):
    full, reduced = runs["full"], runs["reduced"]
    assert set(full) == set(reduced) and full.sizes == reduced.sizes
    for name in full:
        if name not in ("energy_residual", "gradient_spread", "R") and not name.startswith("change"):
            scale = max(float(abs(full[name]).max()), 1e-12)
            np.testing.assert_allclose(reduced[name] / scale, full[name] / scale, atol=1e-6, err_msg=name)  # rtol 1e-9


def test_descent_yields_the_same_variables_as_flow(runs):
    assert set(runs["descent"]) == set(runs["full"])


def test_losses_gradients_and_ratios_follow_from_tokens_and_G_and_A(runs, weights, batch):
    """From the stored file's point of view: at the start, everything is recomputable from tokens, G0, A0 and m."""
    run = runs["full"]
    A, G, m = run["A0"].values, run["G0"].values, run.attrs["m"]
    s, losses = np.zeros(4), [[], [], [], []]
    for words, y, k in zip(run["tokens"].values, run["label"].values, run["class"].values, strict=True):
        F = 0.0
        for query in words:
            score = np.exp([A[key, query] / np.sqrt(m) for key in words])
            F += (score / score.sum()) @ G[words]
        s[k] += 1 / (1 + np.exp(y * F))
        losses[k].append(np.log1p(np.exp(-y * F)))
    np.testing.assert_allclose(run["gradient_by_class"][0], s, rtol=1e-12)
    np.testing.assert_allclose(run["loss_by_class"][0], [np.mean(each) for each in losses], rtol=1e-12)
    np.testing.assert_allclose(run["loss"][0], np.mean(np.concatenate(losses)), rtol=1e-12)
    np.testing.assert_allclose(run["R"][0], (s[1] + s[2] + s[3] - s[0]) / (s[0] - s[1]), rtol=1e-9)
    np.testing.assert_allclose(run["s2_over_s3"][0], s[1] / s[2], rtol=1e-12)


def test_velocities_are_the_slopes_of_what_they_are_velocities_of(runs):
    run = runs["reduced"]
    for name, of in (("dG", run["G"][:, :3]), ("dA", run["A"]), ("dGamma_V", run["Gamma_V"])):
        t = run["time"].values
        step = t[13] - t[11]
        slope = (of.values[13] - of.values[11]) / step
        between = np.stack([run[name].values[i] for i in (11, 12, 13)])
        assert (slope <= between.max(0) + 1e-12).all() and (slope >= between.min(0) - 1e-12).all(), name


def test_attention_is_a_distribution_over_keys(runs):
    """In class I1 with L = 4 there is one word of each kind, so each query's weights add up to 1."""
    attention = runs["full"]["attention"].sel(sentence_class="I1").values
    np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-12)
    assert np.isnan(runs["full"]["attention"].sel(sentence_class="I2", key_kind="mu2").values).all()


def test_the_readout_rate_is_the_rate_of_the_loss_through_the_readout_alone(runs, weights, batch):
    """|grad over W and W_V|^2 = rate * |dLoss/dG|^2, from the full weights' own gradient."""
    gradient = eqx.filter_grad(cooccurrence.loss)(weights, batch)
    state, width = coupled.reduce(weights), coupled.width_of(weights)
    r = jax.grad(coupled.word_loss)(state.G, state.A, batch, width)
    through_readout = float((gradient.W**2).sum() + (gradient.W_V**2).sum())
    assert float(runs["full"]["readout_rate"][0]) == pytest.approx(through_readout / float(r @ r), rel=1e-10)


def test_every_variable_says_what_it_is(runs):
    for name, variable in runs["full"].data_vars.items():
        assert variable.attrs["long_name"] and "units" in variable.attrs, name
