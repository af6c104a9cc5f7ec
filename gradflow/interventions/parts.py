"""Parts of a model by the names of their parameters: copied from another model, or frozen while the rest trains.

A name is the path to a leaf of the pytree, such as `layers/0/Q/weight`; patterns are those of a shell (`fnmatch`), in which `*` stands
for `/`, too: `layers/*/[QK]/*`. `PARTS` has the sets of Gopalani and Hu (2025), arXiv 2506.13688, section 4, for `models.transformer`.
"""

import dataclasses
from collections.abc import Callable
from fnmatch import fnmatchcase

import jax
import optax
from jaxtyping import PyTree

from gradflow.dynamics.descent import optimizer_name
from gradflow.errors import require

_BELOW = ("token_embedding", "position_embedding")
PARTS = {
    "KQ": ("layers/*/[QK]/*", "layers/*/norm_1/*", *_BELOW),
    "KQOV": ("layers/*/[QKVO]/*", "layers/*/norm_1/*", *_BELOW),
    "MLP": ("layers/*/up/*", "layers/*/down/*", "layers/*/norm_2/*", "norm/*", "head"),
    "embeddings": (*_BELOW, "norm/*", "head"),
}


def selected(params: PyTree, patterns: tuple[str, ...]) -> PyTree:
    """For each leaf whether its name matches one of the patterns.

    Raises `InputError` for a pattern that matches nothing, with the names that there are.
    """
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in patterns:
        found = any(fnmatchcase(name, pattern) for name in names)
        require(found, f"No parameter is called {pattern!r}; there are {', '.join(names)}.")
    chosen = [any(fnmatchcase(name, pattern) for pattern in patterns) for name in names]
    return jax.tree.unflatten(jax.tree.structure(params), chosen)


def transplant(into: PyTree, source: PyTree, patterns: tuple[str, ...]) -> PyTree:
    """`into`, with the leaves that match a pattern taken from `source`, which may be another kind of model.

    Raises `InputError` where the source has no leaf of that name, or one of another shape.
    """
    offered = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(source)}

    def leaf(path, own, taken):
        if not taken:
            return own
        name = _name(path)
        require(name in offered, f"The model to copy from has no parameter {name}.")
        new = offered[name]
        require(new.shape == own.shape, f"{name} has shape {own.shape}, but in the model to copy from {new.shape}.")
        return new.astype(own.dtype)

    return jax.tree_util.tree_map_with_path(leaf, into, selected(into, patterns))


def frozen(optimizer: Callable, params: PyTree, patterns: tuple[str, ...]) -> Callable:
    """An optimizer for `descend` under which the parameters that match a pattern stay as they are, and of which it hears nothing.

    optimizer   learning_rate -> optax optimizer, as in `descend`; a gradient norm that it clips is that of the others

    Wrapping the same optimizer again gives an equal one, and no new compilation. Raises `InputError` as `selected`.
    """
    selected(params, patterns)
    return _Frozen(optimizer, tuple(patterns))


@dataclasses.dataclass(frozen=True)
class _Frozen:
    optimizer: Callable
    patterns: tuple[str, ...]

    def __call__(self, learning_rate: float) -> optax.GradientTransformation:
        still = {True: optax.set_to_zero(), False: self.optimizer(learning_rate)}
        return optax.partition(still, lambda params: selected(params, self.patterns))

    def __str__(self) -> str:
        return f"{optimizer_name(self.optimizer)} with {', '.join(self.patterns)} frozen"


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
