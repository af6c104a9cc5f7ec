"""Optimizers by name, with warm-up, decay and clipping, for `descend(optimizer=)` and for the flags of scripts.

A recipe changes the rate over the run by a factor of its own, so that the rate itself stays traced: the updates of every optimizer
here are proportional to it.

    factor at step k = k / warm_up                                                        for k < warm_up,
                       1, or (1 + cos(pi (k - warm_up) / (cosine_to - warm_up))) / 2      behind it, and 0 behind cosine_to
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, get_args

import optax
import optax.contrib

from gradflow.errors import require

Name = Literal["adam", "adamw", "sgd", "momentum", "rmsprop", "muon", "sign"]

_OPTIMIZERS: dict[str, Callable] = {
    "adam": optax.adam,
    "adamw": functools.partial(optax.adamw, weight_decay=0.01),
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "rmsprop": functools.partial(optax.rmsprop, decay=0.99, eps_in_sqrt=False),
    "muon": optax.contrib.muon,
    "sign": optax.sign_sgd,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """learning_rate -> optax optimizer. Equal recipes share their compiled programs.

    optimizer   adam, adamw (decoupled weight decay 0.01), sgd, momentum (heavy ball, 0.9), rmsprop (decay 0.99, eps outside the root:
                as in PyTorch), sign descent; muon: matrices, embeddings and head included, move along their Nesterov momentum
                (0.95), orthogonalised by Newton-Schulz and times sqrt(max(1, columns / rows)), all else by Adam with Nesterov
                momentum at the same rate
    warm_up     steps over which the rate grows from 0 at step 0, linearly
    cosine_to   the step at which the rate has come down to 0 again; None: it stays
    clip        the largest norm of the whole gradient; None: any

    Raises `InputError` for what does not fit together.
    """

    optimizer: Name = "adam"
    warm_up: int = 0
    cosine_to: int | None = None
    clip: float | None = None

    def __post_init__(self):
        known = get_args(Name)
        require(self.optimizer in known, f"Unknown optimizer {self.optimizer!r}; known are {', '.join(known)}.")
        require(self.warm_up >= 0, f"warm_up must be a number of steps, 0 for none, got {self.warm_up}.")
        require(
            self.cosine_to is None or self.cosine_to > self.warm_up,
            f"cosine_to must be a step behind the warm-up of {self.warm_up}, got {self.cosine_to}.",
        )
        require(self.clip is None or self.clip > 0, f"clip must be positive, got {self.clip}.")

    def __call__(self, learning_rate: float) -> optax.GradientTransformation:
        parts = [_OPTIMIZERS[self.optimizer](learning_rate)]
        if self.clip is not None:
            parts.insert(0, optax.clip_by_global_norm(self.clip))
        if self.cosine_to is not None:
            parts.append(
                optax.scale_by_schedule(optax.warmup_cosine_decay_schedule(0.0, 1.0, self.warm_up, self.cosine_to))
            )
        elif self.warm_up:
            parts.append(optax.scale_by_schedule(optax.warmup_constant_schedule(0.0, 1.0, self.warm_up)))
        return optax.chain(*parts)

    def __str__(self) -> str:
        said = [self.optimizer]
        if self.warm_up:
            said.append(f"warm-up {self.warm_up}")
        if self.cosine_to is not None:
            said.append(f"cosine to {self.cosine_to}")
        if self.clip is not None:
            said.append(f"clip {self.clip:g}")
        return ", ".join(said)
