"""Checkpoints: where a training run is, in a file, so that a run that was stopped goes on to the numbers it would have had.

A checkpoint belongs to one run: it knows a digest of the start, the data, the rule's name and the schedule, and is refused by any other run.
Functions are told by their names only.
"""

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from gradflow.errors import InputError, require
from gradflow.files import complete_or_absent, make_folder


@dataclasses.dataclass
class Checkpoint:
    """The checkpoint of a run at `path`; `digest` tells the run. To be written whenever `every` seconds have passed."""

    path: Path
    digest: str
    every: float = 30.0
    written: float = dataclasses.field(default_factory=time.perf_counter)

    def load(self, like: PyTree) -> PyTree | None:
        """What was written last, as numpy arrays in the structure of `like`; None if nothing was. Refuses that of another run."""
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                digest, leaves = str(file["digest"]), [file[f"leaf_{index}"] for index in range(len(file.files) - 1)]
        except Exception as error:
            raise InputError(
                f"{self.path} is truncated or no checkpoint ({type(error).__name__}); delete it."
            ) from error
        require(
            digest == self.digest, f"{self.path} is the checkpoint of another run; delete it, or name another file."
        )
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    @property
    def is_due(self) -> bool:
        return time.perf_counter() - self.written >= self.every

    def write(self, state: PyTree) -> None:
        """Write `state` in place of what was there."""
        make_folder(self.path.parent)
        leaves = {f"leaf_{index}": np.asarray(leaf) for index, leaf in enumerate(jax.tree.leaves(state))}
        with complete_or_absent(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, digest=self.digest, **leaves)
        self.written = time.perf_counter()


def digest(*parts: Any) -> str:
    """A digest of pytrees: the paths, types, shapes and bytes of their arrays, numbers and words; functions are left out."""
    hashed = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(parts):
        if callable(leaf):
            continue
        array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        hashed.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
