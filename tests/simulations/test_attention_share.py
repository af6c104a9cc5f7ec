"""Where attention matters: a small run of the simulation, held to independent numbers; its claims can fail."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import simulations
from gradflow import InputError, Trajectory, log_times, store
from gradflow.dynamics import gradient_flow
from gradflow.models import cooccurrence, coupled
from gradflow.models.coupled import Width
from gradflow.models.groups import Groups, groups, readout_rate, scales
from gradflow.observe import attention as observed
from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary
from gradflow.theory import attention as theory
from simulations.attention_share import Config, measure, run, solve

pytestmark = pytest.mark.slow  # a small run of the whole simulation

ROOT = Path(simulations.__file__).parents[1]
END = 300.0
TINY = Config(end=END, save_points=13, points=3, samples=(6, 600), n=6, seeds=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("attention") / "run"
    run(dataclasses.replace(TINY, out=out))
    return out


@pytest.fixture(scope="module")
def runs(folder):
    return store.load_all(folder)


def test_the_run_leaves_its_configuration_diagrams_claims_and_pictures(folder, runs):
    assert set(runs) == {"population", "samples", "random"}
    assert all(each.attrs["long_name"] and each.attrs["units"] == "1" for run in runs.values() for each in run.values())
    assert runs["population"].sizes["member"] == 2 * 9 + 5 and runs["samples"].sizes["member"] == 6 + 3
    assert json.loads((folder / "config.json").read_text())["points"] == 3
    claims = json.loads((folder / "claims.json").read_text())
    assert len(claims) == 12 and all(set(each) >= {"name", "predicted", "measured", "holds"} for each in claims)
    assert {path.name for path in folder.glob("*.png")} == {"diagrams.png", "regimes.png", "prediction.png"}


def test_what_is_measured_are_the_claims_of_the_run_and_its_regimes(folder, runs, check_kept, check_claims):
    measured = measure(TINY)
    check_kept(measured)
    check_claims(measured, folder)
    theorems, rich = (measured.sel(regime=name) for name in ("theorems", "rich"))
    # m = 1024, m1 = 32, L = 5, with sigma0^2 = 1 / (4 L m) and sigma1^2 = 1 / m1
    values = (1 / (4 * 5 * 1024), 1 / 32)
    assert float(theorems["values"]) == pytest.approx(values[0] / sum(values))
    assert float(theorems["richness"]) == pytest.approx(4 / (1024**2 * 32 * sum(values) ** 2))
    assert [float(each["size"]) for each in (theorems, rich)] == [1024 * 32, 16]
    end = runs["population"].isel(time=-1, member=runs["population"]["part"].values == "rich").isel(member=0)
    assert float(rich["largest_score"]) == float(abs(end["score"]).max())
    assert float(rich["advantage"]) == pytest.approx(float(end["loss_frozen"] / end["loss"]))
    assert float(rich["attention_share"]) == pytest.approx(float(end["work"][2:].sum() / end["work"].sum()))


def test_seeds_share_no_network_and_the_first_takes_the_first_keys(runs):
    task, times = CoOccurrence(6, 5, least_vocabulary(6, 5)), log_times(1e-2, END, 13)
    more = observed.random_networks(task, times=times, seeds=range(4))
    for name in ("advantage", "score"):
        np.testing.assert_array_equal(more[name][:, :2], runs["random"][name])
        assert np.unique(more[name]).size == more[name].size
    (second,) = (each for name, each in solve(dataclasses.replace(TINY, seed=1), task, times) if name == "random")
    np.testing.assert_array_equal(second["score"], more["score"][:, 2:])


def test_a_member_is_the_flow_of_full_weights_and_its_work_what_their_matrices_do(runs):
    """n = 6, L = 5: weights with orthogonal columns, by the integral of each matrix's squared gradient."""
    member = runs["samples"].isel(member=int(np.argmax(runs["samples"]["n"].values == 6)))
    d = least_vocabulary(6, 5)
    m = 64  # the same numbers at another width: m1 = size / m
    shape = scales(Groups(*(float(member[name]) for name in Groups._fields)), float(member["size"]) / m)  # fmt: skip
    assert shape["m"] == pytest.approx(m)
    start = coupled.infinite_width_start(d=d, L=5, **shape)
    batch, width = CoOccurrence(6, 5, d).sample(jax.random.key(0)), Width(m, shape["m1"])

    def powers(state, batch, width):
        r, D = (-each for each in jax.grad(coupled.word_loss, argnums=(0, 1))(state.G, state.A, batch, width))
        return jnp.stack([width.m1 * r @ state.Gamma_V @ r, state.S * r @ r, jnp.sum((D @ state.Gamma_Q) * D), jnp.sum((state.Gamma_K @ D) * D)])  # fmt: skip

    def field(pair, batch, width):
        velocity, fall = coupled.field(pair[0], batch, width)
        return (velocity, powers(pair[0], batch, width)), fall

    def loss(pair, batch, width):
        return coupled.loss(pair[0], batch, width)

    ends = np.array([0.0, END]) / readout_rate(**shape)
    flow = gradient_flow(loss, (start, jnp.zeros(4)), batch, width, field=field, times=ends, rtol=1e-8, show_progress=False)  # fmt: skip
    end = member.isel(time=-1)
    assert float(end["loss"]) == pytest.approx(flow.loss[-1], rel=1e-4)
    np.testing.assert_allclose(end["work"], flow.final[1], rtol=1e-3, atol=1e-9)
    assert float(observed.attention_share(end)) == pytest.approx(float(flow.final[1][2:].sum() / flow.final[1].sum()), rel=1e-3)  # fmt: skip


def test_powers_are_the_squared_gradients_of_the_matrices(batch, weights):
    gradient = jax.grad(cooccurrence.loss)(weights, batch)
    state, width = coupled.reduce(weights), coupled.width_of(weights)
    r, D = (-each for each in jax.grad(coupled.word_loss, argnums=(0, 1))(state.G, state.A, batch, width))
    by_matrix = [float((getattr(gradient, name) ** 2).sum()) for name in observed.MATRICES]
    np.testing.assert_allclose(coupled.powers(state, r, D, D, width), by_matrix, rtol=1e-12)


def test_the_work_adds_up_and_freezing_never_helps(runs):
    for members in (runs["population"], runs["samples"]):
        fall = float(members["loss"][0, 0]) - members["loss"].values
        np.testing.assert_allclose(members["work"].sum("matrix"), fall, atol=1e-6)
        assert (observed.advantage(members).values > 1 - 1e-6).all()


def test_scales_and_groups_undo_each_other():
    given = Groups(np.array([0.3, 0.9]), np.array([1e-3, 10.0]), np.array([64.0, 7.0]))
    for m1 in (1.0, 2.5):
        for one, other in zip(groups(**scales(given, m1)), given, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-14)


def test_small_scores_are_as_predicted_whatever_the_richness(runs):
    end = runs["population"].isel(time=-1)
    told = theory.predicted_score(runs["population"])
    small = told < 1e-3
    assert small.sum() > 5 and np.ptp(np.log10(end["richness"].values[small])) > 9
    np.testing.assert_allclose(observed.largest_score(end).values[small], told[small], rtol=0.05)


def test_the_border_is_where_the_predicted_score_is_one_half():
    size = theory.border(0.5, 2.0, 5.0, 1e4)
    told = theory.scores(Groups(*(np.array([each]) for each in (0.5, 2.0, size))), 5.0, 1e4)
    assert np.abs(told).max() == pytest.approx(theory.BORDER, rel=1e-3)
    assert theory.border(0.5, 2.0, 5.0, 1e6) > size
    assert np.isnan(theory.border(1e-12, 1e-6, 5.0, 1e4))  # below all sizes


def test_without_richness_scores_are_their_limit():
    none, little = (theory.scores(Groups(np.array([0.5]), np.array([each]), np.array([64.0])), 5.0, 1e4) for each in (0.0, 1e-12))  # fmt: skip
    np.testing.assert_allclose(none, little, rtol=1e-6)
    np.testing.assert_allclose(none[0], 2 * 0.5 / 64 * theory.pushed(1e4, 5.0, 0.0), rtol=1e-12)


def test_late_scores_grow_like_the_squared_logarithm():
    """The largest score and that against mu3, per phi / (m m1): C ln^2 tau with C = (7/L)(2 - 1/L) and (6/L)(1 + 2/L)."""
    logarithms = np.log([1e30, 1e60])
    J = np.stack([theory.pushed(tau, 5.0, 1e-200) for tau in (1e30, 1e60)])
    for (key, query), C in {(1, 0): 7 / 5 * (2 - 1 / 5), (2, 0): -6 / 5 * (1 + 2 / 5)}.items():
        slope = np.diff(np.sqrt(np.abs(2 * J[:, key, query]))) / np.diff(logarithms)  # 2 J = C ln^2 tau + O(ln tau)
        assert slope[0] ** 2 == pytest.approx(abs(C), rel=0.02) and np.sign(J[0, key, query]) == np.sign(C)


def test_claims_fail_where_scores_are_not_as_predicted(runs):
    population = runs["population"].assign(score=1.2 * runs["population"]["score"])
    before, after = (theory.claims(each, runs["samples"], runs["random"]) for each in (runs["population"], population))
    assert before[0].holds and not after[0].holds
    worked = runs["population"].assign(work=1.001 * runs["population"]["work"])
    name = "the work of the four matrices is the fall of the loss"
    assert [[claim.holds for claim in theory.claims(each, runs["samples"], runs["random"]) if claim.name == name] for each in (runs["population"], worked)] == [[True], [False]]  # fmt: skip


def test_other_widths_with_the_same_numbers_are_the_same(runs):
    part = runs["population"]["part"].values
    one, other = (runs["population"].isel(member=int(np.argmax(part == name))) for name in ("rich", "rich, m1 = 3"))
    np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-6)


def test_ctrl_c_in_the_ensemble_is_no_bad_input_and_scalars_are_one_member(monkeypatch):
    members = []

    def stopped(*args, units, **options):
        members.append(units.size)
        return Trajectory(*[None] * 8, status="interrupted")

    monkeypatch.setattr(observed, "ensemble_flow", stopped)
    with pytest.raises(KeyboardInterrupt):
        observed.with_and_without(Groups(0.5, 1e2, 16.0), 5, times=np.array([0.0, 1.0]))
    assert members == [2]  # with attention and without


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"L": 2}, "L must be at least 3"),
        ({"points": 1}, "at least 2 points"),
        ({"n": 7}, "multiple of 6"),
        ({"samples": (600, 24)}, "ascending order, got 600 24"),
        ({"samples": (24, 24)}, "ascending order"),
        ({"samples": (24,)}, "at least two finite numbers"),
        ({"samples": (24, 25)}, "multiple of 6"),
        ({"samples": (24, np.inf)}, "at least two finite numbers"),
    ],
)
@pytest.mark.parametrize("script", [run, measure])
def test_bad_input_is_refused_before_any_work(script, changes, message, tmp_path):
    with pytest.raises(InputError, match=message) as refused:
        script(Config(out=tmp_path / "x", **changes))
    assert "\n" not in str(refused.value) and not (tmp_path / "x").exists()


def test_bad_input_is_one_line(tmp_path):
    done = subprocess.run([sys.executable, "-m", "simulations.attention_share", "--end", "5", "--out", str(tmp_path / "x")], cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "later than 100" in done.stderr
