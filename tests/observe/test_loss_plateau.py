"""The numbers and claims of a loss plateau, on trainings that are made up so that every number is known."""

import math

import numpy as np
import pytest
import xarray as xr

from gradflow.observe import loss_plateau
from gradflow.tasks.sequences import Addition, WindowSum
from gradflow.theory.loss_plateau import claims, intervention_claims

TASK = WindowSum(n=8, p=11)
STEP = np.arange(0, 401, 2)
MARGINAL, PLATEAU, FLOOR = TASK.losses.marginal, TASK.losses.plateau, TASK.losses.floor


def logistic(centre, width):
    return 1 / (1 + np.exp(-(STEP - centre) / width))


@pytest.fixture(scope="module")
def made_up():
    """y_1 is learned at step 50 and the others at 300; attention is half way at 250; collapse and repetition until 280."""
    loss = TASK.losses.initial - (TASK.losses.initial - MARGINAL) * (1 - np.exp(-STEP / 5.0))
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
    return xr.Dataset(columns, {"step": STEP, "place": ["embedding", "final"]})


@pytest.fixture(scope="module")
def numbers(made_up):
    return loss_plateau.summary(made_up, TASK)


def test_every_number_is_the_one_that_was_put_in(numbers):
    told = {
        "loss_initial": TASK.losses.initial, "loss_marginal": MARGINAL, "loss_plateau": PLATEAU, "loss_floor": FLOOR,
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
    assert math.isnan(float(loss_plateau.summary(made_up, Addition(2))["told_plateau"]))  # no closed form


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
    assert all(name in loss_plateau.table(over_seeds(numbers)) for name in ("over 5 seeds", "loss at the start"))


@pytest.mark.parametrize(
    ("name", "values", "claim"),
    [
        ("loss_initial", [2.52] * 5, "loss: all tokens equally likely"),
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


def interventions(**steps):
    """Results in which half of the outputs are right at these steps."""
    names = list(steps)
    five = np.array(list(steps.values()), float)[:, None] + np.arange(-2, 3)
    falling = np.linspace(0.9, 0.5, len(names))[:, None] + np.zeros(5)
    over = ("intervention", "seed")
    columns = {"accuracy_50": (over, five), "cosine_plateau": (over, falling), "repetition_plateau": (over, falling)}
    return xr.Dataset(columns, {"intervention": names, "seed": np.arange(5), "step": np.arange(0, 501, 5)})


AS_TOLD = {
    "c = 0.2": math.nan, "c = 0.5": 200, "none": 120, "c = 2.5": 80, "c = 10": 60, "c = 10 from 25": 80, "c = 10 from 50": 95,
    "KQ copied": 40, "KQOV copied": 30, "MLP copied": math.nan, "MLP random": math.nan, "embeddings copied": 110, "embeddings random": 105,
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
