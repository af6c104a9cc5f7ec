"""What is seen of a language model that answers questions: which tokens it repeats, and how parallel its hidden states are.

Gopalani and Hu (2025), arXiv 2506.13688, of Pythia and OLMo-2: eight tokens are generated greedily after each question. At each of these steps
h is the hidden state after the final norm, at the last position, from which the head reads the new token. COS is the mean of cos(h_i,
h_j) over questions and the 28 pairs of steps, rho the share of equal ones among the seven pairs of neighbouring tokens. The end of
a text is a token like any other: generation goes on after it, so that no padding is counted as a repetition.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from gradflow.errors import require
from gradflow.models.pretrained import step_of
from gradflow.observe.sequences import collapse, cosines, repetition

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OUTPUTS = 8


class Answers(NamedTuple):
    """Generated tokens of every question, and the hidden states from which the head read them."""

    tokens: Int[np.ndarray, "b g"]
    hidden: Float[np.ndarray, "b g e"]


def answer(
    model: "PreTrainedModel", questions: Sequence[Sequence[int]], *, outputs: int = OUTPUTS, batch: int = 16
) -> Answers:
    """Generate greedily after questions, given as token ids, `batch` at a time; the size of a batch changes rounding alone.

    Raises `InputError` for a question without tokens or longer than the model's context, and hidden states that are not finite.
    """
    import torch

    require(batch >= 1, f"A batch takes at least one question, got {batch}.")
    longest, context = max(map(len, questions)), model.config.max_position_embeddings
    require(min(map(len, questions)) > 0, "A question has no tokens.")
    require(longest + outputs <= context, f"A question has {longest} tokens; {context - outputs} fit into the context.")
    with torch.inference_mode():
        parts = [_generate(model, questions[i : i + batch], outputs) for i in range(0, len(questions), batch)]
    answers = Answers(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    require(np.isfinite(answers.hidden).all(), f"Hidden states are not finite: {model.dtype} is too narrow, or the weights are broken.")  # fmt: skip
    return answers


def _generate(model: "PreTrainedModel", questions: Sequence[Sequence[int]], outputs: int) -> Answers:
    """Questions are padded on the left, so that all end together; what pads is masked, and positions count from the first real token."""
    import torch

    longest = max(map(len, questions))
    padded = [[0] * (longest - len(each)) + list(each) for each in questions]
    real = [[0] * (longest - len(each)) + [1] * len(each) for each in questions]
    new, mask = torch.tensor(padded, device=model.device), torch.tensor(real, device=model.device)
    positions, cache, tokens, hidden = (mask.cumsum(-1) - 1).clamp(min=0), None, [], []
    for _ in range(outputs):
        seen = model.base_model(
            input_ids=new, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        hidden.append(seen.last_hidden_state[:, -1])
        new = model.get_output_embeddings()(hidden[-1]).argmax(-1, keepdim=True)
        tokens.append(new[:, 0])
        mask, positions, cache = torch.cat([mask, mask[:, -1:]], 1), positions[:, -1:] + 1, seen.past_key_values
    return Answers(torch.stack(tokens, 1).cpu().numpy(), torch.stack(hidden, 1).double().cpu().numpy())


def observe(answers: Answers) -> dict[str, np.ndarray]:
    """COS and rho of one checkpoint, over all questions and of each, and the cosine of every pair of steps, mean over questions."""
    by_question = np.asarray(jax.vmap(cosines)(answers.hidden[:, None]))  # b g g
    pairs = np.tri(answers.tokens.shape[1], k=-1, dtype=bool)
    seen = {
        "cosine": collapse(by_question.mean(axis=0), pairs),
        "repetition": repetition(answers.tokens),
        "cosine_of_question": [collapse(each, pairs) for each in by_question],
        "repetition_of_question": [repetition(each) for each in answers.tokens],
        "cosine_of_steps": by_question.mean(axis=0),
        "token": answers.tokens,
    }
    return {name: np.asarray(value) for name, value in seen.items()}


_VARIABLES = {
    "cosine": ((), "COS: mean cosine between hidden states of two steps"),
    "repetition": ((), "rho: share of equal neighbours among generated tokens"),
    "cosine_of_question": (("question",), "mean cosine between hidden states of two steps, of one question"),
    "repetition_of_question": (("question",), "share of equal neighbours among the tokens of one answer"),
    "cosine_of_steps": (("output", "other_output"), "cosine between hidden states of two steps, mean over questions"),
    "token": (("question", "output"), "generated tokens, by the model's own numbers"),
}


def dataset(checkpoints: Mapping[tuple[str, str], dict[str, np.ndarray]], **attributes) -> xr.Dataset:
    """What `observe` gave by (model, revision), labelled: over `checkpoint`, with its `model`, `revision` and training `step`."""
    seen = list(checkpoints.values())
    variables = {
        name: (("checkpoint", *dims), np.stack([each[name] for each in seen]), {"long_name": text, "units": "1"})
        for name, (dims, text) in _VARIABLES.items()
    }
    models, revisions = (list(names) for names in zip(*checkpoints, strict=True))
    coordinates = {
        "checkpoint": [f"{model} {revision}" for model, revision in checkpoints],
        "model": ("checkpoint", models),
        "revision": ("checkpoint", revisions),
        "step": (
            "checkpoint",
            list(map(step_of, revisions)),
            {"long_name": "training step, NaN where no name says it", "units": "1"},
        ),
    }
    return xr.Dataset(variables, coordinates, attributes)
