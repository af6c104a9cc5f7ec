"""Sequence tasks against definitions in plain Python, all their sequences against enumeration, and what each output needs."""

import dataclasses
import functools
import itertools
import math

import equinox as eqx
import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from derivations import sequence_losses as counted
from gradflow import InputError
from gradflow.tasks import closed_forms
from gradflow.tasks.sequences import (
    MIXES,
    Addition,
    ConcatenatedSums,
    Copy,
    Fresh,
    Histogram,
    Permutation,
    PrefixSum,
    Repeat,
    WindowSum,
    every_sequence,
)

PAPER = [
    WindowSum(), PrefixSum(), PrefixSum(distinct=True), Addition(), Addition(units_first=False), Permutation(),
    *(Permutation(power=c) for c in (2, 3, 4)), Histogram(), Copy(), Copy(reverse=True), *(Repeat(blocks=b) for b in (1, 2, 4)),
    *(ConcatenatedSums(mix) for mix in MIXES),
]  # fmt: skip
AWKWARD = [
    WindowSum(2, 2, 2), WindowSum(5, 7, 1), WindowSum(13, 4, 5), PrefixSum(7, 9), PrefixSum(12, 13, distinct=True), Addition(1),
    Addition(3, units_first=False), Addition(10), Permutation(2, 5), Permutation(5, 7, power=7), Histogram(13, 2),
    Copy(7, 2, reverse=True), Repeat(3, 3, 3), Repeat(10, 6, 5), ConcatenatedSums("124_stair_653", p=3),
]  # fmt: skip


@functools.cache
def batch(task) -> tuple[np.ndarray, np.ndarray]:
    """2000 sequences, and what the first 20 need of the attention map. Prompts are drawn outside of what is compiled for a task alone."""

    def finish(prompts):
        tokens = task.complete(prompts)
        return tokens, jax.vmap(task.optimal)(tokens[:20])

    return tuple(map(np.asarray, jax.jit(finish)(task.draw(jax.random.key(5), 2000))))


def needed(task) -> np.ndarray:
    """(strategies, layers, outputs, length - 1), where it is the same for all sequences."""
    return batch(task)[1][0]


def defined(task, prompt: list[int]) -> list[int]:
    """The output of a prompt, from the paper's words."""
    x = prompt[:-1]
    match task:
        case WindowSum(n=n, p=p, k=k):
            return [x[i - 1] if i < k else sum(x[i - k : i]) % p for i in range(1, n + 1)]
        case PrefixSum(n=n, p=p):
            return [sum(x[:i]) % p for i in range(1, n + 1)]
        case Addition(digits=n, units_first=units_first):
            a, b = (int("".join(map(str, number))) for number in (prompt[:n], prompt[n + 1 : 2 * n + 1]))
            shown = [int(digit) for digit in f"{a + b:0{n + 1}d}"]
            return shown[::-1] if units_first else shown
        case Permutation(n=n, power=c):
            x, pi = dict(enumerate(prompt[:n], 1)), dict(enumerate(prompt[n + 1 : 2 * n + 1], 1))
            ends = list(range(1, n + 1))
            for _ in range(c):
                ends = [pi[i] for i in ends]
            return [x[i] for i in ends]
        case Histogram():
            return [x.count(each) for each in x]
        case Copy(reverse=reverse):
            return list(reversed(x)) if reverse else x
        case Repeat(n=n, words=words, blocks=k):
            return [(x[0] + block) % (words + 1) for block in range(k) for _ in range(n // k)]
        case ConcatenatedSums(mix=mix, p=p):
            c = {k: np.convolve(x, np.ones(k, int), "valid") % p for k in (1, 2, 3, 4)}
            parts = {
                "123_disjoint_454": (x[0:4], c[2][4:9], c[3][10:14]),
                "124_stair_653": (x[0:6], c[2][0:5], c[4][0:3]),
                "124_disjoint_444": (x[0:4], c[2][4:8], c[4][9:13]),
                "124_disjoint_453": (x[0:4], c[2][4:9], c[4][10:13]),
            }[mix]
            return [int(y) for part in parts for y in part]


@pytest.mark.parametrize("task", PAPER + AWKWARD, ids=str)
def test_outputs_are_those_of_the_definition(task):
    tokens, _ = batch(task)
    assert tokens.shape == (2000, task.length) and tokens.dtype == np.int32
    assert tokens.min() >= 0 and tokens.max() < task.vocabulary
    for each in tokens[:40].tolist():
        assert each[task.prompt :] == defined(task, each[: task.prompt])
    assert task.losses.positions == task.length - 1
    assert np.array_equal(task.rows + 1, np.arange(task.prompt, task.length))  # the next token is the output


def test_vocabulary_length_and_outputs_are_those_of_the_papers_table():
    told = {type(task): (task.vocabulary, task.length) for task in PAPER}
    assert told.pop(ConcatenatedSums)[0] == 18
    assert told == {
        WindowSum: (18, 33), PrefixSum: (18, 33), Addition: (12, 15), Permutation: (33, 50), Histogram: (17, 33),
        Copy: (17, 33), Repeat: (18, 33),
    }  # fmt: skip
    assert [ConcatenatedSums(mix).outputs for mix in MIXES] == [13, 14, 12, 12]


def test_the_sums_that_the_paper_spells_out():
    """123_disjoint_454: x_1..x_4, x_5+x_6 .. x_9+x_10, x_11+x_12+x_13 .. x_14+x_15+x_16, of inputs whose sums all differ."""
    task = ConcatenatedSums("123_disjoint_454", p=2**17)
    x = [2**i for i in range(16)]
    spelled = [
        [1],
        [2],
        [3],
        [4],
        [5, 6],
        [6, 7],
        [7, 8],
        [8, 9],
        [9, 10],
        [11, 12, 13],
        [12, 13, 14],
        [13, 14, 15],
        [14, 15, 16],
    ]
    assert task.answer(np.array([*x, 2**17])).tolist() == [sum(x[i - 1] for i in each) for each in spelled]


# ------------------------------------------------------------------------------------------------ how prompts are drawn


def additions(digits: int, units_first: bool):
    for a, b in itertools.product(range(10**digits), repeat=2):
        shown = f"{a + b:0{digits + 1}d}"
        text = f"{a:0{digits}d}+{b:0{digits}d}=" + (shown[::-1] if units_first else shown)
        yield tuple("0123456789+=".index(each) for each in text)


SMALL = [
    (WindowSum(4, 5), counted.window_sums(4, 5, 2)),
    (WindowSum(5, 4, 3), counted.window_sums(5, 4, 3)),
    (PrefixSum(4, 5), counted.prefix_sums(4, 5)),
    (PrefixSum(6, 7, distinct=True), counted.prefix_sums(6, 7, True)),
    (Addition(1), additions(1, True)),
    (Addition(2), additions(2, True)),
    (Addition(2, units_first=False), additions(2, False)),
    (Permutation(3, 2), counted.permutations(3, 2)),
    (Permutation(4, 2), counted.permutations(4, 2)),
    (Histogram(4, 3), counted.histograms(4, 3)),
    (Copy(4, 3), counted.copies(4, 3)),
    (Copy(4, 3, reverse=True), ((*each[:5], *each[:4][::-1]) for each in counted.copies(4, 3))),
    (Repeat(4, 3, 2), counted.repeats(4, 3, 2)),
    (Repeat(4, 4, 1), counted.repeats(4, 4, 1)),
]
SMALL = [(task, sorted(every)) for task, every in SMALL]
small = pytest.mark.parametrize(("task", "every"), SMALL, ids=[str(task) for task, _ in SMALL])


@small
def test_all_sequences_are_those_of_plain_enumeration(task, every):
    listed = np.asarray(every_sequence(task))
    assert listed.dtype == np.int32
    assert sorted(map(tuple, listed.tolist())) == every


@small
def test_the_losses_are_those_of_all_sequences(task, every):
    losses = task.losses
    known = losses.first is not None
    told = counted.counted_levels(every, task.outputs, losses.first if known else 0)
    levels = [losses.initial, losses.marginal, losses.plateau if known else losses.marginal, losses.floor]
    assert levels == pytest.approx(told, rel=1e-13)  # rounding
    assert math.isnan(losses.plateau) != known


@pytest.mark.parametrize(
    "task",
    [WindowSum(4, 5), PrefixSum(4, 5, distinct=True), Addition(1), Permutation(3, 2)],
    ids=str,
)  # fmt: skip
def test_every_sequence_is_drawn_equally_often(task):
    """Jointly, so that tokens of a prompt are independent; 100 of each are expected."""
    every = every_sequence(task)
    draw = jax.jit(lambda key: task.sample(key, 100 * len(every)))
    drawn, counts = np.unique(draw(jax.random.key(3)), axis=0, return_counts=True)
    assert np.array_equal(drawn, np.unique(every, axis=0))
    assert chisquare(counts).pvalue > 1e-3  # fixed key: one in a thousand keys would fail


@pytest.mark.parametrize("task", PAPER, ids=str)
def test_each_token_of_a_prompt_is_uniform_on_its_range(task):
    prompts = batch(task)[0][:, : task.prompt]
    words = {
        Addition: lambda i: range(10), Permutation: lambda i: range(17, 33) if i < 16 else range(1, 17), Histogram: lambda i: range(1, 13),
    }.get(type(task), lambda i: range(1, 17))  # fmt: skip
    separators = {Addition: {4: 10, 9: 11}, Permutation: {16: 0, 33: 0}, Histogram: {16: 0}, Copy: {16: 0}}.get(
        type(task), {16: 17}
    )
    for i, column in enumerate(prompts.T):
        if i in separators:
            assert set(column.tolist()) == {separators[i]}
        else:
            counts = [np.count_nonzero(column == word) for word in words(i)]
            assert sum(counts) == len(prompts)
            assert chisquare(counts).pvalue > 1e-5  # fixed key, 300 positions


@pytest.mark.parametrize("task", [PrefixSum(), PrefixSum(distinct=True), Permutation()], ids=str)
def test_permutations_and_only_these_have_no_token_twice(task):
    prompts = batch(task)[0][:, : task.prompt]
    x, last = np.sort(prompts[:, :16]), np.sort(prompts[:, -17:-1])
    assert (np.diff(last) > 0).all() == (task != PrefixSum())
    assert (np.diff(x) > 0).all() == (task == PrefixSum(distinct=True))


@pytest.mark.parametrize("task", [Copy(2, 2), PrefixSum(2, 3, distinct=True)], ids=str)
def test_rows_of_a_batch_are_independent(task):
    tokens = np.asarray(jax.jit(lambda key: task.sample(key, 20_000))(jax.random.key(11)))
    ways = math.prod(part.ways for part in task.parts)
    for stride in (1, 10_000):  # neighbours, and halves
        pairs = np.concatenate([tokens, np.roll(tokens, stride, axis=0)], axis=1)[:: 2 if stride == 1 else 1][:10_000]
        counts = np.unique(pairs, axis=0, return_counts=True)[1]
        assert len(counts) == ways**2
        assert chisquare(counts).pvalue > 1e-3  # fixed key


@pytest.mark.parametrize("task", [Addition(), Permutation()], ids=str)
def test_a_key_tells_the_batch_compiled_or_not_and_each_step_has_another(task):
    stream = Fresh(task, 64, jax.random.key(1))
    first, again, compiled, second = (
        np.asarray(tokens) for (tokens,) in (stream(0), stream(0), eqx.filter_jit(stream)(0), stream(1))
    )
    assert np.array_equal(first, again) and np.array_equal(first, compiled)
    assert len({tuple(each) for each in [*first.tolist(), *second.tolist()]}) == 128
    static = jax.jit(lambda key, task: task.sample(key, 64), static_argnames="task")
    key = jax.random.fold_in(jax.random.key(1), 0)
    assert np.array_equal(static(key, task), first)
    assert (
        np.array_equal(static(key, dataclasses.replace(task)), first) and static._cache_size() == 1
    )  # equal tasks compile once


# ------------------------------------------------------------------------------------------------ what each output needs


def published(task) -> list[set[int]]:
    """Columns of each output row, as published: rows from 0, the first output's."""
    match task:
        case WindowSum(n=n, k=k):
            return [{j for j in range(t - k + 1, t + 1) if j >= 0} for t in range(n)]
        case PrefixSum(n=n):
            return [{0}, *({t, n + t} for t in range(1, n))]
        case Addition(digits=n):
            return [{n - 1, 2 * n}, *({n - t - 1, n - t, 2 * n - t, 2 * n - t + 1} for t in range(1, n)), {0, n + 1}]
        case Copy(n=n, reverse=True):
            return [{n - 1 - t} for t in range(n)]
        case Copy(n=n) | Histogram(n=n):
            return [{t} for t in range(n)]


@pytest.mark.parametrize(
    "task",
    [WindowSum(), WindowSum(7, 5, 3), PrefixSum(), PrefixSum(7, 9), Addition(), Addition(7), Copy(), Copy(5, 3, reverse=True),
     Copy(reverse=True), Histogram(), Histogram(3, 2)],
    ids=str,
)  # fmt: skip
def test_the_entries_are_the_published_ones(task):
    told = needed(task)
    assert told.shape == (1, 1, task.outputs, task.length - 1)
    assert [set(np.flatnonzero(row).tolist()) for row in told[0, 0]] == published(task)


@pytest.mark.parametrize("task", [WindowSum(), WindowSum(8, 11), WindowSum(13, 4, 5), WindowSum(5, 7, 1)], ids=str)
def test_a_uniform_causal_map_has_the_progress_of_the_closed_form(task):
    causal = np.tri(task.length - 1)[task.rows]
    entries = closed_forms.window_entries(task.n, task.k)
    assert needed(task).sum() == entries
    told = (needed(task)[0, 0] * causal).sum() / causal.sum()
    assert told == pytest.approx(closed_forms.uniform_progress(entries, task.prompt, task.outputs), rel=1e-15)
    if task == WindowSum():
        assert told == pytest.approx(31 / 392, rel=1e-15)


@pytest.mark.parametrize("task", PAPER + AWKWARD, ids=str)
def test_no_row_needs_what_it_cannot_see(task):
    assert not (batch(task)[1] & (np.arange(task.length - 1) > task.rows[:, None])).any()


def determined(known: np.ndarray, output: np.ndarray) -> bool:
    """Whether no two sequences share what is known and differ in the output."""
    code = known @ 20 ** np.arange(known.shape[1])  # a number for each, tokens are below 20
    return len(np.unique(code)) == len(np.unique(20 * code + output))


ONE_LAYER = [
    WindowSum(4, 5), WindowSum(4, 4, 1), WindowSum(5, 3, 3), PrefixSum(4, 5), PrefixSum(6, 7, distinct=True), Addition(2),
    Addition(2, units_first=False), Copy(4, 3), Copy(4, 3, reverse=True), Repeat(4, 3, 2), Repeat(6, 2, 1),
    ConcatenatedSums("123_disjoint_454", p=3), ConcatenatedSums("124_stair_653", p=3),
]  # fmt: skip


@pytest.mark.parametrize("task", ONE_LAYER, ids=str)
def test_the_entries_suffice_and_without_any_of_them_the_output_is_open(task):
    """Over all sequences. Addition reads the carry off the row's own token, too, and other rows may do without what is said below."""
    every = np.asarray(every_sequence(task)).astype(int)
    for t, row in enumerate(needed(task)[0, 0]):
        columns, output, own = np.flatnonzero(row).tolist(), every[:, task.prompt + t], []
        spare = []
        match task:
            case Addition(digits=n, units_first=True):
                own = [task.prompt - 1 + t]
                spare = [n - 1, 2 * n] if t == 1 else []  # no carry into the units: y_1 and one of them tell the other
            case WindowSum(k=k):
                spare = columns[:-1] if t < k - 1 else []  # y_i = x_i
            case PrefixSum(n=n, distinct=True):
                spare = columns if t == n - 1 else []  # of all of 1..p-1 the sum is 0
        assert determined(every[:, columns + own], output)
        for dropped in columns:
            assert determined(every[:, [c for c in columns + own if c != dropped]], output) == (dropped in spare)
        if isinstance(task, Addition) and spare:
            assert not determined(every[:, [c for c in columns + own if c not in spare]], output)  # but not both


@pytest.mark.parametrize("task", [Addition(), Addition(units_first=False)], ids=str)
def test_digits_that_are_not_needed_do_not_change_a_digit_of_a_sum(task):
    shown, complete = batch(task)[0], jax.jit(task.complete)
    one = shown[:, : task.prompt]
    other = np.roll(one, 1, axis=0)
    for t, row in enumerate(needed(task)[0, 0]):
        mixed = np.asarray(complete(np.where(row[: task.prompt], one, other)))
        own = task.prompt - 1 + t
        same = mixed[:, own] == shown[:, own] if task.units_first else np.full(len(one), True)
        assert same.sum() > 100  # own tokens agree by chance, one in ten
        assert np.array_equal(mixed[same, own + 1], shown[same, own + 1])


@pytest.mark.parametrize("power", [1, 2, 4])
def test_a_permutation_is_followed_hop_by_hop_or_backwards(power):
    task = Permutation(7, 5, power)
    for tokens, (first, exchanged) in zip(batch(task)[0], batch(task)[1], strict=False):  # of the first 20 it is known
        assert np.array_equal(exchanged, first[::-1])
        assert first.shape == (power + 1, 7, task.length - 1) and (first.sum(axis=-1) == 1).all()
        hops = first.argmax(axis=-1)
        assert hops[0].tolist() == [8 + t for t in range(7)]  # column n+1+t
        for here, there in itertools.pairwise(hops):
            assert ((there - 8 if there.min() > 7 else there) == tokens[here] - 1).all()
        assert np.array_equal(tokens[hops[-1]], tokens[task.prompt :])
    assert task.strategies == ("permutation first", "input first")
    if power == 1:  # as published: column pi_{t+1} - 1
        assert np.array_equal(hops[1], tokens[8:15] - 1)


# ----------------------------------------------------------------------------------------------- segments and pairs


def test_as_many_pairs_of_rows_are_compared_as_the_paper_does():
    of_sums = [task.pairs.sum() for task in (WindowSum(), PrefixSum(), PrefixSum(distinct=True))]
    assert of_sums == [105] * 3
    assert [task.pairs.sum() for task in (Copy(), Copy(reverse=True), Permutation(), Histogram())] == [120] * 4
    assert [Addition(units_first=first).pairs.sum() for first in (True, False)] == [6, 6]
    assert [Repeat(blocks=k).pairs.sum() for k in (1, 2, 4)] == [105, 42, 12]
    assert [ConcatenatedSums(mix).pairs.sum() for mix in MIXES] == [
        sum(g * (g - 1) // 2 for g in map(int, mix[-3:])) for mix in MIXES
    ]


@pytest.mark.parametrize("task", PAPER + AWKWARD, ids=str)
def test_pairs_are_within_a_segment_once_each_and_leave_out_what_is_easy(task):
    segments = task.segments.tolist()
    assert len(segments) == task.outputs
    easy = {
        WindowSum: {0}, PrefixSum: {0}, Addition: {task.outputs - 1 if getattr(task, "units_first", None) else 0},
        Repeat: {segments.index(each) for each in segments},
    }.get(type(task), set())  # fmt: skip
    for i, j in itertools.product(range(task.outputs), repeat=2):
        assert task.pairs[i, j] == (i > j and segments[i] == segments[j] and not {i, j} & easy)


def test_segments_are_blocks_of_equal_tokens_and_windows_of_equal_size():
    assert Repeat(6, 5, 3).segments.tolist() == [0, 0, 1, 1, 2, 2]
    assert ConcatenatedSums("124_stair_653").segments.tolist() == [0] * 6 + [1] * 5 + [2] * 3
    assert WindowSum(4, 5).segments.tolist() == [0] * 4
    for mix in MIXES:
        task = ConcatenatedSums(mix)
        windows = [int(mix[each]) for each in task.segments]
        assert needed(task)[0, 0].sum(axis=1).tolist() == windows


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: WindowSum(4, 5, 5), "A window takes between 1 and n = 4 numbers, got k = 5"),
        (lambda: PrefixSum(1, 5), "n and p must be at least 2, got n = 1"),
        (lambda: PrefixSum(5, 17, distinct=True), "n = p - 1 numbers, got n = 5 and p = 17"),
        (lambda: PrefixSum(8, 9, distinct=True), "p must be an odd prime, got 9"),
        (lambda: Addition(0), "digits must be at least 1, got 0"),
        (lambda: Permutation(power=0), "power of a permutation must be at least 1, got 0"),
        (lambda: Permutation(1, 4), "n and words must be at least 2, got n = 1 and words = 4"),
        (lambda: Histogram(4, 1), "n and words must be at least 2, got n = 4 and words = 1"),
        (lambda: Copy(0), "n and words must be at least 2, got n = 0"),
        (lambda: Repeat(words=0), "n and words must be at least 2, got n = 16 and words = 0"),
        (lambda: Repeat(blocks=3), "blocks must divide n and be at most words, got 3"),
        (lambda: ConcatenatedSums("12"), "mix must be one of 123_disjoint_454, 124_stair_653, .* got '12'"),
        (lambda: ConcatenatedSums(p=1), "n and p must be at least 2, got n = 16 and p = 1"),
        (lambda: every_sequence(WindowSum()), f"has {16**16} sequences, and at most limit = 100000 are listed"),
        (lambda: every_sequence(Permutation()), f"has {16**16 * math.factorial(16)} sequences"),
        (lambda: every_sequence(Copy(3, 5), limit=124), "has 125 sequences, and at most limit = 124"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_a_list_may_be_as_long_as_its_limit():
    assert len(every_sequence(Copy(3, 5), limit=125)) == 125
