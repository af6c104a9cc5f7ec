"""The numbers and claims of a loss plateau, on trainings that are made up so that every number is known."""

import math

import jax
import numpy as np
import pytest
import xarray as xr

from gradflow.models import transformer
from gradflow.observe import loss_plateau
from gradflow.tasks.sequences import Addition, Copy, Histogram, Permutation, PrefixSum, Repeat, WindowSum
from gradflow.theory.loss_plateau import claims, intervention_claims

TASK = WindowSum(n=8, p=11)
STEP = np.arange(0, 401, 2)
START = math.log(12) + 64 * 0.02**2 / 2 * 11 / 12  # a random head of 64 channels for 12 tokens
MARGINAL, PLATEAU, FLOOR = TASK.losses.marginal, TASK.losses.plateau, TASK.losses.floor


def logistic(centre, width):
    return 1 / (1 + np.exp(-(STEP - centre) / width))


@pytest.fixture(scope="module")
def made_up():
    """y_1 is learned at step 50 and the others at 300; attention is half way at 250; collapse and repetition until 280."""
    loss = START - (START - MARGINAL) * (1 - np.exp(-STEP / 5.0))
    loss += (PLATEAU - MARGINAL) * logistic(50, 3) + (FLOOR - PLATEAU) * logistic(300, 5)
    accuracy = np.stack([logistic(50, 3), *[0.1 + 0.9 * logistic(300, 5)] * 7], axis=1)
    early = 1 - logistic(280, 2)
    columns = {
        "loss": loss,
        "repetition": 0.08 + 0.6 * early,
        "agreement": 0.2 + 0 * STEP,
        "entropy": 1.0 + 0 * STEP,
        "cosine": (("step", "place"), np.stack([0 * STEP, 0.1 + 0.87 * early], axis=1)),
        "accuracy": (("step", "output"), accuracy),
        "progress": (("step", "strategy", "layer"), (0.2 + 0.6 * logistic(250, 10))[:, None, None]),
    }
    columns = {name: each if isinstance(each, tuple) else ("step", each) for name, each in columns.items()}
    return xr.Dataset(columns, {"step": STEP, "place": ["embedding", "final"]}, {"width": 64})


@pytest.fixture(scope="module")
def numbers(made_up):
    return loss_plateau.summary(made_up, TASK)


def test_every_number_is_the_one_that_was_put_in(numbers):
    told = {
        "loss_initial": START, "told_start": START, "told_initial": math.log(12), "loss_marginal": MARGINAL, "loss_plateau": PLATEAU, "loss_floor": FLOOR,
        "told_plateau": PLATEAU, "repetition_plateau": 0.68, "repetition_end": 0.08, "cosine_plateau": 0.97, "cosine_end": 0.1, "accuracy_end": 1.0,
    }  # fmt: skip
    for name, value in told.items():
        assert float(numbers[name]) == pytest.approx(value, abs=2e-3), name
    steps = {"first_known": 50, "progress_half": 250}
    for name, level in {"accuracy_half": (0.0875 + 1) / 2, "accuracy_50": 0.5, "accuracy_99": 0.99}.items():
        share = (
            level - 0.2125
        ) / 0.7875  # y_1 and guesses make 1/8 + 7/8 0.1 of the accuracy; the others rise from there
        steps[name] = 300 + 5 * math.log(share / (1 - share))
    for name, step in steps.items():
        assert float(numbers[name]) == pytest.approx(step, abs=0.2), name  # a tenth of the distance of save points
    assert float(numbers["lead"]) == float(numbers["accuracy_half"]) - float(numbers["progress_half"])
    assert 250 < float(numbers["plateau_end"]) < 300 and float(numbers["drop"]) == pytest.approx(300, abs=5)


def test_what_did_not_happen_is_nan(made_up):
    early = loss_plateau.summary(made_up.sel(step=slice(0, 30)), TASK)
    for name in ("first_known", "accuracy_half", "accuracy_50", "accuracy_99", "lead", "loss_plateau"):
        assert math.isnan(float(early[name])), name
    no_width = loss_plateau.summary(made_up.drop_attrs(), TASK)
    assert math.isnan(float(no_width["told_start"])) and float(no_width["told_initial"]) == math.log(12)
    assert math.isnan(float(loss_plateau.summary(made_up, Addition(2))["told_plateau"]))  # no closed form


@pytest.mark.parametrize("height", [0.0, 0.6])
def test_a_training_stopped_on_its_plateau_has_this_one_so_far(made_up, numbers, height):
    """Also where a stage before it has ended, in a drop that is told apart."""
    cut = made_up.sel(step=slice(0, 280))
    cut["loss"] = cut["loss"] + height * (1 - logistic(50, 3))[: cut.sizes["step"]]
    censored = loss_plateau.summary(cut, TASK)
    assert float(censored["plateau_censored"]) == 1 and float(numbers["plateau_censored"]) == 0
    assert float(censored["plateau_end"]) == 280 and math.isnan(float(censored["drop"]))
    assert float(censored["plateau_length"]) == 280 - float(censored["plateau_start"]) > 220
    assert float(censored["loss_plateau"]) == pytest.approx(PLATEAU, abs=2e-3)
    assert float(censored["cosine_plateau"]) == pytest.approx(0.97, abs=2e-3)


def test_a_shallow_stay_at_the_end_does_not_hide_the_plateau_before_the_largest_drop(made_up):
    stuck = made_up.copy()
    stuck["loss"] = stuck["loss"] + 0.25 * (MARGINAL - FLOOR) * logistic(300, 5)  # never gets to the floor
    stuck = loss_plateau.summary(stuck, TASK)
    assert float(stuck["plateau_censored"]) == 0 and 250 < float(stuck["plateau_end"]) < 310


def test_where_there_is_no_plateau_none_is_censored(made_up):
    smooth = made_up.assign(loss=("step", FLOOR + 1.4 * np.exp(-STEP / 80.0)))
    for name in ("plateau_censored", "plateau_end", "plateau_length", "cosine_plateau"):
        assert math.isnan(float(loss_plateau.summary(smooth, TASK)[name])), name


@pytest.mark.parametrize("width", [64, 256, 1024])
def test_the_loss_of_a_random_head_is_told_at_every_width(width):
    random, deviation = np.random.default_rng(0), 0.02 * math.sqrt(width)
    logits = deviation * random.normal(size=(100_000, 12))
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[:, 0]
    # three standard errors, and what is left out: fourth order in the deviation
    assert loss_plateau.random_head(TASK, width) == pytest.approx(losses.mean(), abs=0.01 * deviation + deviation**4 / 12)  # fmt: skip


def test_the_random_head_is_that_of_an_untrained_transformer():
    head = np.asarray(transformer.init(jax.random.key(0), vocabulary=12, context=2, width=256).head, float)
    hidden = np.random.default_rng(1).normal(size=(20_000, 256))
    hidden = (hidden - hidden.mean(axis=1, keepdims=True)) / hidden.std(axis=1, keepdims=True)  # as the final norm does
    logits = hidden @ head
    losses = np.log(np.exp(logits).sum(axis=1)) - logits.mean(axis=1)
    # the variance of 256 x 11 numbers is known to sqrt(2 / 2816) = 3 % of 0.047, three deviations are 0.004
    assert losses.mean() == pytest.approx(loss_plateau.random_head(TASK, 256), abs=0.005)


def with_accuracy(made_up, centres):
    """Output i is learned at step centres[i]."""
    accuracy = np.stack([logistic(centre, 3) for centre in centres], axis=1)
    return made_up.assign(accuracy=(("step", "output"), accuracy))


def test_the_first_outputs_are_as_many_as_the_closed_form_says(made_up):
    """All of them count, and the loss level on the plateau is read off after the last; with none, on the whole plateau."""
    uneven = with_accuracy(made_up, [50, 120, *[300] * 6])
    uneven["loss"] = uneven["loss"] - 0.05 * logistic(120, 3) - 1e-4 * np.maximum(STEP - 130, 0)
    two, one, none = (loss_plateau.summary(uneven, WindowSum(8, 11, k)) for k in (3, 2, 1))
    assert float(two["first_known"]) == pytest.approx(120, abs=0.2)
    assert float(one["first_known"]) == pytest.approx(50, abs=0.2)
    assert math.isnan(float(none["first_known"])) and math.isfinite(float(none["loss_plateau"]))
    assert float(one["loss_plateau"]) == pytest.approx(PLATEAU, abs=2e-3) == float(none["loss_plateau"])
    assert PLATEAU - 0.065 < float(two["loss_plateau"]) < PLATEAU - 0.045  # it falls by 0.013 until 260
    unknown = loss_plateau.summary(with_accuracy(made_up, [50] * 8), Addition(2))
    assert math.isnan(float(unknown["first_known"])) and math.isnan(float(unknown["loss_plateau"]))
    assert math.isfinite(float(unknown["loss_marginal"]))


def test_progress_is_that_of_the_strategy_that_rises_most_over_its_layers(made_up):
    """The second of two strategies, in layers that rise at 240 and 260, half way between them; of a third layer nothing is asked."""
    idle, high = 0.1 + 0 * STEP, 0.9 + 0 * STEP
    first = [high, high - 0.3 * logistic(100, 10), idle * np.nan]
    second = [0.1 + 0.6 * logistic(240, 10), 0.1 + 0.8 * logistic(260, 10), idle * np.nan]
    several = made_up.assign(progress=(("step", "strategy", "layer"), np.stack([np.stack(each, axis=1) for each in (first, second)], axis=1)))  # fmt: skip
    expected = (second[0] + second[1]) / 2
    np.testing.assert_allclose(loss_plateau.curves(several)["progress"], expected, rtol=1e-14)  # rounding
    half = np.interp((expected[0] + expected[-1]) / 2, expected, STEP)
    assert float(loss_plateau.summary(several, TASK)["progress_half"]) == pytest.approx(half, abs=0.2)
    assert loss_plateau.strategy(several) == 1


def test_curves_are_one_number_a_save_point(made_up):
    curves = loss_plateau.curves(made_up)
    assert all(each.dims == ("step",) and each.dtype == float for each in curves.data_vars.values())
    np.testing.assert_array_equal(curves["cosine"], made_up["cosine"].sel(place="final"))
    np.testing.assert_allclose(curves["accuracy"], made_up["accuracy"].values.mean(axis=1), rtol=1e-15)  # rounding


def over_seeds(numbers, **changed):
    """Five seeds with the same numbers, but for those that are given seed by seed."""
    several = numbers.expand_dims(seed=5).copy(deep=True)
    for name, values in changed.items():
        several[name].values[:] = values
    return several


def verdicts(summary):
    return {claim.name: claim.holds for claim in claims(summary)}


def test_all_claims_hold_of_the_training_that_is_as_the_paper_says(numbers):
    assert set(verdicts(over_seeds(numbers)).values()) == {True}
    table = loss_plateau.table(over_seeds(numbers))
    assert "over 5 seeds" in table and all(each.attrs["long_name"] in table for each in numbers.data_vars.values())
    assert max(map(len, table.splitlines())) <= 100


@pytest.mark.parametrize(
    ("name", "values", "claim"),
    [
        ("loss_initial", [START + 0.031] * 5, "loss: all tokens equally likely"),
        ("loss_marginal", [2.16] * 5, "loss: all outputs at their marginals"),
        ("loss_plateau", [2.09] * 5, "loss: the first outputs right"),
        ("loss_floor", [1.04] * 5, "loss: all outputs right"),
        ("accuracy_end", [0.98] * 5, "all outputs become right"),
        ("cosine_plateau", [0.89] * 5, "hidden states collapse on the plateau"),
        ("cosine_end", [0.31] * 5, "... and are apart at the end"),
        ("repetition_plateau", [0.42] * 5, "outputs repeat on the plateau"),
        ("lead", [-1.0] * 5, "attention is ahead of the accuracy"),
    ],
)
def test_a_claim_fails_where_its_number_is_off_and_no_other_does(numbers, name, values, claim):
    held = verdicts(over_seeds(numbers, **{name: values}))
    assert [each for each, holds in held.items() if holds is not True] == [claim]


@pytest.mark.parametrize("name", ["lead", "cosine_plateau", "cosine_end", "repetition_plateau"])
def test_seeds_in_which_it_never_came_count_as_the_worst(numbers, name):
    for never, held in ((2, True), (3, None)):  # a majority decides; the median is then infinite
        values = np.where(np.arange(5) < never, np.nan, float(numbers[name]))
        assert (set(verdicts(over_seeds(numbers, **{name: values})).values()) == {True}) is (held is True)


def test_what_never_came_has_no_number_and_no_verdict(numbers):
    never = over_seeds(numbers, lead=np.nan, cosine_end=np.nan, cosine_plateau=np.nan, repetition_plateau=np.nan, loss_plateau=np.nan)  # fmt: skip
    held = [claim for claim in claims(never) if claim.holds is None]
    assert len(held) == 5 and all(math.isnan(claim.measured) for claim in held)


def test_the_start_is_judged_at_the_width_of_the_run(made_up):
    """At width 256, where ln V is off by more than what is allowed; without a width nothing is said."""
    excess = 256 * 0.02**2 / 2 * 11 / 12
    for loss, width, holds in ((excess, 256, True), (0.0, 256, False), (excess, 64, False), (excess, None, None)):
        run = made_up.assign_attrs(width=width) if width else made_up.drop_attrs()
        run["loss"] = run["loss"] + xr.where(run["step"] == 0, math.log(12) + loss - run["loss"], 0)
        assert verdicts(over_seeds(loss_plateau.summary(run, TASK)))["loss: all tokens equally likely"] is holds


@pytest.mark.parametrize(
    ("task", "tells"),
    [(TASK, True), (Copy(8, 10), True), (Repeat(8, 10, 2), True), (Repeat(8, 10, 1), False), (WindowSum(8, 11, 1), False), (Histogram(8, 6), False), (Permutation(8, 8), False), (Addition(2), False)],
)  # fmt: skip
def test_a_plateau_at_the_level_of_another_tells_nothing(numbers, task, tells):
    told = {f"told_{name}": getattr(task.losses, name) for name in loss_plateau.LEVELS}
    held = verdicts(over_seeds(numbers, **told, loss_plateau=task.losses.plateau))
    assert held["loss: the first outputs right"] is (True if tells else None)


@pytest.mark.parametrize(
    ("data", "holds"), [(0.0, None), (0.05, True), (0.13, True), (0.15, False), (0.19, False), (0.2, None), (0.9, None)]
)
def test_five_times_as_many_repetitions_are_asked_for_where_they_can_be(numbers, data, holds):
    held = verdicts(over_seeds(numbers, repetition_data=data, repetition_plateau=0.68))
    assert held["outputs repeat on the plateau"] is holds


def test_prefix_sums_have_no_repetitions_to_compare_with(made_up):
    assert float(loss_plateau.summary(made_up, PrefixSum(8, 11))["repetition_data"]) == 0


def interventions(**steps):
    """Results in which half of the outputs are right at these steps."""
    names = list(steps)
    five = np.array(list(steps.values()), float)[:, None] + np.arange(-2, 3)
    falling = np.linspace(0.9, 0.5, len(names))[:, None] + np.zeros(5)
    over = ("intervention", "seed")
    columns = {
        "accuracy_50": (over, five),
        "cosine_plateau": (over, falling),
        "repetition_plateau": (over, falling.copy()),
    }
    return xr.Dataset(columns, {"intervention": names, "seed": np.arange(5), "step": np.arange(0, 501, 5)})


AS_TOLD = {
    "c = 0.2": math.nan, "c = 0.5": 200, "none": 120, "c = 2.5": 80, "c = 10": 60, "c = 10 from 25": 80, "c = 10 from 50": 95,
    "KQ copied": 40, "KQOV copied": 30, "MLP copied": math.nan, "MLP random": 480, "embeddings copied": 110, "embeddings random": 105,
}  # fmt: skip


def test_interventions_hold_as_the_paper_tells_them():
    held = intervention_claims(interventions(**AS_TOLD))
    assert len(held) == 10 and all(claim.holds for claim in held)


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({"c = 2.5": 125}, "the stronger the bias c"),
        ({"c = 10 from 50": 70}, "the earlier the bias begins"),
        ({"KQ copied": math.nan}, "KQ of"),
        ({"KQOV copied": 70}, "KQOV of"),
        ({"MLP copied": 50, "MLP random": 50}, "MLP of"),
        ({"embeddings copied": 50, "embeddings random": 50}, "embeddings of"),
        ({"embeddings random": 150}, "... against"),
    ],
)
def test_an_intervention_that_does_otherwise_fails_its_claim_alone(changed, failing):
    held = intervention_claims(interventions(**AS_TOLD | changed))
    assert [claim.name.startswith(failing) for claim in held if claim.holds is not True] == [True]


@pytest.mark.parametrize(
    ("changed", "untold"),
    [
        ({"c = 0.2": math.nan, "c = 0.5": math.nan}, {"the stronger"}),
        ({"c = 10 from 25": math.nan, "c = 10 from 50": math.nan}, {"the earlier"}),
        ({"MLP random": math.nan}, {"... against"}),
        ({"none": math.nan, "c = 0.5": math.nan, "KQ copied": 260}, {"the stronger", "KQ of", "MLP of"}),
    ],
)
def test_of_two_that_never_came_neither_is_earlier(changed, untold):
    """With `none` never, a step of 260 out of 500 is not told to be more than half of it; one of 110 is less."""
    held = intervention_claims(interventions(**AS_TOLD | changed))
    assert {claim.name for claim in held if claim.holds is None} == {
        claim.name for claim in held if claim.name.startswith(tuple(untold)) and (not claim.name.startswith("... against") or claim.measured == 1)
    }  # fmt: skip
    fails = {"embeddings of"} if "none" in changed else set()
    assert {claim.name[:13] for claim in held if claim.holds is False} == fails


def test_neighbours_that_are_told_fail_whatever_others_do():
    changed = {"c = 0.2": math.nan, "c = 0.5": math.nan, "c = 2.5": 125}
    (failed,) = (claim for claim in intervention_claims(interventions(**AS_TOLD | changed)) if claim.holds is False)
    assert failed.name.startswith("the stronger") and failed.measured == 125 / 120


@pytest.mark.parametrize("name", ["cosine_plateau", "repetition_plateau"])
@pytest.mark.parametrize("intervention", ["c = 0.2", "c = 10"])
@pytest.mark.parametrize(("never", "holds"), [(2, True), (3, None)])
def test_seeds_without_a_plateau_count_in_what_is_said_of_it(name, intervention, never, holds):
    results = interventions(**AS_TOLD)
    results[name].loc[{"intervention": intervention, "seed": slice(0, never - 1)}] = np.nan
    of = {"cosine_plateau": "hidden states collapse", "repetition_plateau": "outputs repeat"}[name]
    held = {claim.name: claim.holds for claim in intervention_claims(results)}
    assert held.pop(f"... and the less {of}, least to largest c") is holds and set(held.values()) == {True}
