"""What the paper reports of Pythia and OLMo-2: each claim holds, fails, or cannot be told, as the numbers are."""

import numpy as np
import pytest

from gradflow.models.pretrained import OLMO_REVISIONS, PYTHIA_REVISIONS
from gradflow.observe.language_models import Answers, dataset, observe
from gradflow.theory.language_models import claims


def seen(cosines, questions=100, source="arc_easy.jsonl"):
    """A dataset with these COS by (model, revision)."""
    flat = observe(Answers(np.zeros((questions, 8), int), np.ones((questions, 8, 2))))
    return dataset({key: flat | {"cosine": np.float64(value)} for key, value in cosines.items()}, questions=source)


def pythia(size="14m", **by_revision):
    return {(f"EleutherAI/pythia-{size}", name): by_revision.get(name, 0.5) for name in PYTHIA_REVISIONS}


def olmo(*values):
    return {("allenai/OLMo-2-1124-7B", name): value for name, value in zip(OLMO_REVISIONS, values, strict=True)}


def verdicts(*arguments, **options):
    return [claim.holds for claim in claims(seen(*arguments, **options))]


def test_the_papers_revisions_are_those_of_its_protocol():
    steps = [int(name.removeprefix("step")) for name in PYTHIA_REVISIONS]
    assert steps == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 4000, 8000, 10000]


def test_a_pythia_holds_where_its_peak_after_step_0_exceeds_nine_tenths():
    assert verdicts(pythia(step64=0.95)) == [True, None, None]
    assert verdicts(pythia(step64=0.89)) == [False, None, None]
    assert verdicts(pythia(step0=0.99)) == [False, None, None]  # which is not trained


def test_of_several_sizes_the_least_peak_counts():
    both = pythia(step64=0.95) | pythia("1b", step512=0.91)
    assert claims(seen(both))[0].measured == pytest.approx(0.91)
    assert verdicts(pythia(step64=0.95) | pythia("1b", step512=0.8)) == [False, None, None]


def test_few_revisions_can_show_a_peak_and_cannot_deny_it():
    few = {("pythia-14m", "step512"): 0.95}
    assert verdicts(few) == [True, None, None]
    assert verdicts({("pythia-14m", "step512"): 0.5}) == [None, None, None]
    assert verdicts({("pythia-14m", "step0"): 0.95}) == [None, None, None]


def test_olmo_is_held_to_both_numbers():
    assert verdicts(olmo(0.935, 0.44)) == [None, True, True]
    assert verdicts(olmo(0.90, 0.50)) == [None, False, False]
    assert claims(seen(olmo(0.9, 0.5)))[2].measured == 0.5


def test_other_models_and_other_questions_cannot_tell():
    assert verdicts({("random olmo-2", "step150"): 0.93}) == [None] * 3
    assert verdicts(pythia(step64=0.95) | olmo(0.93, 0.43), source="own") == [None] * 3
    assert verdicts(pythia(step64=0.95) | olmo(0.93, 0.43), questions=99) == [None] * 3
