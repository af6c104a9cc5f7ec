"""Closed-form losses of sequence tasks: the published digits, counts over all inputs, and what the formulas say at their ends."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
import sympy as sp

from derivations import sequence_losses as counted
from gradflow import InputError
from gradflow.tasks import closed_forms


@pytest.mark.parametrize(
    ("n", "p", "initial", "marginal", "plateau", "floor"),
    [
        (16, 17, "2.890", "2.7143", "2.6277", "1.29965"),
        (8, 11, "2.485", "2.200", "2.056", "1.007"),
        (8, 7, None, None, "1.634", "0.784"),
    ],
)
def test_the_levels_of_the_window_sum_have_the_digits_that_runs_and_hand_gave(n, p, initial, marginal, plateau, floor):
    losses = closed_forms.window_sum(n, p)
    for name, digits in {"initial": initial, "marginal": marginal, "plateau": plateau, "floor": floor}.items():
        if digits is not None:
            places = len(digits.partition(".")[2])
            assert f"{getattr(losses, name):.{places}f}" == digits, name


def test_the_other_measures_of_the_window_sum_have_the_known_values():
    assert f"{closed_forms.window_sum_repetition(16, 17):.4f}" == "0.0583"
    assert f"{closed_forms.window_sum_accuracy(16, 17):.2f}" == "0.12"
    entries = closed_forms.window_entries(sp.Integer(16), 2)
    assert closed_forms.uniform_progress(entries, 17, sp.Integer(16)) == sp.Rational(31, 392)
    assert closed_forms.uniform_progress(closed_forms.window_entries(8, 2), 9, 8) == pytest.approx(0.15, rel=1e-15)
    assert closed_forms.chance_of_zero(2, Fraction(17)) == Fraction(1, 16)  # the others are (15/16) / 16 = 15/256


@pytest.mark.parametrize("task", counted.counted_tasks())
def test_the_levels_are_those_of_all_inputs_counted(task):
    for every, first, losses in counted.counted_tasks()[task]:
        told = counted.counted_levels(list(every), len(losses.outputs), first)
        assert counted.levels(losses) == pytest.approx(told, rel=1e-13)  # rounding
        assert losses.floor <= losses.plateau <= losses.marginal <= losses.initial


def of_all(every, losses):
    """The same without a plateau, of which nothing is claimed."""
    initial, marginal, _, floor = counted.counted_levels(every, len(losses.outputs), 0)
    assert math.isnan(losses.plateau)
    return [initial, marginal, floor] == pytest.approx(
        [losses.initial, losses.marginal, losses.floor], rel=1e-13
    )  # rounding


@pytest.mark.parametrize(
    ("n", "p", "ends"), [(5, 4, ((0, 1), (1, 2), (1, 3), (2, 4), (2, 5))), (3, 6, ((0, 3), (0, 1), (1, 3)))]
)
def test_the_levels_of_concatenated_sums_are_those_of_all_inputs_counted(n, p, ends):
    every = [(*x, p, *(sum(x[i:j]) % p for i, j in ends)) for x in itertools.product(range(1, p), repeat=n)]
    assert of_all(every, closed_forms.concatenated_sums(n, p, tuple(j - i for i, j in ends)))


@pytest.mark.parametrize("digits", [1, 2])
@pytest.mark.parametrize("units_first", [True, False])
def test_the_levels_of_addition_are_those_of_all_pairs_counted(digits, units_first):
    every = []
    for a, b in itertools.product(range(10**digits), repeat=2):
        total = f"{a + b:0{digits + 1}}"
        every.append(tuple(f"{a:0{digits}}+{b:0{digits}}=" + (total[::-1] if units_first else total)))
    # characters are not numbers: 0..9 stand for those, : and ; come after 9
    every = [
        tuple(ord(each) - ord("0") for each in "".join(text).replace("+", ":").replace("=", ";")) for text in every
    ]
    losses = closed_forms.addition(digits, units_first)
    assert of_all(every, losses)
    carries = [text[-1 if units_first else -digits - 1] for text in every]
    carry = losses.outputs[-1 if units_first else 0]
    assert carry == pytest.approx(
        closed_forms.entropy(count / len(every) for count in Counter(carries).values()), rel=1e-14
    )
    assert carry < math.log(2)


@pytest.mark.parametrize("p", [2, 3, 6, 7])  # a modulus needs not be prime
def test_a_sum_is_0_as_often_as_convolution_says_and_other_residues_equally_often(p):
    step = [Fraction(0), *[Fraction(1, p - 1)] * (p - 1)]
    law = [Fraction(1), *[Fraction(0)] * (p - 1)]
    for k in range(7):
        zero = closed_forms.chance_of_zero(k, Fraction(p))
        assert law == [zero, *[(1 - zero) / (p - 1)] * (p - 1)]
        law = [sum(law[s - x] * step[x] for x in range(p)) for s in range(p)]


@pytest.mark.parametrize(("n", "p", "k"), counted.WINDOWS)
def test_accuracy_repetition_and_agreement_are_those_of_all_inputs_counted(n, p, k):
    every = list(counted.window_sums(n, p, k))
    of_output = [Counter(each) for each in zip(*every, strict=True)][-n:]
    likeliest = [k - 1, *(max(counts.values()) / len(every) for counts in of_output[k - 1 :])]
    assert closed_forms.window_sum_accuracy(n, p, k) == pytest.approx(sum(likeliest) / n, rel=1e-14)
    told = [closed_forms.window_sum_repetition(n, p, k), closed_forms.window_sum_agreement(n, p, k)]
    assert told == pytest.approx([float(share) for share in counted.counted_pairs(every, n)], rel=1e-14)


def test_prefix_sums_never_repeat_and_repeats_do_but_at_boundaries():
    prefixes = list(counted.prefix_sums(5, 4))
    assert counted.counted_pairs(prefixes, 5)[0] == 0
    for n, words, blocks in [(4, 4, 1), (4, 5, 2), (6, 3, 3)]:
        repetition, agreement = counted.counted_pairs(list(counted.repeats(n, words, blocks)), n)
        assert float(repetition) == pytest.approx(closed_forms.repeat_repetition(n, blocks), rel=1e-15)
        assert agreement == Fraction(1, blocks)


def test_a_model_that_knows_prefix_sums_do_not_repeat_is_between_plateau_and_floor():
    """The inputs, and each output after y_1 given the one before: conditional entropies, counted."""
    n, p = 5, 4
    outputs = [each[-n:] for each in counted.prefix_sums(n, p)]
    nats = (n - 1) * math.log(p - 1)
    for i, _ in itertools.pairwise(range(n)):
        pairs, before = Counter(y[i : i + 2] for y in outputs), Counter(y[i] for y in outputs)
        nats -= sum(count / len(outputs) * math.log(count / before[pair[0]]) for pair, count in pairs.items())
    told = closed_forms.prefix_sum_without_repeats(n, p)
    assert told == pytest.approx(nats / (2 * n), rel=1e-14)
    assert closed_forms.prefix_sum(n, p).floor < told < closed_forms.prefix_sum(n, p).plateau


def test_a_window_of_one_is_a_copy_and_the_last_prefix_of_a_permutation_is_0():
    window, copy = closed_forms.window_sum(7, 12, 1), closed_forms.copy(7, 11)
    assert (window.floor, window.marginal) == pytest.approx((copy.floor, copy.marginal), rel=1e-15)
    assert closed_forms.prefix_sum(16, 17, distinct=True).outputs[-1] == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: closed_forms.window_sum(4, 5, 5), "A window takes between 1 and n = 4 numbers, got k = 5"),
        (lambda: closed_forms.window_sum(1, 5), "n and p must be at least 2, got n = 1"),
        (lambda: closed_forms.prefix_sum(5, 5, distinct=True), "n = p - 1 numbers, got n = 5 and p = 5"),
        (lambda: closed_forms.prefix_sum(8, 9, distinct=True), "p must be an odd prime, got 9"),
        (lambda: closed_forms.repeat(16, 16, 3), "blocks must divide n and be at most words, got 3"),
        (lambda: closed_forms.copy(4, 1), "n and words must be at least 2, got n = 4 and words = 1"),
        (lambda: closed_forms.concatenated_sums(4, 5, (1, 5)), "A window takes between 1 and n = 4 numbers, got k = 5"),
        (lambda: closed_forms.copy(4, 4).with_right(5), "count must be between 0 and 4, got 5"),
    ],
)
def test_sizes_without_a_closed_form_are_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()
