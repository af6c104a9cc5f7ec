"""Checkpoints: where a training run is, in a file, so that a run that was stopped goes on to the numbers it would have had.

A checkpoint belongs to one run: it knows a digest of the start, the data, the loss, the rule, what is saved and the schedule, and is
refused by any other run. Functions are told by their names only, modules by what they hold.
"""

import dataclasses
import hashlib
import re
import time
from pathlib import Path
from typing import Any

import equinox as eqx
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
        """What was written last, as arrays in the structure of `like`; None if nothing was. Refuses that of another run."""
        if not self.path.exists():
            return None
        try:
            with self.path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                digest, leaves = str(file["digest"]), [file[f"leaf_{index}"] for index in range(len(file.files) - 1)]
        except Exception as error:
            raise InputError(
                f"{self.path} is truncated or no checkpoint ({type(error).__name__}); delete it."
            ) from error
        require(
            digest == self.digest, f"{self.path} is the checkpoint of another run; delete it, or name another file."
        )
        structure = jax.tree.structure(like)
        return jax.tree.unflatten(structure, map(_restored, leaves, jax.tree.leaves(like)))

    @property
    def is_due(self) -> bool:
        return time.perf_counter() - self.written >= self.every

    def write(self, state: PyTree) -> None:
        """Write `state` in place of what was there."""
        make_folder(self.path.parent)
        leaves = {f"leaf_{index}": _plain(leaf) for index, leaf in enumerate(jax.tree.leaves(state))}
        with complete_or_absent(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, digest=self.digest, **leaves)
        self.written = time.perf_counter()


def digest(*parts: Any) -> str:
    """A digest of pytrees: their structure, static fields too, types, shapes and bytes of arrays and numbers, names of the rest."""
    leaves, structure = jax.tree.flatten(parts)
    hashed = hashlib.sha256(_lasting(structure))
    for leaf in leaves:
        if eqx.is_array_like(leaf):
            array = _plain(leaf)
            hashed.update(f"{jnp.result_type(leaf)} {array.shape} ".encode() + array.tobytes())
        else:
            hashed.update(_lasting(leaf))
    return hashed.hexdigest()


def _lasting(thing: Any) -> bytes:
    """What something is called, without its place in memory, which is another one in the next process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(thing)).encode()


def _plain(leaf: Any) -> np.ndarray:
    """A leaf as numpy can write it: random keys as their numbers."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _restored(plain: np.ndarray, like: Any) -> Any:
    """A leaf of the kind of `like` again: numpy forgets what a key is, and types that are not its own, such as bfloat16."""
    if _is_key(like):
        return jax.random.wrap_key_data(plain, impl=jax.random.key_impl(like))
    return plain.view(np.asarray(like).dtype)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
