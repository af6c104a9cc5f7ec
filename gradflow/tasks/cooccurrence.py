"""The word co-occurrence task: is a sentence about both words, or only about one of them, or about neither?

Source: Yang, Kailkhura, Wang, Liang (2024), arXiv 2410.09605, Definition 2.1 and Assumption 2.3. Words are numbered from
0: mu1 and mu2 (the two signals) are words 0 and 1, mu3 (the common word, in every sentence) is word 2, and the random
words are 3..d-1. Everything is stated in word indices; an embedding is any orthonormal basis and lives in the model.

    class   share   content        label
    I1      1/2     mu1 and mu2    +1
    I2      1/6     mu1 only       -1
    I3      1/6     mu2 only       -1
    I4      1/6     neither        -1
"""

import dataclasses
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gradflow.errors import require

MU1, MU2, MU3 = 0, 1, 2
CLASS_NAMES = ("I1", "I2", "I3", "I4")
CLASS_SHARES = np.array([3, 1, 1, 1]) / 6

# The words that a sentence of each class holds for certain, and its label.
FIXED_WORDS = ((MU3, MU1, MU2), (MU3, MU1), (MU3, MU2), (MU3,))
LABELS = np.array([1, -1, -1, -1])
# How often it holds mu1, mu2 and mu3.
SIGNAL_COUNTS = np.array([[words.count(word) for word in (MU1, MU2, MU3)] for words in FIXED_WORDS])


class Batch(NamedTuple):
    """Labelled sentences; every leaf has the samples on its first axis."""

    tokens: Int[Array, "n L"]
    label: Float[Array, " n"]
    word_class: Int[Array, " n"]


@dataclasses.dataclass(frozen=True)
class CoOccurrence:
    """The task for `n` training sentences of `L` words out of a vocabulary of `d` words.

    `random_words="unique"` draws every random word of the training set once (Assumption 2.3 (ii), the theorems' setting);
    `"iid"` draws them independently and uniformly (the paper's own experiment, where d is too small for the former).

    Raises `InputError` for sizes that the data model excludes, and says which size suffices.
    """

    n: int
    L: int
    d: int
    random_words: Literal["unique", "iid"] = "unique"

    def __post_init__(self):
        require(
            self.n > 0 and self.n % 6 == 0,
            f"n must be a positive multiple of 6 (the classes are 1/2, 1/6, 1/6, 1/6), got {self.n}.",
        )
        require(self.L >= 3, f"L must be at least 3 (a sentence of class I1 holds mu1, mu2 and mu3), got {self.L}.")
        require(
            self.random_words in ("unique", "iid"),
            f"random_words must be 'unique' or 'iid', got {self.random_words!r}.",
        )
        if self.random_words == "unique":
            least = least_vocabulary(self.n, self.L)
            require(
                self.d >= least,
                f"d = {self.d} is too small for unique random words with n = {self.n}, L = {self.L}: d >= {least} suffices.",
            )
        else:
            require(self.d >= 4, f"d must be at least 4 (three fixed words and a random one), got {self.d}.")

    @property
    def class_sizes(self) -> tuple[int, int, int, int]:
        """Number of training sentences in I1..I4 (Assumption 2.3 (i): exact)."""
        return (self.n // 2, self.n // 6, self.n // 6, self.n // 6)

    @partial(jax.jit, static_argnums=0)
    def sample(self, key: PRNGKeyArray) -> Batch:
        """The training set, sorted by class, with exact class sizes."""
        word_class = np.repeat(np.arange(4), self.class_sizes)
        key_words, key_positions = jax.random.split(key)
        if self.random_words == "unique":
            count = least_vocabulary(self.n, self.L) - 3
            drawn = jax.random.permutation(key_words, jnp.arange(3, self.d))[:count]
            fixed = np.array([len(FIXED_WORDS[k]) for k in word_class])
            slots = np.arange(self.L) >= fixed[:, None]
            random_words = jnp.zeros((self.n, self.L), int).at[slots].set(drawn)
        else:
            random_words = jax.random.randint(key_words, (self.n, self.L), 3, self.d)
        return _sentences(key_positions, jnp.asarray(word_class), random_words)

    @partial(jax.jit, static_argnums=(0, 2))
    def held_out(self, key: PRNGKeyArray, size: int) -> Batch:
        """`size` fresh sentences of the distribution of Definition 2.1: random classes, random words uniform on 3..d-1."""
        require(size > 0, f"A held-out set needs at least one sentence, got size = {size}.")
        key_class, key_words, key_positions = jax.random.split(key, 3)
        word_class = jax.random.choice(key_class, 4, (size,), p=jnp.array(CLASS_SHARES))
        random_words = jax.random.randint(key_words, (size, self.L), 3, self.d)
        return _sentences(key_positions, word_class, random_words)


def least_vocabulary(n: int, L: int) -> int:
    """The smallest d for which all random words of a training set can be distinct: 3 + n (L - 7/3)."""
    return 3 + n * L - 7 * n // 3


def _sentences(key: PRNGKeyArray, word_class: Int[Array, " n"], random_words: Int[Array, "n L"]) -> Batch:
    """Fill the slots that a class does not fix with random words, then shuffle the positions of each sentence."""
    L = random_words.shape[1]
    fixed = jnp.array([words + (-1,) * (3 - len(words)) for words in FIXED_WORDS])
    fixed = jnp.pad(fixed, ((0, 0), (0, L - 3)), constant_values=-1)[word_class]
    tokens = jnp.where(fixed >= 0, fixed, random_words)
    tokens = jax.random.permutation(key, tokens, axis=1, independent=True)
    return Batch(tokens, jnp.array(LABELS, float)[word_class], word_class)
