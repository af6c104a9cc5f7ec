"""Eq. 1 by gathering, term by term and in plain loops is one function, with the gradients of Appendix B."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.stats import ortho_group

from gradflow import InputError
from gradflow.models import cooccurrence
from gradflow.tasks.cooccurrence import Batch

#        n, L, d, m, m1: awkward sizes, with and without repeated words (n L against d), m below and above d
SIZES = [(6, 3, 18, 5, 3), (18, 5, 90, 4, 2), (12, 4, 6, 7, 1), (30, 7, 9, 6, 5)]
MATRICES = ("W", "W_V", "W_K", "W_Q")

outputs, plain_outputs = jax.jit(cooccurrence.outputs), jax.jit(cooccurrence.plain_outputs)
loss, plain_loss = jax.jit(cooccurrence.loss), jax.jit(cooccurrence.plain_loss)
gradient, plain_gradient = jax.jit(jax.grad(cooccurrence.loss)), jax.jit(jax.grad(cooccurrence.plain_loss))
init = jax.jit(cooccurrence.init, static_argnames=("m", "m1", "d", "L", "initialisation", "sigma0", "sigma1"))


@functools.cache
def case(n, L, d, m, m1):
    """Sentences, all words distinct where d allows it, and weights large enough for attention far from uniform."""
    rng = np.random.default_rng(n)
    tokens = rng.permutation(d).reshape(n, L) if d == n * L else rng.integers(d, size=(n, L))
    batch = Batch(jnp.array(tokens), jnp.array(rng.choice([-1.0, 1.0], n)), jnp.zeros(n, int))
    shapes = {"W": (m1, m), "W_V": (m, d), "W_K": (m, d), "W_Q": (m, d)}
    matrices = {
        name: jnp.array(rng.normal(scale=0.4 if name == "W" else 0.8, size=shape)) for name, shape in shapes.items()
    }
    return cooccurrence.Weights(**matrices, a=jnp.array(rng.choice([-1.0, 1.0], m1))), batch


def arrays(weights):
    return tuple(np.asarray(leaf) for leaf in (weights.W, weights.W_V, weights.W_K, weights.W_Q, weights.a))


def softmax(scores):
    return np.exp(scores) / np.exp(scores).sum()


def output_by_loops(weights, sentence, mu):
    """F(X) of one sentence, Eq. 1 as it stands; `mu` has the embeddings as columns."""
    W, W_V, W_K, W_Q, a = arrays(weights)
    X = mu[:, sentence]
    F = 0.0
    for x_l in X.T:
        attention = softmax(X.T @ W_K.T @ W_Q @ x_l / np.sqrt(len(W_K)))
        for a_j, w_j in zip(a, W, strict=True):
            F += a_j * (w_j @ (W_V @ (X @ attention)))
    return F


def velocity_of_the_page(weights, batch):
    """dW/dt, dW_V/dt, dW_K/dt, dW_Q/dt as Appendix B prints them, summed over i, l and j one by one."""
    W, W_V, W_K, W_Q, a = arrays(weights)
    tokens, y = np.asarray(batch.tokens), np.asarray(batch.label)
    n, (m, d) = len(tokens), W_K.shape
    dW, dW_V, dW_K, dW_Q = (np.zeros_like(matrix) for matrix in (W, W_V, W_K, W_Q))
    for i in range(n):
        X = np.eye(d)[:, tokens[i]]
        V, K, Q = W_V @ X, W_K @ X, W_Q @ X
        gy = y[i] / (1 + np.exp(y[i] * output_by_loops(weights, tokens[i], np.eye(d))))
        for x_l, q_l in zip(X.T, Q.T, strict=True):
            p = softmax(K.T @ q_l / np.sqrt(m))
            for j, (a_j, w_j) in enumerate(zip(a, W, strict=True)):
                centred = w_j @ V - w_j @ V @ p
                dW[j] += gy * a_j * (V @ p) / n
                dW_V += gy * a_j * np.outer(w_j, X @ p) / n
                dW_K += gy * a_j * np.outer(q_l, p) @ np.diag(centred) @ X.T / (n * np.sqrt(m))
                dW_Q += gy * a_j * np.outer(K @ np.diag(centred) @ p, x_l) / (n * np.sqrt(m))
    return dW, dW_V, dW_K, dW_Q


# ------------------------------------------------------------------------------------------------------ the function


@pytest.mark.parametrize("size", SIZES)
def test_gathered_and_plain_model_and_plain_loops_agree(size):
    weights, batch = case(*size)
    d = size[2]
    by_loops = np.array([output_by_loops(weights, sentence, np.eye(d)) for sentence in np.asarray(batch.tokens)])
    loss_by_loops = np.mean(np.log(1 + np.exp(-np.asarray(batch.label) * by_loops)))
    # 1e-13: sums of at most L^2 m m1 = 1470 terms, each rounded to 1e-16
    tolerance = 1e-13 * np.abs(by_loops).max()
    np.testing.assert_allclose(outputs(weights, batch.tokens), by_loops, rtol=0, atol=tolerance)
    np.testing.assert_allclose(plain_outputs(weights, batch.tokens), by_loops, rtol=0, atol=tolerance)
    np.testing.assert_allclose(loss(weights, batch), loss_by_loops, rtol=1e-13)
    np.testing.assert_allclose(plain_loss(weights, batch), loss_by_loops, rtol=1e-13)


@pytest.mark.parametrize("size", SIZES)
def test_any_orthonormal_embedding_gives_the_model_in_its_own_basis(size):
    weights, batch = case(*size)
    mu = ortho_group.rvs(size[2], random_state=size[0])
    turned = cooccurrence.Weights(
        W=weights.W, W_V=weights.W_V @ mu.T, W_K=weights.W_K @ mu.T, W_Q=weights.W_Q @ mu.T, a=weights.a
    )
    expected = np.asarray(plain_outputs(weights, batch.tokens))
    tolerance = 1e-13 * np.abs(expected).max()  # as above
    np.testing.assert_allclose(plain_outputs(turned, batch.tokens, mu), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(plain_loss(turned, batch, mu), loss(weights, batch), rtol=1e-13)
    in_embedding = [output_by_loops(weights, sentence, mu) for sentence in np.asarray(batch.tokens)]
    np.testing.assert_allclose(plain_outputs(weights, batch.tokens, mu), in_embedding, rtol=0, atol=tolerance)


def test_without_scores_a_sentence_gets_the_sum_of_its_words():
    weights, batch = case(*SIZES[0])
    G = np.asarray(weights.W_V.T @ (weights.W.T @ weights.a))
    got = jax.jit(cooccurrence.word_outputs)(jnp.array(G), jnp.zeros((18, 18)), batch.tokens, 5.0)
    # L queries attend with 1/L to each of L words; rounding only
    np.testing.assert_allclose(got, G[np.asarray(batch.tokens)].sum(axis=1), rtol=0, atol=1e-14 * np.abs(G).sum())


def test_attention_is_a_distribution_over_keys_and_prefers_the_key_with_the_larger_score():
    tokens = jnp.array([[0, 1, 2]])
    A = jnp.zeros((3, 3)).at[1, 0].set(2.0)  # query word 0 likes key word 1
    p = np.asarray(cooccurrence.attention(A, tokens, 4.0)[0])
    liked = np.e / (np.e + 2)  # score 2 / sqrt(4) against two zeros
    np.testing.assert_allclose(p[:, 0], [(1 - liked) / 2, liked, (1 - liked) / 2], rtol=1e-14)  # rounding
    np.testing.assert_allclose(p[:, 1:], np.full((3, 2), 1 / 3), rtol=1e-14)


def test_the_loss_is_finite_and_linear_for_outputs_far_out():
    assert float(cooccurrence.logistic(jnp.array([-1e4]), jnp.array([1.0]))) == 1e4
    assert float(cooccurrence.logistic(jnp.array([1e4]), jnp.array([1.0]))) == 0.0


# ----------------------------------------------------------------------------------------------------- the gradients


@pytest.mark.parametrize("size", SIZES)
def test_autodiff_gives_the_four_gradients_of_appendix_B(size):
    weights, batch = case(*size)
    got = gradient(weights, batch)
    for name, velocity in zip(MATRICES, velocity_of_the_page(weights, batch), strict=True):
        # 1e-12: rounding of sums with cancellation, against the largest entry
        np.testing.assert_allclose(
            -getattr(got, name), velocity, rtol=0, atol=1e-12 * np.abs(velocity).max(), err_msg=name
        )


@pytest.mark.parametrize("size", SIZES)
def test_the_signs_of_the_readout_get_no_gradient(size):
    weights, batch = case(*size)
    assert not np.asarray(gradient(weights, batch).a).any()
    assert not np.asarray(plain_gradient(weights, batch).a).any()


@pytest.mark.parametrize("size", [SIZES[0], SIZES[3]])
@pytest.mark.parametrize("matrix", range(4), ids=MATRICES)
def test_the_gradients_of_appendix_B_are_the_slopes_of_the_plain_loss(size, matrix):
    weights, batch = case(*size)
    velocity = velocity_of_the_page(weights, batch)[matrix]
    flat, unravel = ravel_pytree(weights)
    rng = np.random.default_rng(matrix)

    def embed(direction):
        """A direction in one matrix as a direction in all weights."""
        zero = {name: np.zeros_like(leaf) for name, leaf in zip((*MATRICES, "a"), arrays(weights), strict=True)}
        return ravel_pytree(cooccurrence.Weights(**(zero | {MATRICES[matrix]: direction})))[0]

    entries = rng.choice(velocity.size, 6, replace=False)
    directions = [np.eye(velocity.size)[entry].reshape(velocity.shape) for entry in entries]
    directions += [direction / np.linalg.norm(direction) for direction in rng.normal(size=(4, *velocity.shape))]
    # sixth-order central differences at h = 0.01: truncation h^6 f^(7) / 140 and rounding 1e-16 / h are below 1e-11
    h, steps, stencil = 0.01, np.array([-3, -2, -1, 1, 2, 3]), np.array([-1, 9, -45, 45, -9, 1]) / 60
    points = np.stack([flat + h * k * embed(direction) for direction in directions for k in steps])
    values = jax.jit(jax.vmap(lambda point: cooccurrence.plain_loss(unravel(point), batch)))(points).reshape(-1, 6)
    slopes = np.asarray(values) @ stencil / h
    expected = [-np.sum(velocity * direction) for direction in directions]
    np.testing.assert_allclose(slopes, expected, rtol=0, atol=1e-9 * np.abs(velocity).max())


# -------------------------------------------------------------------------------------------------- the initialisation

M, M1, D, LENGTH = 300, 200, 250, 7
VARIANCES = {  # of W (fan_in m) and of W_V, W_K, W_Q (fan_in d)
    "paper": (1 / M1, 1 / (4 * LENGTH * M)),
    "kaiming_normal": (2 / M, 2 / D),
    "kaiming_uniform": (6 / M / 3, 6 / D / 3),
    "torch_linear": (1 / M / 3, 1 / D / 3),
}


@pytest.mark.parametrize("initialisation", VARIANCES)
def test_initial_entries_have_the_mean_variance_and_shape_of_their_law(initialisation):
    weights = init(jax.random.key(0), m=M, m1=M1, d=D, L=LENGTH, initialisation=initialisation)
    normal = initialisation in ("paper", "kaiming_normal")
    assert weights.W.shape == (M1, M)
    assert weights.W_V.shape == weights.W_K.shape == weights.W_Q.shape == (M, D)
    for matrix, variance in zip(
        arrays(weights), [VARIANCES[initialisation][0]] + 3 * [VARIANCES[initialisation][1]], strict=False
    ):
        kurtosis = 3 if normal else 9 / 5
        # five standard errors of a mean and of a variance
        assert abs(matrix.mean()) < 5 * np.sqrt(variance / matrix.size)
        assert abs(matrix.var() / variance - 1) < 5 * np.sqrt((kurtosis - 1) / matrix.size)
        assert abs(np.mean(matrix**4) / matrix.var() ** 2 - kurtosis) < 5 * np.sqrt((96 if normal else 1) / matrix.size)


def test_the_four_matrices_are_drawn_independently():
    _, W_V, W_K, W_Q, _ = arrays(init(jax.random.key(0), m=M, m1=M, d=D, L=LENGTH))
    for one, other in ((W_V, W_K), (W_V, W_Q), (W_K, W_Q)):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(one.size)  # five standard errors


def test_the_readout_signs_are_fair():
    a = np.asarray(init(jax.random.key(2), m=2, m1=10_000, d=4, L=3).a)
    assert set(a) == {1.0, -1.0}
    assert abs(a.sum()) < 5 * np.sqrt(a.size)  # five standard deviations of a fair coin


@pytest.mark.parametrize("initialisation", ["paper", "kaiming_uniform"])
def test_given_scales_take_the_place_of_the_laws_own(initialisation):
    def draw(**scales):
        return cooccurrence.init(jax.random.key(3), m=30, m1=8, d=9, L=5, initialisation=initialisation, **scales)

    own = (0.5 / np.sqrt(5 * 30), 1 / np.sqrt(8)) if initialisation == "paper" else (np.sqrt(2 / 9), np.sqrt(2 / 30))
    reference, scaled = draw(), draw(sigma0=2 * own[0], sigma1=3 * own[1])
    for name, factor in (("W", 3), ("W_V", 2), ("W_K", 2), ("W_Q", 2)):
        np.testing.assert_allclose(getattr(scaled, name), factor * getattr(reference, name), rtol=1e-14)  # rounding
    stated = cooccurrence.entry_scales(initialisation, m=30, m1=8, d=9, L=5)
    assert stated == pytest.approx(own, rel=1e-14)


def test_the_same_key_gives_the_same_weights_and_another_key_others():
    def draw(seed):
        return cooccurrence.init(jax.random.key(seed), m=5, m1=3, d=7, L=3)

    assert all(np.array_equal(x, y) for x, y in zip(arrays(draw(0)), arrays(draw(0)), strict=True))
    assert not np.array_equal(draw(0).W_K, draw(1).W_K)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"m": 0}, "m must be positive, got 0"),
        ({"m1": -1}, "m1 must be positive, got -1"),
        ({"d": 0}, "d must be positive, got 0"),
        ({"L": 0}, "L must be positive, got 0"),
        ({"sigma0": -0.1}, "sigma0 must be >= 0 and sigma1 > 0, got -0.1"),
        ({"sigma1": 0.0}, "sigma0 must be >= 0 and sigma1 > 0"),
        ({"initialisation": "xavier"}, "'xavier'; known are paper, kaiming_normal, kaiming_uniform, torch_linear"),
    ],
)
def test_sizes_scales_and_names_that_do_not_exist_are_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        cooccurrence.init(jax.random.key(0), **({"m": 4, "m1": 3, "d": 7, "L": 3} | arguments))
