"""The coupled system is the flow of the weights in other variables; its start has the law of Gaussian weights."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ks_2samp

from gradflow import InputError, descend, gradient_flow, linear_times
from gradflow.models import cooccurrence, coupled
from tests.cases import case

NAMES = ("G", "S", "Gamma_V", "A", "Gamma_K", "Gamma_Q")

#        n, L, d, m, m1: awkward sizes, with and without repeated words, m below and above 2 d
SIZES = [(6, 3, 7, 5, 3), (18, 5, 30, 24, 4), (30, 7, 4, 9, 1)]


reduce, field = jax.jit(coupled.reduce), jax.jit(coupled.field)
loss, plain_loss = jax.jit(coupled.loss), jax.jit(cooccurrence.plain_loss)
r_and_D = jax.jit(jax.grad(lambda *args: -coupled.word_loss(*args), argnums=(0, 1)))


@jax.jit
def push_forward(weights, batch):
    """The velocity of reduce(weights) under gradient flow of the weights, by the chain rule; and |grad|^2."""
    gradient = jax.grad(cooccurrence.loss)(weights, batch)
    _, velocity = jax.jvp(coupled.reduce, (weights,), (jax.tree.map(jnp.negative, gradient),))
    return velocity, sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))


def r_and_D_of_the_page(state, batch, m):
    """r(mu) and D[nu, mu] of App. C, by loops over samples, queries and keys."""
    G, A = np.asarray(state.G), np.asarray(state.A)
    r, D = np.zeros_like(G), np.zeros_like(A)
    n = len(batch.tokens)
    for x, y in zip(np.asarray(batch.tokens), np.asarray(batch.label), strict=True):
        p = [np.exp(A[x, query] / np.sqrt(m)) / np.exp(A[x, query] / np.sqrt(m)).sum() for query in x]
        g = 1 / (1 + np.exp(y * sum(p_l @ G[x] for p_l in p)))
        for query, p_l in zip(x, p, strict=True):
            for h, key in enumerate(x):
                r[key] += g * y * p_l[h] / n
                D[key, query] += g * y * p_l[h] * (G[key] - p_l @ G[x]) / (n * np.sqrt(m))
    return r, D


def at(states, index):
    """One of several states that are stacked along a leading axis."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), states)


def largest(state):
    return {name: np.abs(getattr(state, name)).max() for name in NAMES}


def with_grams(state, **values):
    return eqx.tree_at(lambda s: tuple(getattr(s, name) for name in values), state, tuple(values.values()))


# ------------------------------------------------------------------------------------------------------ the equations


@pytest.mark.parametrize("size", SIZES)
def test_the_field_is_the_push_forward_of_the_full_gradient(size):
    weights, batch = case(*size)
    velocity, speed = field(reduce(weights), batch, coupled.width_of(weights))
    expected, expected_speed = push_forward(weights, batch)
    for name, scale in largest(expected).items():
        # 1e-12: rounding of sums over at most n L^2 = 1470 attention weights, against the largest entry
        np.testing.assert_allclose(
            getattr(velocity, name), getattr(expected, name), rtol=0, atol=1e-12 * scale, err_msg=name
        )
    np.testing.assert_allclose(speed, expected_speed, rtol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_the_coupled_loss_is_the_loss_of_the_weights(size):
    weights, batch = case(*size)
    width = coupled.width_of(weights)
    assert (width.m, width.m1) == size[3:]
    np.testing.assert_allclose(
        loss(reduce(weights), batch, width), plain_loss(weights, batch), rtol=1e-13
    )  # rounding of the outputs, which are sums of up to L^2 m m1 terms


@pytest.mark.parametrize("size", SIZES)
def test_r_and_D_are_the_sums_of_the_page(size):
    weights, batch = case(*size)
    state, width, d = reduce(weights), coupled.width_of(weights), size[2]
    r, D = r_and_D_of_the_page(state, batch, width.m)
    by_gradient = r_and_D(state.G, state.A, batch, width)
    # with these Gram matrices dG is r itself and dA is D itself
    zero, one = jnp.zeros((d, d)), jnp.eye(d)
    bare = with_grams(state, S=jnp.array(1.0), Gamma_V=zero, Gamma_K=zero, Gamma_Q=one)
    velocity, speed = field(bare, batch, width)
    mirrored, _ = field(with_grams(bare, Gamma_K=one, Gamma_Q=zero), batch, width)
    for got in (by_gradient[0], velocity.G):
        np.testing.assert_allclose(got, r, rtol=0, atol=1e-13 * np.abs(r).max())  # rounding, as below
    for got in (by_gradient[1], velocity.A, mirrored.A):
        np.testing.assert_allclose(got, D, rtol=0, atol=1e-13 * np.abs(D).max())
    np.testing.assert_allclose(speed, np.sum(r**2) + np.sum(D**2), rtol=1e-13)


@pytest.mark.parametrize("size", SIZES)
def test_columns_of_D_sum_to_zero_and_rows_do_not(size):
    weights, batch = case(*size)
    state = reduce(weights)
    D = np.asarray(r_and_D(state.G, state.A, batch, coupled.width_of(weights))[1])
    # a softmax does not see a shift of a query's scores; the rows are the negative control
    assert np.abs(D.sum(axis=0)).max() < 1e-14 * np.abs(D).sum()
    assert np.abs(D.sum(axis=1)).max() > 1e-2 * np.abs(D).max()


def test_full_and_reduced_trajectories_agree_to_t_50(full_flow, reduced_flow):
    """At rtol 1e-10 both flows err by about 1e-10 of the sizes that are reached: G 5, S 50; A changes by 3e-3."""
    assert full_flow.complete and reduced_flow.complete
    from_weights = jax.vmap(coupled.reduce)(full_flow.states)
    tolerances = {"G": 1e-8, "S": 1e-7, "Gamma_V": 1e-8, "A": 1e-11, "Gamma_K": 1e-11, "Gamma_Q": 1e-11}
    for name, tolerance in tolerances.items():
        one, other = np.asarray(getattr(from_weights, name)), getattr(reduced_flow.states, name)
        assert np.abs(one - one[0]).max() > 1e6 * tolerance  # a variable that stood still would prove nothing
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance, err_msg=name)
    np.testing.assert_allclose(full_flow.loss, reduced_flow.loss, rtol=1e-8)
    np.testing.assert_allclose(full_flow.dissipated, reduced_flow.dissipated, atol=1e-9)


# --------------------------------------------------------------------------------------------------------------- lift


@pytest.mark.parametrize("index", [0, 1, 5, 50])
def test_lift_finds_the_full_weights_along_the_reduced_flow(index, weights, full_flow, reduced_flow):
    """m = 24 < 2 d: the Gram matrix of keys and queries is rank-deficient. Tolerance: the error of the two flows."""
    state = at(reduced_flow.states, index)
    lifted = coupled.lift(state, weights)
    for name in ("W", "W_V", "W_K", "W_Q"):
        np.testing.assert_allclose(getattr(lifted, name), getattr(full_flow.states, name)[index], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(lifted.a, weights.a)
    again = reduce(lifted)
    for name, scale in largest(state).items():
        np.testing.assert_allclose(getattr(again, name), getattr(state, name), rtol=0, atol=1e-12 * scale, err_msg=name)


def test_lift_works_where_the_words_do_not_span_the_channels():
    """m = 16 > 2 d = 10."""
    weights, batch = case(6, 3, 5, 16, 3)
    flow = gradient_flow(cooccurrence.loss, weights, batch, times=linear_times(2.0, 5), method="DOP853", rtol=1e-12)
    for index in range(5):
        expected = at(flow.states, index)
        lifted = coupled.lift(reduce(expected), weights)
        for name in ("W", "W_V", "W_K", "W_Q"):
            moved = np.abs(getattr(expected, name) - getattr(weights, name)).max()
            assert index == 0 or moved > 1e-2
            # eigenvectors lose digits where conserved eigenvalues lie close: 1e-12 of the flow times up to 1e3
            np.testing.assert_allclose(getattr(lifted, name), getattr(expected, name), rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("change", [{"S": 1.5}, {"Gamma_V": 0.9}, {"A": 0.0}, {"Gamma_K": 1.2}])
def test_lift_refuses_a_state_that_is_on_no_flow_from_the_start(change, weights, reduced_flow):
    ((name, factor),) = change.items()
    state = at(reduced_flow.states, 5)
    with pytest.raises(InputError, match="on no gradient flow from these weights"):
        coupled.lift(with_grams(state, **{name: factor * getattr(state, name)}), weights)


def test_lift_refuses_the_flow_of_other_weights(reduced_flow, weights):
    state = at(reduced_flow.states, 5)
    other = eqx.tree_at(lambda w: w.W_K, weights, weights.W_Q)
    with pytest.raises(InputError, match="on no gradient flow from these weights"):
        coupled.lift(state, other)


# --------------------------------------------------------------------------------------------------------- the starts

DRAWS, D, M1, SIGMA0, SIGMA1 = 3000, 4, 3, 0.7, 0.6
WIDTHS = (5, 11)  # below and above 2 d


@functools.cache
def drawn(m, sigma0=SIGMA0, sigma1=SIGMA1):
    """Many coupled states of `draw`; not under jit, so that the widths share samplers that JAX compiles by shape."""
    keys = jax.random.split(jax.random.key(m), DRAWS)
    draw = jax.vmap(lambda key: coupled.draw(key, m=m, m1=M1, d=D, L=3, sigma0=sigma0, sigma1=sigma1))
    return jax.tree.map(np.asarray, draw(keys))


@functools.cache
def drawn_as_weights(m):
    """As many coupled states of Gaussian weights, drawn by numpy."""
    rng = np.random.default_rng(m)
    u = (rng.normal(scale=SIGMA1, size=(DRAWS, M1, m)) * rng.choice([-1, 1], (DRAWS, M1, 1))).sum(axis=1)
    W_V, W_K, W_Q = (rng.normal(scale=SIGMA0, size=(DRAWS, m, D)) for _ in range(3))

    def gram(one, other):
        return np.einsum("zci,zcj->zij", one, other)

    return coupled.Coupled(
        G=np.einsum("zci,zc->zi", W_V, u), S=(u**2).sum(axis=1), Gamma_V=gram(W_V, W_V),
        A=gram(W_K, W_Q), Gamma_K=gram(W_K, W_K), Gamma_Q=gram(W_Q, W_Q),
    )  # fmt: skip


@pytest.mark.parametrize("m", WIDTHS)
def test_draw_has_the_means_and_variances_of_wishart_blocks(m):
    state, s0, ES = drawn(m), SIGMA0**2, SIGMA1**2 * M1 * m
    eye = np.eye(D)
    exact = {  # mean and variance of every entry
        "G": (np.zeros(D), np.full(D, s0 * ES)),
        "S": (ES, 2 * m * (SIGMA1**2 * M1) ** 2),
        "A": (0 * eye, np.full((D, D), m * s0**2)),
    } | {name: (m * s0 * eye, m * s0**2 * (1 + eye)) for name in ("Gamma_V", "Gamma_K", "Gamma_Q")}
    for name, (mean, variance) in exact.items():
        samples = getattr(state, name)
        # five standard errors, the one of a variance from the sample's own fourth moments
        assert (np.abs(samples.mean(axis=0) - mean) < 5 * np.sqrt(variance / DRAWS)).all(), name
        squares = (samples - mean) ** 2
        assert (np.abs(squares.mean(axis=0) - variance) < 5 * squares.std(axis=0) / np.sqrt(DRAWS)).all(), name


@pytest.mark.parametrize("m", WIDTHS)
def test_draw_relates_the_blocks_as_gaussian_weights_do(m):
    """E[G G^T] = sigma0^2 E[S] I, and E[A A^T] = sigma0^4 m d I, E[A^T A] the same; off the diagonal too."""
    state = drawn(m)
    for products, mean in (
        (np.einsum("zi,zj->zij", state.G, state.G), SIGMA0**2 * SIGMA1**2 * M1 * m),
        (np.einsum("zij,zkj->zik", state.A, state.A), SIGMA0**4 * m * D),
        (np.einsum("zji,zjk->zik", state.A, state.A), SIGMA0**4 * m * D),
    ):
        error = np.abs(products.mean(axis=0) - mean * np.eye(D))
        assert (error < 5 * products.std(axis=0) / np.sqrt(DRAWS)).all()  # five standard errors


@pytest.mark.parametrize("m", WIDTHS)
def test_draw_has_the_joint_law_of_gaussian_weights(m):
    """Two-sample Kolmogorov-Smirnov of quantities that join several blocks; fixed keys, so 1e-4 is no gamble."""
    joint = {
        "S and G": lambda s: (s.G**2).sum(axis=1) / s.S,
        "G and Gamma_V": lambda s: np.einsum("zi,zij,zj->z", s.G, s.Gamma_V, s.G) / s.S,
        "G G against Gamma_V": lambda s: s.G[:, 0] * s.G[:, 2] * s.Gamma_V[:, 0, 2],
        "Schur complement": lambda s: s.Gamma_V[:, 1, 1] - s.G[:, 1] ** 2 / s.S,
        "A and Gamma_K": lambda s: np.einsum("zij,zik,zjk->z", s.A, s.A, s.Gamma_Q),
        "A between both": lambda s: np.einsum("zij,zik,zkl,zjl->z", s.Gamma_K, s.A, s.Gamma_Q, s.A),
        "minor of A": lambda s: s.A[:, 0, 0] * s.A[:, 1, 1] - s.A[:, 0, 1] * s.A[:, 1, 0],
        "corner of A": lambda s: s.A[:, 3, 0] ** 2 - s.A[:, 0, 3] ** 2,
        "A against a Gram matrix": lambda s: s.A[:, 0, 1] * s.A[:, 2, 1] * s.Gamma_K[:, 0, 2],
        "values and keys": lambda s: np.einsum("zij,zij->z", s.Gamma_V, s.Gamma_K),
    }
    for name, functional in joint.items():
        assert ks_2samp(functional(drawn(m)), functional(drawn_as_weights(m))).pvalue > 1e-4, name


@pytest.mark.parametrize("m", WIDTHS)
def test_joint_gram_matrices_of_a_draw_have_the_rank_of_the_channels(m):
    for index in range(20):
        s = jax.tree.map(np.asarray, at(drawn(m), index))
        u_V = np.block([[s.S[None, None], s.G[None]], [s.G[:, None], s.Gamma_V]])
        K_Q = np.block([[s.Gamma_K, s.A], [s.A.T, s.Gamma_Q]])
        for gram in (u_V, K_Q):
            rank = min(m, len(gram))
            sizes = np.linalg.eigvalsh(gram)[::-1] / np.linalg.norm(gram)
            # rounding is 1e-16; a random square factor has its least eigenvalue far above 1e-9
            assert sizes[rank - 1] > 1e-9
            assert np.abs(sizes[rank:]).max(initial=0) < 1e-14


def test_draw_and_its_limit_use_the_papers_scales_unless_told():
    sigma0, sigma1 = 0.5 / np.sqrt(3 * 5), 1 / np.sqrt(M1)
    sizes = {"m": 5, "m1": M1, "d": D, "L": 3}
    for default, given in (
        (drawn(5, sigma0=None, sigma1=None), drawn(5, sigma0=sigma0, sigma1=sigma1)),
        (coupled.infinite_width_start(**sizes), coupled.infinite_width_start(**sizes, sigma0=sigma0, sigma1=sigma1)),
    ):
        for name in NAMES:
            np.testing.assert_allclose(getattr(default, name), getattr(given, name), rtol=1e-14)  # rounding


@pytest.mark.parametrize("argument", ["m", "m1", "d", "L"])
def test_draw_refuses_sizes_that_are_not_positive(argument):
    with pytest.raises(InputError, match=rf"{argument} must be positive, got 0"):
        coupled.draw(jax.random.key(0), **({"m": 4, "m1": 2, "d": 3, "L": 3} | {argument: 0}))


def test_draws_concentrate_at_the_infinite_width_start_like_one_over_root_m():
    """Exact at every m, in units of the scales: E|Gamma - gram|^2 = (d^2 + d) / m, E|A|^2 = d^2 / m, Var S = 2 / m.

    G is measured against sqrt(S Gamma_V), as the cosine between u and a column of W_V: E|G|^2 = d / m.
    """
    mean_squares = {}
    for m in (10_000, 1_000_000):
        limit = coupled.infinite_width_start(m=m, m1=M1, d=D, L=3, sigma0=SIGMA0, sigma1=SIGMA1)
        gram, S = m * SIGMA0**2, m * SIGMA1**2 * M1
        units = {"G": np.sqrt(S * gram), "S": S, "Gamma_V": gram, "A": gram, "Gamma_K": gram, "Gamma_Q": gram}
        exact = {"G": D, "S": 2, "A": D**2} | {name: D**2 + D for name in ("Gamma_V", "Gamma_K", "Gamma_Q")}
        for name, unit in units.items():
            off = (getattr(drawn(m), name) - np.asarray(getattr(limit, name))) / unit
            squares = (off**2).reshape(DRAWS, -1).sum(axis=1)
            # five standard errors of a mean
            assert abs(squares.mean() - exact[name] / m) < 5 * squares.std() / np.sqrt(DRAWS), name
            mean_squares.setdefault(name, []).append(float(squares.mean()))
    for name, (narrow, wide) in mean_squares.items():
        assert 9 < np.sqrt(narrow / wide) < 11, name  # a hundred times the width: ten times nearer


# ------------------------------------------------------------------------------------------------------ exact descent


def of_weights(weights, batch):
    return coupled.reduce(weights)


@pytest.mark.parametrize("minibatches", [{}, {"batch_size": 5, "key": jax.random.key(2)}], ids=["all", "SGD"])
def test_descent_closes_in_the_coupled_variables(batch, weights, minibatches):
    """A thousand steps far beyond where flow describes descent at first: rate * sharpness = 3.7."""
    options = dict(learning_rate=0.3, steps=1000, **minibatches)
    full = descend(cooccurrence.loss, weights, batch, save=of_weights, **options)
    width = coupled.width_of(weights)
    exact = descend(coupled.loss, coupled.reduce(weights), batch, width, step=coupled.step, **options)
    for name in NAMES:
        off = np.abs(getattr(full.states, name) - getattr(exact.states, name)).max()
        assert off <= 1e-12 * np.abs(getattr(full.states, name)).max(), name  # a thousand rounded steps
    np.testing.assert_allclose(exact.loss, full.loss, rtol=1e-12)
    np.testing.assert_allclose(exact.dissipated, full.dissipated, rtol=1e-12)
    assert full.loss[-1] < 0.01 * full.loss[0]


@pytest.mark.parametrize("size", SIZES)
def test_a_step_is_the_flow_and_its_second_order(size):
    weights, batch = case(*size)
    state, width = reduce(weights), coupled.width_of(weights)
    after, _ = jax.jit(coupled.step)(state, 0.2, batch, width)
    velocity, bend = field(state, batch, width)[0], jax.jit(coupled.second_order)(state, batch, width)
    for name in NAMES:
        y, f, q = (np.asarray(getattr(tree, name)) for tree in (state, velocity, bend))
        np.testing.assert_allclose(getattr(after, name), y + 0.2 * f + 0.04 * q, rtol=1e-13, atol=1e-13)  # rounding
        assert np.abs(q).max() > 0
