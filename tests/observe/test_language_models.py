"""COS and rho of language models: against the library's own forward and generation, and plain numpy."""

import numpy as np
import pytest

from gradflow import InputError
from gradflow.models import random_checkpoints
from gradflow.observe.language_models import Answers, answer, dataset, observe

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

LENGTHS = (3, 17, 1, 9, 9, 30)
ROUNDING = 1e-5  # of states up to 3 in float32, which the models' norms and rotations compute in: a unit is 2e-7, and layers add up some


@pytest.fixture(scope="module", params=random_checkpoints.MODELS)
def model(request):
    return random_checkpoints.draw(request.param, seed=3)


@pytest.fixture(scope="module")
def questions():
    draws = np.random.default_rng(0)
    return [draws.integers(0, 256, length).tolist() for length in LENGTHS]


@pytest.fixture(scope="module")
def answers(model, questions):
    return answer(model, questions, batch=4)


def test_tokens_are_those_of_the_librarys_own_greedy_generation(model, questions, answers, monkeypatch):
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)  # it would end there
    assert len(np.unique(answers.tokens)) > 10  # outputs differ, so that agreement says something
    for question, tokens in zip(questions, answers.tokens, strict=True):
        ids = torch.tensor([question])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, pad_token_id=0)  # fmt: skip
        assert made[0, len(question) :].tolist() == tokens.tolist()


def test_hidden_states_are_those_after_the_final_norm_in_one_pass_over_question_and_answer(model, questions, answers):
    """No cache, no padding: the state at the last position of step i is that at position length - 1 + i of the whole."""
    norm = model.base_model.final_layer_norm if hasattr(model.base_model, "final_layer_norm") else model.base_model.norm
    before = []
    hook = norm.register_forward_hook(lambda module, inputs, output: before.append(inputs[0]))
    for question, tokens, hidden in zip(questions, answers.tokens, answers.hidden, strict=True):
        with torch.no_grad():
            seen = model(torch.tensor([question + tokens.tolist()]), output_hidden_states=True)
        rows = slice(len(question) - 1, len(question) + 7)
        np.testing.assert_allclose(hidden, seen.hidden_states[-1][0, rows], atol=ROUNDING)
        np.testing.assert_allclose(hidden, norm(before[-1])[0, rows].detach(), atol=ROUNDING)
        assert np.abs(hidden - before[-1][0, rows].numpy()).max() > 0.1  # the norm is seen
        assert seen.logits[0, rows].argmax(-1).tolist() == tokens.tolist()
    hook.remove()


def test_answers_do_not_depend_on_the_size_of_a_batch(model, questions, answers):
    for batch in (1, 2, 6, 100):
        other = answer(model, questions, batch=batch)
        np.testing.assert_array_equal(other.tokens, answers.tokens)
        np.testing.assert_allclose(other.hidden, answers.hidden, atol=ROUNDING)


def test_positions_count_from_the_first_word_of_each_question(questions):
    """GPT-2 learns a vector for each position, so that it sees where padding puts a word; rotations of the others do not."""
    from transformers import AutoModelForCausalLM, GPT2Config

    config = GPT2Config(vocab_size=257, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    together, alone = answer(model, questions), [answer(model, [question]) for question in questions]
    np.testing.assert_array_equal(together.tokens, np.concatenate([each.tokens for each in alone]))
    np.testing.assert_allclose(together.hidden, np.concatenate([each.hidden for each in alone]), atol=ROUNDING)


def test_generation_goes_on_after_the_end_of_a_text(model, questions, answers, monkeypatch):
    """The end is a token like any other; the library would stop there."""
    monkeypatch.setattr(model.generation_config, "eos_token_id", int(answers.tokens[1, 2]))
    np.testing.assert_array_equal(answer(model, questions, batch=4).tokens, answers.tokens)
    ids = torch.tensor([questions[1]])
    made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, pad_token_id=0)
    assert made.shape[1] < len(questions[1]) + 8


def test_cos_and_rho_are_their_definitions(answers):
    """COS over 28 pairs and rho over 7 neighbours, mean over questions, by loops."""
    seen, of_pairs, of_neighbours = observe(answers), [], []
    for hidden, tokens in zip(answers.hidden, answers.tokens, strict=True):
        cosine = lambda a, b: a @ b / np.sqrt((a @ a) * (b @ b))  # noqa: E731
        of_pairs.append([cosine(hidden[i], hidden[j]) for i in range(8) for j in range(i)])
        of_neighbours.append([tokens[i] == tokens[i + 1] for i in range(7)])
    assert np.shape(of_pairs) == (len(LENGTHS), 28)
    np.testing.assert_allclose(seen["cosine"], np.mean(of_pairs), atol=1e-12)  # 64 bits
    np.testing.assert_allclose(seen["cosine_of_question"], np.mean(of_pairs, axis=1), atol=1e-12)
    np.testing.assert_allclose(seen["repetition"], np.mean(of_neighbours))
    np.testing.assert_allclose(seen["repetition_of_question"], np.mean(of_neighbours, axis=1))
    np.testing.assert_allclose(seen["cosine_of_steps"][np.tril_indices(8, -1)], np.mean(of_pairs, axis=0), atol=1e-12)


def test_a_model_whose_outputs_are_all_equal_has_cos_and_rho_one(model, questions):
    """One embedding for all words, and layers that add nothing: every position has the same hidden state."""
    body = random_checkpoints.draw(model.config.model_type.replace("_", "-").replace("olmo2", "olmo-2"), seed=4)
    with torch.no_grad():
        body.get_input_embeddings().weight[:] = torch.linspace(-1, 2, 32)
        for name, parameter in body.base_model.named_parameters():
            if "layers." in name:
                parameter.zero_()
    seen = observe(answer(body, questions))
    assert seen["repetition"] == 1
    np.testing.assert_allclose(seen["cosine"], 1, atol=1e-12)


def test_half_precision_is_seen_in_64_bits(questions):
    model = random_checkpoints.draw("olmo-2", seed=3).to(torch.bfloat16)
    answers = answer(model, questions[:2])
    assert answers.hidden.dtype == np.float64 and answers.hidden.shape == (2, 8, 32)


def test_questions_that_cannot_be_asked_are_refused(model, questions):
    with pytest.raises(InputError, match="A question has no tokens"):
        answer(model, [*questions, []])
    with pytest.raises(InputError, match="249 tokens; 248 fit"):
        answer(model, [*questions, [1] * 249])
    with pytest.raises(InputError, match="at least one question"):
        answer(model, questions, batch=0)


def test_hidden_states_that_are_not_finite_are_refused(questions):
    model = random_checkpoints.draw("gpt-neox", seed=3)
    with torch.no_grad():
        model.base_model.final_layer_norm.bias[0] = float("inf")
    with pytest.raises(InputError, match=r"not finite: torch\.float32 is too narrow"):
        answer(model, questions)


def test_the_dataset_labels_checkpoints_by_model_revision_and_step():
    draws = np.random.default_rng(1)
    seen = [observe(Answers(draws.integers(0, 3, (5, 8)), draws.normal(size=(5, 8, 4)))) for _ in range(3)]
    names = [("a", "step0"), ("a", "step512"), ("b", "stage1-step150-tokens1B")]
    labelled = dataset(dict(zip(names, seen, strict=True)), dtype="float32")
    assert labelled["checkpoint"].values.tolist() == ["a step0", "a step512", "b stage1-step150-tokens1B"]
    assert labelled["step"].values.tolist() == [0, 512, 150]
    assert all(each.attrs["long_name"] and each.attrs["units"] == "1" for each in labelled.values())
    at = labelled.isel(checkpoint=labelled["model"].values == "b")
    assert float(at["cosine"].item()) == float(seen[2]["cosine"])
    np.testing.assert_allclose(labelled["cosine_of_question"].mean("question"), labelled["cosine"], atol=1e-12)
    np.testing.assert_allclose(labelled["repetition_of_question"].mean("question"), labelled["repetition"])
