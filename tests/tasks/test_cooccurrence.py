"""The co-occurrence task has the law of Definition 2.1, exact class sizes, and says what it cannot do.

All keys are fixed, so a chi-square test passes or fails for good. With the counts used here a wrong law (unshuffled
positions, one shuffle for all sentences, sorted words) has p < 1e-50, and 1e-4 leaves room for an unlucky key.
"""

import functools
import itertools

import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from gradflow import InputError
from gradflow.tasks.cooccurrence import CLASS_SHARES, MU1, MU2, MU3, CoOccurrence, least_vocabulary

LEAST_P = 1e-4
SIZES = [(6, 3), (18, 5), (30, 7)]
CONTENT = [{MU1, MU2, MU3}, {MU1, MU3}, {MU2, MU3}, {MU3}]
LABELS = [1, -1, -1, -1]


@functools.cache
def both_samplings(n, L):
    """Training sets drawn in both ways, with their tasks."""
    tasks = [CoOccurrence(n, L, least_vocabulary(n, L)), CoOccurrence(n, L, 5, random_words="iid")]
    return [(task, task.sample(jax.random.key(n))) for task in tasks]


def random_words_of(tokens):
    return tokens[tokens > MU3]


@pytest.mark.parametrize(("n", "L"), SIZES)
def test_class_sizes_are_exactly_one_half_and_three_sixths(n, L):
    for task, batch in both_samplings(n, L):
        assert task.class_sizes == (n // 2, n // 6, n // 6, n // 6)
        assert np.bincount(batch.word_class, minlength=4).tolist() == [n // 2, n // 6, n // 6, n // 6]
        assert batch.tokens.shape == (n, L)


@pytest.mark.parametrize(("n", "L"), SIZES)
def test_each_class_holds_its_fixed_words_once_and_no_other_signal(n, L):
    unique, iid = both_samplings(n, L)
    for task, batch in (unique, iid, (iid[0], iid[0].held_out(jax.random.key(L), n))):
        for sentence, label, k in zip(*(np.asarray(leaf) for leaf in batch), strict=True):
            fixed = sentence[sentence <= MU3]
            assert sorted(fixed) == sorted(CONTENT[k])
            assert label == LABELS[k]
            assert sentence.min() >= 0 and sentence.max() < task.d


@pytest.mark.parametrize(("n", "L"), SIZES)
def test_least_vocabulary_counts_the_slots_that_no_class_fixes(n, L):
    classes = [0] * (n // 2) + [1] * (n // 6) + [2] * (n // 6) + [3] * (n // 6)
    assert least_vocabulary(n, L) == 3 + sum(L - len(CONTENT[k]) for k in classes)


@pytest.mark.parametrize(("n", "L"), SIZES)
def test_the_least_vocabulary_is_used_up_by_distinct_random_words(n, L):
    _, batch = both_samplings(n, L)[0]
    assert sorted(random_words_of(np.asarray(batch.tokens))) == list(range(3, least_vocabulary(n, L)))


@pytest.mark.parametrize(("n", "L"), SIZES)
def test_one_word_less_is_refused_with_the_size_that_suffices(n, L):
    least = least_vocabulary(n, L)
    with pytest.raises(InputError, match=rf"d >= {least} suffices"):
        CoOccurrence(n, L, least - 1)


def test_unique_random_words_are_distinct_and_uniform_over_a_larger_vocabulary():
    task = CoOccurrence(6, 3, 15)
    batch = jax.vmap(task.sample)(jax.random.split(jax.random.key(4), 1200))
    tokens = np.asarray(batch.tokens)
    for training_set in tokens[:50]:
        words = random_words_of(training_set)
        assert len(words) == 4 and len(set(words)) == 4
    in_I2 = tokens[:, 3]
    words = in_I2[in_I2 > MU3]
    assert chisquare(np.bincount(words - 3, minlength=12)).pvalue > LEAST_P


@pytest.mark.parametrize("drawn_by", ["sample", "held_out"])
@pytest.mark.parametrize("L", [3, 5])
def test_fixed_words_stand_at_distinct_uniform_positions(drawn_by, L):
    task = CoOccurrence(6000, L, 10, random_words="iid")
    batch = task.sample(jax.random.key(5)) if drawn_by == "sample" else task.held_out(jax.random.key(6), 6000)
    tokens, word_class = np.asarray(batch.tokens), np.asarray(batch.word_class)
    for k, content in enumerate(CONTENT):
        of_class = tokens[word_class == k]
        places = np.stack([np.argmax(of_class == word, axis=1) for word in sorted(content)], axis=1)
        cells = list(itertools.permutations(range(L), len(content)))
        counts = [int((places == cell).all(axis=1).sum()) for cell in cells]
        assert sum(counts) == len(of_class)
        assert chisquare(counts).pvalue > LEAST_P


@pytest.mark.parametrize("drawn_by", ["sample", "held_out"])
def test_independent_random_words_are_uniform_and_independent_within_a_sentence(drawn_by):
    task = CoOccurrence(6000, 5, 10, random_words="iid")
    batch = task.sample(jax.random.key(7)) if drawn_by == "sample" else task.held_out(jax.random.key(8), 6000)
    tokens = np.asarray(batch.tokens)
    assert chisquare(np.bincount(random_words_of(tokens) - 3, minlength=7)).pvalue > LEAST_P
    of_I4 = tokens[np.asarray(batch.word_class) == 3]
    words = of_I4[of_I4 > MU3].reshape(-1, 4) - 3
    assert chisquare(np.bincount(7 * words[:, 0] + words[:, 1], minlength=49)).pvalue > LEAST_P


def test_held_out_words_of_a_unique_task_are_independent_draws_from_the_whole_vocabulary():
    task = CoOccurrence(6, 3, 15)
    words = random_words_of(np.asarray(task.held_out(jax.random.key(9), 6000).tokens))
    assert chisquare(np.bincount(words - 3, minlength=12)).pvalue > LEAST_P


def test_held_out_classes_have_the_shares_of_the_distribution_and_not_exact_sizes():
    word_class = CoOccurrence(6, 3, 7).held_out(jax.random.key(10), 6000).word_class
    counts = np.bincount(word_class, minlength=4)
    assert chisquare(counts, 6000 * np.array([1 / 2, 1 / 6, 1 / 6, 1 / 6])).pvalue > LEAST_P
    assert counts.tolist() != [3000, 1000, 1000, 1000]
    np.testing.assert_allclose(CLASS_SHARES, [1 / 2, 1 / 6, 1 / 6, 1 / 6], rtol=1e-15)  # one rounding each


@pytest.mark.parametrize("random_words", ["unique", "iid"])
def test_the_same_key_gives_the_same_batch_and_another_key_another(random_words):
    task = CoOccurrence(18, 5, 60, random_words=random_words)
    for draw in (task.sample, lambda key: task.held_out(key, 18)):
        first, again, other = draw(jax.random.key(11)), draw(jax.random.key(11)), draw(jax.random.key(12))
        assert all(np.array_equal(x, y) for x, y in zip(first, again, strict=True))
        assert not np.array_equal(first.tokens, other.tokens)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n": 0}, r"n must be a positive multiple of 6 .*got 0"),
        ({"n": -6}, r"n must be a positive multiple of 6 .*got -6"),
        ({"n": 15}, r"n must be a positive multiple of 6 .*got 15"),
        ({"L": 2}, r"L must be at least 3 .*got 2"),
        ({"d": 22}, r"d = 22 is too small .*n = 12, L = 4: d >= 23 suffices"),
        ({"d": 3, "random_words": "iid"}, r"d must be at least 4 .*got 3"),
        ({"random_words": "uniqe"}, r"'unique' or 'iid', got 'uniqe'"),
    ],
)
def test_sizes_that_the_data_model_excludes_are_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        CoOccurrence(**({"n": 12, "L": 4, "d": 23} | arguments))


@pytest.mark.parametrize("size", [0, -1])
def test_an_empty_held_out_set_is_refused(size):
    with pytest.raises(InputError, match=f"at least one sentence, got size = {size}"):
        CoOccurrence(6, 3, 7).held_out(jax.random.key(0), size)
