"""What is seen of a transformer that learns a sequence task: outputs, hidden states and attention maps, at each save point.

The measures of Gopalani and Hu (2025), arXiv 2506.13688, sections 3 and 4, each a function of its own; `Observer` takes them all
from one forward pass and one generation, and `dataset` labels them. Outputs are generated greedily; hidden states and maps are those
of the right outputs (teacher forcing), at the rows that predict an output.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Bool, Float, Int

from gradflow.dynamics.trajectory import Trajectory
from gradflow.models import transformer
from gradflow.models.transformer import Tap, Transformer
from gradflow.tasks.sequences import Task


def repetition(tokens: Int[Array, "... g"]) -> Float[Array, ""]:
    """Repetition frequency rho: the share of neighbours that are equal."""
    return (tokens[..., 1:] == tokens[..., :-1]).mean()


def agreement(tokens: Int[Array, "... g"]) -> Float[Array, ""]:
    """alpha_1: the share of outputs that equal the first one, the first included."""
    return (tokens == tokens[..., :1]).mean()


def sequence_entropy(tokens: Int[Array, "... g"], vocabulary: int) -> Float[Array, ""]:
    """Entropy in nats of the tokens within an output, mean over outputs: 0 where all are equal, ln g where no two are."""
    share = jax.nn.one_hot(tokens, vocabulary).mean(axis=-2)
    return jax.scipy.special.entr(share).sum(axis=-1).mean()


def accuracy_by_answer(tokens: Int[Array, "b g"], answers: Int[Array, "b g"], vocabulary: int) -> Float[Array, " v"]:
    """Share of right outputs among those whose right token is v, such as the counts of a histogram; NaN where there are none."""
    asked = jax.nn.one_hot(answers, vocabulary)
    return (asked * (tokens == answers)[..., None]).sum((0, 1)) / asked.sum((0, 1))


def cosines(hidden: Float[Array, "b g e"]) -> Float[Array, "g g"]:
    """C_ij: the batch mean of the cosine between the hidden states of rows i and j."""
    unit = hidden / jnp.linalg.norm(hidden, axis=-1, keepdims=True)
    return jnp.einsum("bie,bje->ij", unit, unit) / len(hidden)


def collapse(cosine: Float[Array, "g g"], pairs: Bool[np.ndarray, "g g"]) -> Float[Array, ""]:
    """Representation cosine COS: the mean of C_ij over `pairs` of rows; 1 where all hidden states are parallel."""
    return (cosine * pairs).sum() / pairs.sum()


def attention_progress(attention: Float[Array, "h g j"], optimal: Bool[Array, "g j"]) -> Float[Array, ""]:
    """Attention progress of one sample: the part of |A| that lies where attention is needed, over output rows and heads."""
    size = jnp.abs(attention)
    return (size * optimal).sum() / size.sum()


class Observer(eqx.Module):
    """Called with weights, a batch and what else the loss takes; returns all measures, see `dataset`.

    `tap_for(tokens, *rest)` is the tap that intervenes on a sample (`models.transformer`), as in training.
    """

    task: Task = eqx.field(static=True)
    tap_for: Callable[..., Tap] = transformer.no_tap

    def __call__(self, weights: Transformer, batch: Int[Array, "b T"], *rest) -> dict[str, Array]:
        task, answers = self.task, batch[:, self.task.prompt :]

        def of_one(tokens):
            tap = self.tap_for(tokens, *rest)
            logits, seen = transformer.observe(weights, tokens[:-1], tap)
            generated = transformer.generate(weights, tokens[: task.prompt], task.outputs, tap)
            return transformer.cross_entropy(logits, tokens), at_outputs(task, seen), generated

        losses, seen, generated = jax.vmap(of_one)(batch)
        # each by its name: vmap has sorted the dictionary
        maps = jnp.stack([seen[f"layers/{index}/map"] for index in range(len(weights.layers))], axis=1)  # b layer h g j
        hidden = {place: seen[place] for place in hidden_places(weights)}
        cosine = {place: cosines(value) for place, value in hidden.items()}
        return {
            "loss_by_token": losses.mean(axis=0),
            "accuracy": (generated == answers).mean(axis=0),
            "accuracy_by_answer": accuracy_by_answer(generated, answers, task.vocabulary),
            "repetition": repetition(generated),
            "agreement": agreement(generated),
            "entropy": sequence_entropy(generated, task.vocabulary),
            "cosine": jnp.stack([collapse(each, task.pairs) for each in cosine.values()]),
            "norm": jnp.stack([jnp.linalg.norm(value, axis=-1).mean() for value in hidden.values()]),
            "cosine_of_rows": cosine["final"],
            "progress": self.progress(maps, batch),
            "map": jnp.abs(maps).mean(axis=0),
        }

    def progress(self, maps: Float[Array, "b layer h g j"], batch: Int[Array, "b T"]) -> Float[Array, "strategy layer"]:
        """Attention progress by strategy and layer, mean over samples; NaN for a layer of which nothing is asked."""
        optimal = jax.vmap(self.task.optimal)(batch)  # b strategy layer g j
        wanted = optimal.shape[2]
        by_layer = jax.vmap(jax.vmap(attention_progress))
        by_strategy = jax.vmap(by_layer, (None, 1), 1)
        told = by_strategy(maps[:, :wanted], optimal[:, :, : maps.shape[1]]).mean(axis=0)
        return jnp.pad(told, ((0, 0), (0, maps.shape[1] - told.shape[1])), constant_values=jnp.nan)


def hidden_places(weights: Transformer) -> list[str]:
    """The places of hidden states, in order: all but the maps."""
    return [place for place in transformer.places(len(weights.layers)) if not place.endswith("/map")]


def at_outputs(task: Task, seen: dict[str, Array]) -> dict[str, Array]:
    """What was seen at the rows that predict an output."""
    return {place: value[..., task.rows, :] for place, value in seen.items()}


_VARIABLES = {
    "loss_by_token": (("token",), "cross-entropy of each predicted token", "nat"),
    "accuracy": (("output",), "share of right outputs, generated greedily", "1"),
    "accuracy_by_answer": (("answer",), "share of right outputs among those where this token is right", "1"),
    "repetition": ((), "share of equal neighbours in generated outputs", "1"),
    "agreement": ((), "share of generated outputs that equal the first one", "1"),
    "entropy": ((), "entropy of the tokens within a generated output", "nat"),
    "cosine": (("place",), "mean cosine between hidden states of output rows", "1"),
    "norm": (("place",), "mean norm of hidden states of output rows", "1"),
    "cosine_of_rows": (("output", "other_output"), "mean cosine between final hidden states of two output rows", "1"),
    "progress": (("strategy", "layer"), "part of |A| that lies where attention is needed", "1"),
    "map": (("layer", "head", "output", "column"), "mean |A| of the rows that predict an output", "1"),
}


def dataset(run: Trajectory, task: Task, weights: Transformer, learning_rate: float, **attributes) -> xr.Dataset:
    """A run whose `save` was an `Observer`, labelled: over `step`, and token, output, place, strategy, layer, head, column."""
    steps = np.round(run.times / learning_rate).astype(int)
    variables = {
        name: (("step", *dims), np.asarray(run.states[name], float), {"long_name": text, "units": units})
        for name, (dims, text, units) in _VARIABLES.items()
    }
    variables["loss"] = (
        "step",
        np.asarray(run.loss, float),
        {"long_name": "cross-entropy, mean over tokens", "units": "nat"},
    )
    coordinates = {
        "step": ("step", steps, {"long_name": "training step", "units": "1"}),
        "place": hidden_places(weights),
        "strategy": list(task.strategies),
    }
    return xr.Dataset(variables, coordinates, {"method": run.method, "status": run.status, **attributes})
