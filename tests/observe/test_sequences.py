"""What is seen of a sequence task is what plain Python counts, row by row, pair by pair; `Observer` looks at the right rows."""

import dataclasses
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from gradflow.dynamics.trajectory import Cost, Trajectory
from gradflow.models import transformer
from gradflow.observe import sequences
from gradflow.observe.sequences import Observer
from gradflow.tasks.sequences import WindowSum

# ------------------------------------------------------------------------------------------------------------- measures


TOLERANCE = 1e-7  # shares of equal tokens are counted in single precision


@pytest.mark.parametrize("tokens", [1, 2, 4])
def test_repetition_agreement_and_entropy_are_counted(tokens):
    for seed in range(10):
        outputs = np.random.default_rng(seed).integers(0, tokens, (3, 6))
        neighbours = [row[i] == row[i + 1] for row in outputs for i in range(5)]
        assert sequences.repetition(jnp.asarray(outputs)) == pytest.approx(sum(neighbours) / 15, abs=TOLERANCE)
        like_first = [token == row[0] for row in outputs for token in row]
        assert sequences.agreement(jnp.asarray(outputs)) == pytest.approx(sum(like_first) / 18, abs=TOLERANCE)
        entropy = 0
        for row in outputs.tolist():
            entropy -= sum(row.count(token) / 6 * math.log(row.count(token) / 6) for token in set(row)) / 3
        assert sequences.sequence_entropy(jnp.asarray(outputs), 4) == pytest.approx(entropy, abs=1e-14)


def test_constant_outputs_and_outputs_without_a_repetition_are_the_two_ends():
    constant, distinct = jnp.full((2, 5), 3), jnp.array([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])
    ends = [
        [float(measure(outputs)) for measure in (sequences.repetition, sequences.agreement)]
        + [float(sequences.sequence_entropy(outputs, 5))]
        for outputs in (constant, distinct)
    ]
    np.testing.assert_allclose(ends, [[1, 1, 0], [0, 1 / 5, math.log(5)]], rtol=TOLERANCE)


def cosine(one, two):
    return sum(one * two) / math.sqrt(sum(one**2) * sum(two**2))


def test_cosines_are_those_of_every_pair_of_rows_averaged_over_samples_and_then_over_pairs():
    hidden = np.random.default_rng(0).normal(0.5, 1, (3, 4, 5))
    expected = np.array([[np.mean([cosine(h[i], h[j]) for h in hidden]) for j in range(4)] for i in range(4)])
    found = sequences.cosines(jnp.asarray(hidden))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    pairs = np.zeros((4, 4), bool)
    pairs[[3, 2], [1, 0]] = True
    assert sequences.collapse(found, pairs) == pytest.approx((expected[3, 1] + expected[2, 0]) / 2, abs=1e-14)


def test_parallel_hidden_states_are_collapsed_whatever_their_lengths():
    direction, lengths = np.array([1.0, -2.0, 0.5]), np.random.default_rng(1).uniform(0.1, 10, (2, 4, 1))
    np.testing.assert_allclose(sequences.cosines(lengths * direction), np.ones((4, 4)), rtol=1e-14)


def test_attention_progress_is_the_part_of_the_absolute_map_on_the_entries_needed():
    rng = np.random.default_rng(2)
    map, optimal = rng.normal(size=(2, 3, 5)), rng.random((3, 5)) < 0.4
    there = sum(abs(map[h, t, j]) for h in range(2) for t in range(3) for j in range(5) if optimal[t, j])
    assert sequences.attention_progress(map, optimal) == pytest.approx(there / abs(map).sum(), rel=1e-14)


# ------------------------------------------------------------------------------------------------- the paper's numbers

PAPER = WindowSum()  # n = 16, p = 17, k = 2


def noisy(weights, seed, scale=0.5):
    """Weights far from where they start, none of them 0."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf + scale * rng.normal(size=leaf.shape)), weights)


def model(task, seed, **options):
    sizes = {"vocabulary": task.vocabulary, "context": task.length - 1, "width": 8, "hidden": 8, "dtype": jnp.float64}
    return noisy(transformer.init(jax.random.key(seed), **(sizes | options)), seed)


def test_pairs_and_rows_are_those_of_the_paper():
    expected = {(i, j) for i in range(16) for j in range(16) if i > j > 0}
    assert len(expected) == 105 and set(zip(*np.nonzero(PAPER.pairs), strict=True)) == expected
    np.testing.assert_array_equal(PAPER.rows, range(16, 32))  # 16 inputs and a separator, which emits y_1


def test_where_all_visible_positions_weigh_alike_attention_progress_is_31_in_392():
    """Two optimal columns a row but the first's one; 17 + t columns that row t may see; signs do not count."""
    weights = model(PAPER, 0, heads=2)
    flat = [jax.tree.map(jnp.zeros_like, part) for part in (weights.layers[0].Q, weights.layers[0].K)]
    flat = [eqx.tree_at(lambda part: part.bias, part, jnp.array([-1.0, 1.0] * 2 + [-3.0, 0.0] * 2)) for part in flat]
    flat[1] = eqx.tree_at(lambda part: part.bias, flat[1], -flat[1].bias)
    weights = eqx.tree_at(lambda w: (w.layers[0].Q, w.layers[0].K), weights, tuple(flat))
    batch = PAPER.sample(jax.random.key(0), 2)
    observe = eqx.filter_jit(jax.vmap(transformer.observe, (None, 0)))
    maps = observe(weights, batch[:, :-1])[1]["layers/0/map"]
    assert (np.asarray(maps)[..., 0] < 0).all()  # by -4/2 in head 0, by -18/2 in head 1
    rows = sequences.at_outputs(PAPER, {"map": maps[:, None]})["map"]
    np.testing.assert_allclose(Observer(PAPER).progress(rows, batch), [[31 / 392]], rtol=1e-14)


# -------------------------------------------------------------------------------------------------- all from one pass

TASK = WindowSum(n=5, p=7, k=3)
PLACES = ["embedding", "layers/0/attention", "layers/0/after_attention", "layers/0/after_mlp"]
PLACES += ["layers/1/attention", "layers/1/after_attention", "layers/1/after_mlp", "final"]


class Tilt(eqx.Module):
    """A tap: maps grow with the column, by a strength and by the first token."""

    slope: jax.Array

    def __call__(self, place, value, positions):
        return value * (1 + self.slope * jnp.arange(value.shape[-1])) if place.endswith("map") else value


def tilt_for(tokens, strength):
    return Tilt(strength * tokens[0])


@pytest.fixture(scope="module")
def seen():
    """What an observer says of a model of two layers and two heads under an intervention, and what it saw it from."""
    weights, batch, strength = model(TASK, 3, layers=2, heads=2), TASK.sample(jax.random.key(4), 6), jnp.asarray(0.1)
    measured = eqx.filter_jit(Observer(TASK, tilt_for))(weights, batch, strength)

    @eqx.filter_jit
    def one(weights, tokens, strength):
        tap = tilt_for(tokens, strength)
        logits, values = transformer.observe(weights, tokens[:-1], tap)
        return logits, values, transformer.generate(weights, tokens[:6], 5, tap)

    parts = [jax.tree.map(np.asarray, one(weights, tokens, strength)) for tokens in batch]
    return weights, np.asarray(batch), strength, {k: np.asarray(v) for k, v in measured.items()}, parts


def test_what_is_generated_is_measured_against_the_answers(seen):
    _, batch, _, measured, parts = seen
    generated, answers = np.array([out for *_, out in parts]), batch[:, 6:]
    for row, (x, y) in enumerate(zip(batch[:, :5].tolist(), answers.tolist(), strict=True)):
        assert y == x[:2] + [sum(x[i - 2 : i + 1]) % 7 for i in range(2, 5)], row
    right = [sum(generated[b, i] == answers[b, i] for b in range(6)) / 6 for i in range(5)]
    assert 0 < sum(right) < 5 and len(set(generated.ravel().tolist())) > 1
    np.testing.assert_allclose(measured["accuracy"], right, rtol=TOLERANCE)
    for v in range(8):
        of_v = [(generated[b, i] == v) for b in range(6) for i in range(5) if answers[b, i] == v]
        expected = sum(of_v) / len(of_v) if of_v else np.nan
        np.testing.assert_allclose(measured["accuracy_by_answer"][v], expected, rtol=TOLERANCE)
    assert measured["repetition"] == pytest.approx(float(sequences.repetition(generated)), rel=TOLERANCE)
    assert measured["agreement"] == pytest.approx(float(sequences.agreement(generated)), rel=TOLERANCE)
    assert measured["entropy"] == pytest.approx(float(sequences.sequence_entropy(jnp.asarray(generated), 8)), abs=1e-14)


def test_the_loss_by_token_averages_to_the_loss_that_is_trained_on(seen):
    weights, batch, strength, measured, parts = seen
    for i in range(10):
        logits = [part[0][i] for part in parts]
        expected = np.mean([math.log(sum(np.exp(z))) - z[b[i + 1]] for z, b in zip(logits, batch, strict=True)])
        assert measured["loss_by_token"][i] == pytest.approx(expected, abs=1e-13)
    assert measured["loss_by_token"].shape == (10,)
    trained_on = eqx.filter_jit(transformer.Loss(tilt_for))(weights, jnp.asarray(batch), strength)
    assert measured["loss_by_token"].mean() == pytest.approx(float(trained_on), abs=1e-13)


def test_hidden_states_are_compared_at_all_places_and_the_rows_that_predict_outputs(seen):
    *_, measured, parts = seen
    pairs = [(i, j) for i in range(5) for j in range(5) if i > j > 0]
    for index, place in enumerate(PLACES):
        hidden = [values[place][5:10] for _, values, _ in parts]  # row 5 is the separator, which emits y_1
        C = np.array([[np.mean([cosine(h[i], h[j]) for h in hidden]) for j in range(5)] for i in range(5)])
        assert measured["cosine"][index] == pytest.approx(np.mean([C[pair] for pair in pairs]), abs=1e-13)
        lengths = [math.sqrt(sum(row**2)) for h in hidden for row in h]
        assert measured["norm"][index] == pytest.approx(np.mean(lengths), rel=1e-13)
    np.testing.assert_allclose(measured["cosine_of_rows"], C, rtol=0, atol=1e-13)  # that of the last place
    assert measured["cosine"].shape == measured["norm"].shape == (8,)
    assert len(set(measured["cosine"].round(6))) == 8


def test_maps_and_attention_progress_are_those_of_output_rows_with_the_intervention(seen):
    *_, measured, parts = seen
    maps = [np.abs([values[f"layers/{k}/map"][:, 5:10] for _, values, _ in parts]) for k in range(2)]  # layer b h g j
    np.testing.assert_allclose(measured["map"], np.mean(maps, axis=1), rtol=1e-13)
    progress = []
    for map in maps[0]:
        needed = sum(map[h, t, j] for h in range(2) for t in range(5) for j in range(max(t - 2, 0), t + 1))
        progress.append(needed / map.sum())
    assert measured["progress"].shape == (1, 2) and np.isnan(measured["progress"][0, 1])  # one layer does it
    assert measured["progress"][0, 0] == pytest.approx(np.mean(progress), rel=1e-13)


@dataclasses.dataclass(frozen=True)
class TwoWays(WindowSum):
    """A task that can be solved in two ways, each in two layers."""

    strategies: ClassVar[tuple[str, ...]] = ("one", "other")

    def optimal(self, tokens):
        """The column of the first token, or another one, by sample, strategy and layer."""
        columns = (tokens[0] + jnp.array([[0, 1], [1, 2]])) % (self.length - 1)
        wanted = columns[..., None, None] == jnp.arange(self.length - 1)
        return jnp.broadcast_to(wanted, (2, 2, self.outputs, self.length - 1))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_progress_is_told_by_strategy_and_layer_and_is_no_number_where_nothing_is_asked(layers):
    task, rng = TwoWays(4, 5, 2), np.random.default_rng(5)
    batch, maps = task.sample(jax.random.key(6), 3), rng.normal(size=(3, layers, 2, 4, 8))
    found = eqx.filter_jit(Observer(task).progress)(jnp.asarray(maps), batch)
    assert found.shape == (2, layers)
    for strategy in range(2):
        for layer in range(layers):
            shares = []
            for tokens, sample in zip(np.asarray(batch), np.abs(maps[:, layer]), strict=True):
                shares.append(sample[:, :, (tokens[0] + strategy + layer) % 8].sum() / sample.sum())
            expected = np.mean(shares) if layer < 2 else math.nan
            assert found[strategy, layer] == pytest.approx(expected, rel=1e-13, nan_ok=True)


# ------------------------------------------------------------------------------------------------------------- labelled

DIMENSIONS = {
    "loss": (), "loss_by_token": ("token",), "accuracy": ("output",), "accuracy_by_answer": ("answer",), "repetition": (), "agreement": (), "entropy": (),
    "cosine": ("place",), "norm": ("place",), "cosine_of_rows": ("output", "other_output"),
    "progress": ("strategy", "layer"), "map": ("layer", "head", "output", "column"),
}  # fmt: skip
SIZES = {
    "step": 3,
    "token": 10,
    "output": 5,
    "other_output": 5,
    "place": 8,
    "strategy": 1,
    "layer": 2,
    "head": 2,
    "answer": 8,
}


def test_a_run_is_labelled_with_steps_places_strategies_and_units_and_survives_a_file(seen, tmp_path):
    weights, *_, measured, _ = seen
    states = {name: np.stack([value, 2 * value, 3 * value]) for name, value in measured.items()}
    # 0.1 times 43, divided by 0.1, is less than 43
    run = Trajectory(
        0.1 * np.array([0, 43, 1000]), states, np.array([3.0, 2, 1]), np.zeros(3), {}, weights, "by hand", Cost()
    )
    data = sequences.dataset(run, TASK, weights, 0.1, seed=7)
    assert {name: variable.dims[1:] for name, variable in data.items()} == DIMENSIONS
    assert all(variable.dims[0] == "step" for variable in data.values())
    assert dict(data.sizes) == SIZES | {"column": 10}
    assert data.step.values.tolist() == [0, 43, 1000] and data.step.dtype.kind == "i"
    assert data.place.values.tolist() == PLACES and data.strategy.values.tolist() == ["optimal"]
    for name, variable in data.items():
        np.testing.assert_array_equal(variable, states[name] if name != "loss" else [3, 2, 1])
        assert variable.attrs["long_name"] and variable.dtype == float
        assert variable.attrs["units"] == ("nat" if name in ("loss", "loss_by_token", "entropy") else "1")
    assert data.attrs == {"method": "by hand", "status": "complete", "seed": 7}
    data.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "run.nc", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), data)
