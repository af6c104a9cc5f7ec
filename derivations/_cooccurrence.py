"""Weights of the co-occurrence model as sympy's matrices, of symbols or of numbers, and what proofs about them share.

Names and order are those of `gradflow.models.cooccurrence.Weights`; words are numbered from 0.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp

from gradflow.models import cooccurrence
from gradflow.tasks.cooccurrence import Batch


class Weights(NamedTuple):
    """The four trained matrices and the fixed signs of the readout."""

    W: sp.Matrix
    W_V: sp.Matrix
    W_K: sp.Matrix
    W_Q: sp.Matrix
    a: sp.Matrix

    @property
    def u(self) -> sp.Matrix:
        return self.W.T * self.a

    def moved(self, velocity: Sequence[sp.Matrix], time: sp.Expr) -> "Weights":
        """These weights after some time at a constant velocity: a step of descent, or the tangent of a flow."""
        trained = [matrix + time * rate for matrix, rate in zip(self[:4], velocity, strict=True)]
        return Weights(*trained, self.a)


def symbols(m: int, m1: int, d: int) -> Weights:
    """Weights all of whose entries are symbols."""
    return Weights(
        matrix("W", m1, m), matrix("W^V", m, d), matrix("W^K", m, d), matrix("W^Q", m, d), matrix("a", m1, 1)
    )


def matrix(name: str, rows: int, columns: int) -> sp.Matrix:
    """A matrix of real symbols."""
    return sp.Matrix(rows, columns, lambda i, j: sp.Symbol(f"{name}_{{{i + 1},{j + 1}}}", real=True))


def embedded(words: Sequence[int], d: int) -> sp.Matrix:
    """X of a sentence of d words, for the standard basis."""
    return sp.eye(d)[:, list(words)]


def names(columns: Iterable[sp.Matrix], margin: sp.Expr) -> dict[sp.Expr, sp.Expr]:
    """Rules for `xreplace` that write p for the softmax of columns of scores and g for 1 / (1 + exp(margin)).

    What is left is a polynomial (up to powers of the normalisations T and of 1 - g, which cancel), and the only relation
    that it could hide, that each p sums to one, is used up by leaving out one p of each column.
    """
    g = sp.Symbol("g", positive=True)
    rules = {sp.exp(margin): (1 - g) / g, 1 + sp.exp(margin): 1 / g}
    rules |= {sp.exp(-margin): g / (1 - g), 1 + sp.exp(-margin): 1 / (1 - g)}
    for l, column in enumerate(columns):
        powers = [sp.exp(score) for score in column]
        *free, last = dict.fromkeys(powers)
        T = sp.Symbol(f"T_{l}", positive=True)
        p = {power: sp.Symbol(f"p_{{{l},{h}}}", positive=True) for h, power in enumerate(free)}
        p[last] = (1 - sum(powers.count(power) * p[power] for power in free)) / powers.count(last)
        if sum(powers) not in rules:  # else the word stood at an earlier position, too
            rules[sum(powers)] = T
            rules |= {power: T * p[power] for power in p} | {power**2: (T * p[power]) ** 2 for power in p}
    return rules


def named(expression: sp.Expr | sp.MatrixBase, rules: dict[sp.Expr, sp.Expr]) -> sp.Matrix:
    """A matrix (of one entry, for an expression) in these names, multiplied out."""
    return sp.Matrix([expression]).applyfunc(lambda entry: sp.expand(entry.xreplace(rules)))


def example() -> tuple[cooccurrence.Weights, Batch]:
    """Random weights of gradflow's own model, of order one, and three sentences, with repeated words."""
    rng, (m, m1, d) = np.random.default_rng(0), (4, 3, 5)
    matrices = [jnp.array(rng.normal(size=size)) for size in ((m1, m), (m, d), (m, d), (m, d))]
    tokens, label = jnp.array([(0, 1, 2), (2, 3, 2), (4, 0, 3)]), jnp.array([1.0, -1.0, -1.0])
    return cooccurrence.Weights(*matrices, a=jnp.array([1.0, -1.0, 1.0])), Batch(tokens, label, jnp.zeros(3, int))


def numbers(weights: cooccurrence.Weights) -> Weights:
    """gradflow's weights as matrices of numbers that the functions of this folder take."""
    return Weights(*(sp.Matrix(np.asarray(leaf)) for leaf in jax.tree.leaves(weights)))


def in_a_row(tree) -> np.ndarray:
    """All numbers of a pytree of arrays, or of sympy's matrices."""
    return np.concatenate([np.ravel(np.asarray(leaf)).astype(float) for leaf in jax.tree.leaves(tree)])
