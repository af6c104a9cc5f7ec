"""The orbit reduction is the coupled system, exactly: its forces, its flow, its descent, and its limit of infinite n."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import InputError
from gradflow.dynamics import descend, gradient_flow, linear_times
from gradflow.models import cooccurrence, coupled, orbits
from gradflow.models.coupled import Coupled, Width
from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary
from tests.cases import away

# L = 3: class I1 has no random word; n = 6: classes of one sample; L = 4: I1 has one random word a sample
SIZES = [(12, 5), (6, 3), (6, 4), (18, 3)]


def training_set(n, L, unused_words=2):
    d = least_vocabulary(n, L) + unused_words
    return CoOccurrence(n, L, d).sample(jax.random.key(n)), d


def any_state(d, seed=0):
    rng = np.random.default_rng(seed)
    matrices = (jnp.array(rng.normal(size=(d, d))) for _ in range(4))
    Gamma_V, A, Gamma_K, Gamma_Q = matrices
    return Coupled(jnp.array(rng.normal(size=d)), jnp.array(2.0), Gamma_V @ Gamma_V.T, A, Gamma_K @ Gamma_K.T, Gamma_Q @ Gamma_Q.T)  # fmt: skip


@pytest.mark.parametrize(("n", "L"), SIZES)
def test_loss_field_and_step_of_any_invariant_state_are_those_of_the_coupled_system(n, L):
    batch, d = training_set(n, L)
    state = orbits.reduce(any_state(d), batch)
    words, sizes, width = orbits.expand(state, batch, d), orbits.classes(n, L), Width(7.0, 3.0)
    assert float(coupled.loss(words, batch, width)) == pytest.approx(float(orbits.loss(state, sizes, width)), rel=1e-14)
    for of_words, of_orbits in (
        (coupled.field(words, batch, width), orbits.field(state, sizes, width)),
        (coupled.step(words, 0.1, batch, width), orbits.step(state, 0.1, sizes, width)),
        ((coupled.second_order(words, batch, width), 0), (orbits.second_order(state, sizes, width), 0)),
    ):
        size = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(of_words[0]))
        assert away(of_words[0], orbits.expand(of_orbits[0], batch, d)) < 1e-13 * size
        assert float(of_words[1]) == pytest.approx(float(of_orbits[1]), rel=1e-12)


def test_reduce_is_the_mean_over_all_exchanges_of_samples_and_of_random_words():
    """The group by brute force: 3! exchanges of the samples of I1 (one random word each), 2! 2! 3! within the others."""
    batch, d = training_set(6, 4, unused_words=1)
    state = any_state(d)
    random_words = [[word for word in words if word > 2] for words in np.asarray(batch.tokens).tolist()]
    total, count = jax.tree.map(jnp.zeros_like, state), 0
    for samples in itertools.permutations(range(3)):
        for orders in itertools.product(*(itertools.permutations(random_words[i]) for i in (3, 4, 5))):
            images = [*(random_words[i] for i in samples), *orders]
            exchange = np.arange(d)
            exchange[np.concatenate(random_words)] = np.concatenate(images)
            moved = jax.tree.map(lambda leaf, e=exchange: leaf[e] if leaf.ndim == 1 else (leaf[e][:, e] if leaf.ndim else leaf), state)  # fmt: skip
            total, count = jax.tree.map(jnp.add, total, moved), count + 1
    assert count == 6 * 2 * 2 * 6
    used = np.setdiff1d(np.arange(d), [min(set(range(3, d)) - set(np.concatenate(random_words).tolist()))])
    for mean, reduced in zip(jax.tree.leaves(total), jax.tree.leaves(orbits.expand(orbits.reduce(state, batch), batch, d)), strict=True):  # fmt: skip
        mean, reduced = np.asarray(mean) / count, np.asarray(reduced)
        for axis in range(mean.ndim):
            mean, reduced = np.take(mean, used, axis), np.take(reduced, used, axis)
        np.testing.assert_allclose(reduced, mean, atol=1e-13)


@pytest.fixture(scope="module")
def orbit_flow():
    """n = 12, L = 5 to t = 1000 from the mean start, 15 words; the readout's rate is 4 at the start."""
    start = coupled.infinite_width_start(m=128, m1=4, d=orbits.WORDS, L=5, sigma0=0.02, sigma1=0.0884)
    return gradient_flow(
        orbits.loss, start, orbits.classes(12, 5), Width(128.0, 4.0), times=linear_times(1000, 21), field=orbits.field,
        method="dopri8", rtol=1e-11, show_progress=False,
    )  # fmt: skip


def test_the_flow_is_that_of_the_coupled_system_which_stays_on_its_orbits(orbit_flow):
    batch, d = training_set(12, 5, unused_words=0)
    start = coupled.infinite_width_start(m=128, m1=4, d=d, L=5, sigma0=0.02, sigma1=0.0884)
    flow = gradient_flow(
        coupled.loss, start, batch, Width(128.0, 4.0), times=linear_times(1000, 21), field=coupled.field, method="DOP853",
        rtol=1e-11, show_progress=False,
    )  # fmt: skip
    end, orbit_end = flow.final, orbit_flow.final
    assert away(end, orbits.expand(orbits.reduce(end, batch), batch, d)) < 1e-12  # the spread within orbits
    for name in ("G", "S", "Gamma_V", "A", "Gamma_K", "Gamma_Q"):
        one, other = getattr(end, name), getattr(orbits.expand(orbit_end, batch, d), name)
        assert float(abs(one - other).max()) <= 1e-9 * float(abs(one).max()), name
    assert flow.loss[-1] < 0.02 and float(abs(end.A).max()) > 1e-3  # all of it moved


def test_the_flow_is_that_of_full_weights_with_orthogonal_columns(orbit_flow):
    batch, d = training_set(12, 5, unused_words=0)
    weights = orbits.invariant_weights(jax.random.key(3), m=128, m1=4, d=d, sigma0=0.02, sigma1=0.0884)
    start = coupled.infinite_width_start(m=128, m1=4, d=d, L=5, sigma0=0.02, sigma1=0.0884)
    assert away(coupled.reduce(weights), start) < 1e-13
    flow = gradient_flow(
        cooccurrence.loss, weights, batch, times=linear_times(100, 3), method="dopri8", rtol=1e-11, show_progress=False
    )
    end, orbit_end = coupled.reduce(flow.final), jax.tree.map(lambda leaf: leaf[2], orbit_flow.states)
    assert orbit_flow.times[2] == 100
    for name in ("G", "A"):
        one, other = getattr(end, name), getattr(orbits.expand(orbit_end, batch, d), name)
        assert float(abs(one - other).max()) <= 1e-9 * float(abs(one).max()), name


def test_descent_of_the_coupled_system_is_that_of_its_orbits():
    batch, d = training_set(12, 5, unused_words=0)
    scales = dict(m=128, m1=4, L=5, sigma0=0.05, sigma1=0.0884)
    width, options = Width(128.0, 4.0), dict(learning_rate=0.1, steps=300, save_steps=[0, 300], show_progress=False)
    of_words = descend(
        coupled.loss, coupled.infinite_width_start(d=d, **scales), batch, width, step=coupled.step, **options
    )
    start = coupled.infinite_width_start(d=orbits.WORDS, **scales)
    of_orbits = descend(orbits.loss, start, orbits.classes(12, 5), width, step=orbits.step, **options)
    assert away(of_words.final, orbits.expand(of_orbits.final, batch, d)) < 1e-11


def population(words, sizes, times):
    start = coupled.infinite_width_start(m=128, m1=4, d=words, L=5, sigma0=0.02, sigma1=0.0884)
    options = dict(field=orbits.field, method="dopri8", rtol=1e-11, show_progress=False)
    return gradient_flow(orbits.loss, start, sizes, Width(128.0, 4.0), times=times, **options)


def test_infinitely_many_samples_are_the_population_flow_in_40_numbers():
    times = linear_times(100, 3)
    infinite = population(orbits.WORDS, orbits.classes(np.inf, 5), times)
    alone = population(orbits.POPULATION_WORDS, orbits.classes(np.inf, 5), times)
    assert sum(leaf.size for leaf in jax.tree.leaves(alone.final)) == 40
    signals = jax.tree.map(lambda leaf: leaf[tuple([slice(3)] * leaf.ndim)], infinite.final)
    assert away(alone.final, signals) < 1e-9
    assert float(abs(infinite.final.G[3:]).max()) == 0

    by_n = {n: away(population(orbits.WORDS, orbits.classes(n, 5), times).final.G[:3], alone.final.G) for n in (6000, 60000, 600000)}  # fmt: skip
    falls = np.diff(np.log10(list(by_n.values())))
    np.testing.assert_allclose(falls, -1, atol=0.02)  # like 1/n


def test_words_that_come_twice_and_impossible_sizes_are_refused():
    batch = CoOccurrence(12, 5, 10, "iid").sample(jax.random.key(0))
    with pytest.raises(InputError, match="comes twice"):
        orbits.reduce(any_state(10), batch)
    for n, L in ((7, 5), (0, 5), (-6, 5), (12, 2), (12, 4.5), (np.nan, 5)):
        with pytest.raises(InputError):
            orbits.classes(n, L)
    with pytest.raises(InputError, match="m >= 2 d = 20"):
        orbits.invariant_weights(jax.random.key(0), m=19, m1=2, d=10, sigma0=1.0, sigma1=1.0)
