"""A probe: can the right outputs be read from hidden states, by one hidden layer of 256 units?

    class of y_t = argmax down(relu(up(N(h_t))))

with the same weights for all rows t, N the standardisation of each channel over training states, trained with Adam on half of the
samples and measured on the other half: what is found there is in the states, not in the probe. For states at the attention's output,
it tells when the attention has found what the answer needs, before the rest of the model can use it (Gopalani and Hu 2025, arXiv
2506.13688).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gradflow.dynamics.descent import descend
from gradflow.errors import require
from gradflow.models import transformer
from gradflow.models.transformer import Linear, Transformer
from gradflow.observe.sequences import at_outputs
from gradflow.tasks.sequences import Task


class Probe(eqx.Module):
    """The weights of one hidden layer."""

    up: Linear
    down: Linear

    def __call__(self, hidden: Float[Array, "i e"]) -> Float[Array, "i v"]:
        return self.down(jax.nn.relu(self.up(hidden)))


def probe(
    hidden: Float[Array, "b g e"],
    answers: Int[Array, "b g"],
    key: PRNGKeyArray,
    *,
    first_row: int = 0,
    units: int = 256,
    steps: int = 500,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
) -> Float[np.ndarray, " g-first_row"]:
    """Accuracy of a probe at each output row from `first_row` on, over the samples that it was not trained on.

    hidden      states of b samples at g rows; answers: the token that each should predict
    first_row   1 leaves out the first row, whose answer may be a mere copy
    steps       of Adam, each on `batch_size` samples, all their rows (or half of the samples, where that is less)

    Raises `InputError` for fewer than 4 samples, or shapes that do not fit.
    """
    hidden, answers = jnp.asarray(hidden), jnp.asarray(answers)
    require(
        hidden.ndim == 3 and answers.shape == hidden.shape[:2],
        f"A probe needs hidden states (b, g, e) and answers (b, g), got {hidden.shape} and {answers.shape}.",
    )
    samples, rows, width = hidden.shape
    require(samples >= 4, f"A probe is trained on half of the samples: at least 4 are needed, got {samples}.")
    require(0 <= first_row < rows, f"first_row must be one of the {rows} rows, from 0, got {first_row}.")
    hidden, answers, half = hidden[:, first_row:], answers[:, first_row:], samples // 2
    classes = int(answers.max()) + 1
    seen = hidden[:half].reshape(-1, width)
    spread = seen.std(axis=0)
    hidden = (hidden - seen.mean(axis=0)) / jnp.where(spread > 0, spread, 1)
    keys = jax.random.split(key, 3)
    weights = Probe(_linear(keys[0], width, units, hidden.dtype), _linear(keys[1], units, classes, hidden.dtype))
    trained = descend(
        _loss, weights, (hidden[:half], answers[:half]), batch_size=min(batch_size, half), key=keys[2],
        optimizer=optax.adam, learning_rate=learning_rate, steps=steps, save_steps=np.array([0, steps]),
        save=_nothing, show_progress=False,
    ).require_complete().final  # fmt: skip
    guesses = jax.vmap(trained)(hidden[half:]).argmax(axis=-1)
    return np.asarray((guesses == answers[half:]).mean(axis=0))


def states(
    weights: Transformer, task: Task, key: PRNGKeyArray, place: str = "layers/0/attention", samples: int = 2048
) -> tuple[Float[Array, "b g e"], Int[Array, "b g"]]:
    """What a `probe` needs of a transformer: fresh samples' hidden states at one of `transformer.places`, teacher forced, and answers.

    Raises `InputError` for a place that is unknown or holds an attention map.
    """
    known = [name for name in transformer.places(len(weights.layers)) if not name.endswith("/map")]
    require(place in known, f"Unknown place {place!r}; hidden states are at {', '.join(known)}.")
    batch = task.sample(key, samples)

    @jax.jit
    def of_all(batch):
        return jax.vmap(lambda tokens: at_outputs(task, transformer.observe(weights, tokens[:-1])[1])[place])(batch)

    return of_all(batch), batch[:, task.prompt :]


def _loss(probe: Probe, samples: tuple[Float[Array, "b g e"], Int[Array, "b g"]]) -> Float[Array, ""]:
    hidden, answers = samples
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(probe)(hidden), answers).mean()


def _nothing(probe: Probe, *data) -> tuple:
    """What is kept at save points."""
    return ()


def _linear(key: PRNGKeyArray, rows: int, columns: int, dtype: jnp.dtype) -> Linear:
    """Weights that keep the variance of what passes a relu."""
    weight = jnp.sqrt(2 / rows) * jax.random.normal(key, (rows, columns), dtype)
    return Linear(weight.astype(dtype), jnp.zeros(columns, dtype))
