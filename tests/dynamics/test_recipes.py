"""Optimizers by name take the steps of their definitions, at the rate that the schedule says, of gradients that are not too long."""

import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import InputError, descend
from gradflow.dynamics.recipes import Recipe

RATE = 0.1
TARGET = np.random.default_rng(0).normal(size=(2, 4))
STIFF = np.array([1.0, 2.0, 3.0, 4.0])
START = np.random.default_rng(1).normal(size=(2, 4))


def misfit(w, target=TARGET):
    """sum of STIFF_j (w_ij - target_ij)^2 / 2, with gradient STIFF (w - target)."""
    return 0.5 * jnp.sum(STIFF * (w - target) ** 2)


def gradient(w):
    return STIFF * (w - TARGET)


def path(recipe, steps=3, loss=misfit, start=START):
    run = descend(
        loss, jnp.asarray(start), learning_rate=RATE, steps=steps, save_steps=np.arange(steps + 1), optimizer=recipe
    )
    assert run.complete
    return np.asarray(run.states)


# ------------------------------------------------------------------------------------------- optimizers, by definition


def sgd(w, steps=3):
    for _ in range(steps):
        w = w - RATE * gradient(w)
        yield w


def momentum(w, steps=3):
    m = 0
    for _ in range(steps):
        m = 0.9 * m + gradient(w)
        w = w - RATE * m
        yield w


def adam(w, steps=3, decay=0.0):
    m = v = 0
    for k in range(1, steps + 1):
        g = gradient(w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - RATE * (m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8) + decay * w)
        yield w


def adamw(w):
    return adam(w, decay=0.01)


def rmsprop(w, steps=3):
    v = 0
    for _ in range(steps):
        g = gradient(w)
        v = 0.99 * v + 0.01 * g**2
        w = w - RATE * g / (np.sqrt(v) + 1e-8)
        yield w


def sign(w, steps=3):
    for _ in range(steps):
        w = w - RATE * np.sign(gradient(w))
        yield w


@pytest.mark.parametrize("rule", [sgd, momentum, adam, adamw, rmsprop, sign])
def test_an_optimizer_is_its_definition(rule):
    # three steps, each rounded; the decays' 1 - 0.999^k is known to 1e-13
    np.testing.assert_allclose(path(Recipe(rule.__name__))[1:], list(rule(START)), rtol=1e-11)


def squashed(s):
    """What five Newton-Schulz steps of Muon make of the singular values of a matrix of norm 1: near 1, not 1."""
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


@pytest.mark.parametrize("wide", [True, False])
def test_muon_moves_a_matrix_along_the_singular_vectors_of_its_momentum(wide):
    """By singular value decomposition. Muon's iteration is not the polar factor U V^T: it takes singular values to [0.68, 1.14]."""

    def loss(w):
        return misfit(w if wide else w.T)

    start = START if wide else START.T
    moves = -np.diff(path(Recipe("muon"), loss=loss, start=start), axis=0) / RATE
    w, m = start, 0
    for k, moved in enumerate(moves, start=1):
        g = gradient(w) if wide else gradient(w.T).T
        m = 0.95 * m + 0.05 * g
        ahead = 0.95 * m / (1 - 0.95 ** (k + 1)) + 0.05 * g / (1 - 0.95**k)  # Nesterov, with bias corrections
        u, s, vt = np.linalg.svd(ahead, full_matrices=False)
        grown = np.sqrt(2) if wide else 1  # sqrt(max(1, columns / rows))
        expected = grown * u @ np.diag(squashed(s / np.linalg.norm(s))) @ vt
        np.testing.assert_allclose(
            moved, expected, rtol=0, atol=1e-6
        )  # its eps of 1e-8 beside the norm, times slope 3.4^5 / 10
        spread = np.linalg.svd(moved)[1] / grown
        assert spread.min() > 0.68 and spread.max() < 1.14
        w = w - RATE * moved


def test_muon_moves_what_is_no_matrix_by_adam_with_nesterov_momentum():
    got = path(Recipe("muon"), loss=lambda w: misfit(w.reshape(2, 4)), start=START.ravel())
    m = v = 0
    w = START
    for k in range(1, 4):
        g = gradient(w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        ahead = 0.9 * m / (1 - 0.9 ** (k + 1)) + 0.1 * g / (1 - 0.9**k)
        w = w - RATE * ahead / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
        np.testing.assert_allclose(got[k], w.ravel(), rtol=1e-11)  # as above


# ----------------------------------------------------------------------------------------------- schedules and clipping


def plane(w):
    """Gradient (3, 4), everywhere."""
    return w @ jnp.array([3.0, 4.0])


def factors(recipe, steps):
    """By what each step's rate is multiplied; sign descent moves by its rate."""
    moved = -np.diff(path(recipe, steps=steps, loss=plane, start=np.zeros(2)), axis=0) / RATE
    np.testing.assert_allclose(moved[:, 0], moved[:, 1], rtol=1e-12)
    return moved[:, 0]


def test_schedules_are_their_formulas():
    k = np.arange(12)
    tolerance = dict(rtol=0, atol=1e-7)  # optax computes factors in 32 bits
    np.testing.assert_allclose(factors(Recipe("sign"), 12), np.ones(12), **tolerance)
    np.testing.assert_allclose(factors(Recipe("sign", warm_up=5), 12), np.minimum(k / 5, 1), **tolerance)
    fall = (1 + np.cos(np.pi * np.clip((k - 4) / 6, 0, 1))) / 2
    np.testing.assert_allclose(
        factors(Recipe("sign", warm_up=4, cosine_to=10), 12), np.where(k < 4, k / 4, fall), **tolerance
    )
    fall = (1 + np.cos(np.pi * np.clip(k / 10, 0, 1))) / 2
    np.testing.assert_allclose(factors(Recipe("sign", cosine_to=10), 12), fall, **tolerance)


def test_a_schedule_changes_the_rate_and_not_the_moments():
    """Adam's moments hear of the step at which the rate is 0, and weight decay is held back with the rest."""
    scheduled = path(Recipe("adamw", warm_up=2))
    m = v = 0
    w = START
    for k, factor in [(1, 0.0), (2, 0.5), (3, 1.0)]:
        g = gradient(w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - factor * RATE * (m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8) + 0.01 * w)
        np.testing.assert_allclose(scheduled[k], w, rtol=1e-11)  # as above


@pytest.mark.parametrize(("clip", "moved"), [(1.0, [0.6, 0.8]), (5.5, [3.0, 4.0]), (None, [3.0, 4.0])])
def test_a_gradient_that_is_too_long_is_shortened_and_a_short_one_left_alone(clip, moved):
    got = path(Recipe("sgd", clip=clip), steps=1, loss=plane, start=np.zeros(2))[1]
    np.testing.assert_allclose(got, -RATE * np.array(moved), rtol=1e-14)  # roundings


def test_the_norm_that_is_clipped_is_that_of_the_gradient_before_the_optimizer():
    """Momentum of clipped gradients grows beyond the clip."""
    got = path(Recipe("momentum", clip=1.0), steps=2, loss=plane, start=np.zeros(2))
    np.testing.assert_allclose(np.linalg.norm(np.diff(got, axis=0), axis=1), [0.1, 0.19], rtol=1e-12)


# ---------------------------------------------------------------------------------------------------------- in practice


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "momentum", "rmsprop", "muon", "sign"])
def test_weights_in_single_precision_stay_so(name):
    start = {"w": jnp.ones((2, 3), jnp.float32), "b": jnp.ones(3, jnp.float32)}
    recipe = Recipe(name, warm_up=1, cosine_to=4, clip=1.0)
    run = descend(
        lambda p: jnp.sum(p["w"] ** 2) + jnp.sum(p["b"] ** 2), start, learning_rate=0.01, steps=2, optimizer=recipe
    )
    assert all(leaf.dtype == jnp.float32 and (leaf < 1).all() for leaf in run.final.values())


def test_equal_recipes_and_other_rates_share_one_compilation():
    traces = []

    def counted(w):
        traces.append(1)
        return misfit(w)

    for rate in (0.1, 0.2):
        recipe = Recipe("adam", warm_up=3, cosine_to=9, clip=2.0)
        descend(counted, jnp.asarray(START), learning_rate=rate, steps=2, optimizer=recipe)
        traces.append("run")
    first = traces.index("run")
    assert first >= 3 and len(traces) - first - 2 <= 1  # once more, to see that the loss is a number


def test_a_recipe_says_what_it_is():
    run = descend(misfit, jnp.asarray(START), learning_rate=0.1, steps=1, optimizer=Recipe("muon", 50, 400, 1.0))
    assert run.method == "gradient descent, muon, warm-up 50, cosine to 400, clip 1, learning_rate = 0.1"
    assert str(Recipe()) == "adam"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(optimizer="lion"), "Unknown optimizer 'lion'; known are adam, adamw, "),
        (dict(warm_up=-1), "warm_up must be a number of steps, 0 for none, got -1"),
        (dict(warm_up=10, cosine_to=10), "cosine_to must be a step behind the warm-up of 10, got 10"),
        (dict(clip=0.0), "clip must be positive, got 0.0"),
    ],
)
def test_recipes_that_do_not_fit_together_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        Recipe(**options)
