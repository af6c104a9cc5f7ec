"""The orbit reduction: the coupled system in 236 numbers, exactly, whatever n, L and d are; and its limit of infinite n, in 40.

With unique random words, nothing in the loss changes when the samples of a class are exchanged, or the random words of a
sample. A coupled state that does not change either (the mean start does not, `coupled.infinite_width_start`) never will: G
takes one value on the random words of a class, and a d x d matrix one value an orbit of pairs of words: 9 among the
signals, 4 x 3 signal-random, 3 x 4 random-signal, and among random words 4 x 3 for a word with itself, with one of its
own sample and with one of its class's other samples, and 12 for two classes: 57.

Such matrices are closed under products and transposes, and all have the same invariant subspaces of R^d. One unit vector out
of each is enough to compute with them: in this basis of 15 words they are block diagonal, and products stay products.

    words     what they are                                                  copies
    0..2      mu1, mu2, mu3                                                  1
    3..6      all random words of class I1, ..., I4, with equal weights      1
    7..10     one sample of the class against another                        n_c - 1
    11..14    one random word of a sample against another                    n_c (r_c - 1)

Class c has n_c samples with r_c random words each; a block of 7 x 7, a number for each other word: 57. So an orbit state is a
`Coupled` state of 15 words that moves by the very equations of `coupled`. Only the forces differ: a number that stands for many
copies of itself has a derivative that is as many times too large. Samples and positions are numbers here, not axes of arrays, so
that n = 6 000 000 costs what n = 6 does, and another n or L needs no new compilation.

For n -> infinity random words stand still, and the signals alone are left: G, S and four 3 x 3 matrices, the population
flow. It is the same field on `Coupled` states of 3 words. Source: derived for this package (derivations/orbits.py).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gradflow.errors import require
from gradflow.models import coupled
from gradflow.models.cooccurrence import Weights
from gradflow.models.coupled import Coupled, Width
from gradflow.tasks.cooccurrence import CLASS_SHARES, LABELS, SIGNAL_COUNTS, Batch

WORDS = 15
POPULATION_WORDS = 3


class Classes(NamedTuple):
    """How many samples each class has and how many random words each of its sentences holds, as traced numbers."""

    samples: Float[Array, "*batch 4"]
    random_words: Float[Array, "*batch 4"]


def classes(n: Float[np.ndarray, "*batch"], L: Float[np.ndarray, "*batch"]) -> Classes:
    """The classes of training sets of n sentences of L words (Assumption 2.3); n = inf is the population."""
    n, L = np.broadcast_arrays(np.asarray(n, float), np.asarray(L, float))
    whole = np.where(np.isinf(n), 6, n) % 6 == 0
    require(bool((whole & (n > 0)).all()), "n must be a positive multiple of 6, or inf for the population.")
    require(bool(((L >= 3) & (L % 1 == 0)).all()), "L must be a whole number of words, at least 3.")
    return Classes(jnp.array(n[..., None] * CLASS_SHARES), jnp.array(L[..., None] - SIGNAL_COUNTS.sum(axis=1)))


def class_outputs(G: Float[Array, " k"], A: Float[Array, "k k"], sizes: Classes, m: float) -> Float[Array, " 4"]:
    """F of a sentence of each class, from an orbit state's G and A (k = 15, or 3 for the population)."""
    missing = WORDS - G.size
    return jax.vmap(_output, in_axes=(0, None, None, 0, 0, 0, None))(
        jnp.arange(4), jnp.pad(G, (0, missing)), jnp.pad(A, (0, missing)), SIGNAL_COUNTS, *sizes, m
    )


def _output(c, G, A, present, n, r, m):
    """Key kinds: mu1, mu2, mu3, the query itself, another random word; query kinds: mu1, mu2, mu3, a random word."""
    of_class, between, within = A[3 + c, 3 + c], A[7 + c, 7 + c], A[11 + c, 11 + c]
    words = jnp.where(r > 0, r, 1.0)  # a class without random words never looks at theirs
    of_other_sample = (of_class - between) / (n * words)
    of_own_sample = of_other_sample + (between - within) / words
    norm = jnp.sqrt(n * words)
    signal_keys = jnp.hstack([A[:3, :3], A[:3, 3 + c, None] / norm])
    random_keys = jnp.append(A[3 + c, :3] / norm, of_own_sample)
    scores = jnp.vstack([signal_keys, random_keys.at[3].add(within), random_keys]) / jnp.sqrt(m)

    among_signals, of_random = jnp.append(jnp.zeros(3), 1.0), jnp.append(jnp.full(3, r), jnp.maximum(r - 1, 0))
    copies = jnp.vstack([jnp.broadcast_to(present[:, None], (3, 4)), among_signals, of_random])
    p = jax.nn.softmax(scores + jnp.log(copies), axis=0)
    random_G = G[3 + c] / norm
    return jnp.append(G[:3], jnp.array([random_G, random_G])) @ p @ jnp.append(present, r)


def class_margins(state: Coupled, sizes: Classes, width: Width) -> Float[Array, " 4"]:
    """y F of a sentence of each class."""
    return jnp.array(LABELS) * class_outputs(state.G, state.A, sizes, width.m)


def class_loss(G: Float[Array, " k"], A: Float[Array, "k k"], sizes: Classes, width: Width) -> Float[Array, ""]:
    """The loss as a function of the two quantities that determine it."""
    margins = jnp.array(LABELS) * class_outputs(G, A, sizes, width.m)
    return jnp.array(CLASS_SHARES) @ jax.nn.softplus(-margins)


def loss(state: Coupled, sizes: Classes, width: Width) -> Float[Array, ""]:
    """The empirical loss (Eq. 2) of an orbit state; of a population state, the loss on the data distribution."""
    return class_loss(state.G, state.A, sizes, width)


def field(state: Coupled, sizes: Classes, width: Width) -> tuple[Coupled, Float[Array, ""]]:
    """Velocity of an orbit state under gradient flow of the weights, and the weights' squared speed -dLoss/dt."""
    r, D, minus_slope = _forces(state, sizes, width)
    moving = coupled.velocity(state, r, D, width)
    return moving, r @ moving.G + jnp.vdot(minus_slope, moving.A)


def second_order(state: Coupled, sizes: Classes, width: Width) -> Coupled:
    """What a step of gradient descent of the weights adds at second order in the learning rate."""
    r, D, _ = _forces(state, sizes, width)
    return coupled.bend(state, r, D, width)


def step(
    state: Coupled, learning_rate: Float[Array, ""], sizes: Classes, width: Width
) -> tuple[Coupled, Float[Array, ""]]:
    """One step of gradient descent of the weights, and |grad Loss|^2; for `descend(step=...)`."""
    r, D, minus_slope = _forces(state, sizes, width)
    moving = coupled.velocity(state, r, D, width)
    moved = coupled.stepped(state, learning_rate, moving, coupled.bend(state, r, D, width))
    return moved, r @ moving.G + jnp.vdot(minus_slope, moving.A)


def powers(state: Coupled, sizes: Classes, width: Width) -> Float[Array, " 4"]:
    """How fast W, W_V, W_K and W_Q each make the loss fall, see `coupled.powers`."""
    return coupled.powers(state, *_forces(state, sizes, width), width)


def copies(sizes: Classes) -> Float[Array, " 15"]:
    """How many equal copies each of the 15 words stands for."""
    n, r = sizes
    return jnp.concatenate([jnp.ones(7), n - 1, jnp.where(r > 1, n * (r - 1), 0)])


def _forces(state: Coupled, sizes: Classes, width: Width):
    """r = -dLoss/dG; D = -dLoss/dA of one copy; and of all of them together."""
    minus_r, slope = jax.grad(class_loss, argnums=(0, 1))(state.G, state.A, sizes, width)
    number = copies(sizes)[: state.G.size, None]
    return -minus_r, -jnp.where(number > 0, slope / jnp.where(number > 0, number, 1), 0), -slope


# ------------------------------------------------------------------------------------------- from words and to words


def reduce(state: Coupled, batch: Batch) -> Coupled:
    """The orbit state of a coupled state: its mean over all exchanges of samples and of random words, which is itself if it is invariant."""
    vectors, projections = _subspaces(batch, state.G.size)
    number = jnp.trace(projections, axis1=1, axis2=2)

    def restricted(M):
        block = vectors.T @ M @ vectors
        means = jnp.einsum("kij,ij->k", projections, M) / jnp.maximum(number, 1)
        return jax.scipy.linalg.block_diag(block, jnp.diag(means))

    matrices = {name: restricted(getattr(state, name)) for name in ("Gamma_V", "A", "Gamma_K", "Gamma_Q")}
    return Coupled(G=jnp.append(vectors.T @ state.G, jnp.zeros(8)), S=state.S, **matrices)


def expand(state: Coupled, batch: Batch, d: int) -> Coupled:
    """The coupled state of d words of an orbit state; words that no sentence holds get zeros."""
    vectors, projections = _subspaces(batch, d)

    def whole(M):
        return vectors @ M[:7, :7] @ vectors.T + jnp.einsum("k,kij->ij", jnp.diag(M)[7:], projections)

    matrices = {name: whole(getattr(state, name)) for name in ("Gamma_V", "A", "Gamma_K", "Gamma_Q")}
    return Coupled(G=vectors @ state.G[:7], S=state.S, **matrices)


def _subspaces(batch: Batch, d: int) -> tuple[Float[Array, "d 7"], Float[Array, "8 d d"]]:
    """The invariant subspaces of words: seven unit vectors, and the projections on the eight that hold many copies."""
    tokens, word_class = np.asarray(batch.tokens), np.asarray(batch.word_class)
    is_random = tokens > 2
    require(
        np.unique(tokens[is_random]).size == is_random.sum(),
        "The orbit reduction needs unique random words; a word of this training set comes twice.",
    )
    own_sample = np.zeros((len(tokens), d))  # unit vectors on the random words of each sample
    for i, words in enumerate(tokens):
        own_sample[i, words[is_random[i]]] = 1 / np.sqrt(max(is_random[i].sum(), 1))
    vectors, between, within = np.zeros((d, 7)), [], []
    vectors[[0, 1, 2], [0, 1, 2]] = 1
    for c in range(4):
        samples = own_sample[word_class == c]
        vectors[:, 3 + c] = samples.sum(axis=0) / np.sqrt(len(samples))
        on_samples = samples.T @ samples
        between.append(on_samples - np.outer(vectors[:, 3 + c], vectors[:, 3 + c]))
        within.append(np.diag((samples.sum(axis=0) > 0).astype(float)) - on_samples)
    return jnp.array(vectors), jnp.array(between + within)


def invariant_weights(key: PRNGKeyArray, *, m: int, m1: int, d: int, sigma0: float, sigma1: float) -> Weights:
    """Weights whose coupled state is exactly `coupled.infinite_width_start`: columns of equal lengths, orthogonal to each other and to u.

    Raises `InputError` for m < 2 d, where there is no room for them.
    """
    require(m >= 2 * d, f"Orthogonal columns of W_K and W_Q need m >= 2 d = {2 * d}, got m = {m}.")
    key_KQ, key_uV, key_W, key_a = jax.random.split(key, 4)
    K_Q, _ = jnp.linalg.qr(jax.random.normal(key_KQ, (m, 2 * d)))
    u_V, _ = jnp.linalg.qr(jax.random.normal(key_uV, (m, d + 1)))
    u = sigma1 * (m * m1) ** 0.5 * u_V[:, 0]
    a = jax.random.rademacher(key_a, (m1,), dtype=float)
    W = sigma1 * jax.random.normal(key_W, (m1, m))
    length = sigma0 * m**0.5
    return Weights(
        W=W + jnp.outer(a, u - W.T @ a) / m1, W_V=length * u_V[:, 1:], W_K=length * K_Q[:, :d], W_Q=length * K_Q[:, d:], a=a
    )  # fmt: skip
