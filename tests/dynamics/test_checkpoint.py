"""A run that was stopped, however and wherever, goes on to the numbers it would have had, bit by bit; another run is refused."""

import functools
import shutil
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradflow import InputError, descend
from gradflow.dynamics import checkpoint, progress, training
from gradflow.dynamics.checkpoint import Checkpoint, digest
from gradflow.dynamics.optimizers import HeavyBall
from gradflow.tasks.sequences import Fresh, WindowSum

SAVE_STEPS = np.array([0, 1, 3, 4, 7, 11])


class Model(eqx.Module):
    """Two precisions and two static fields."""

    single: jax.Array
    double: jax.Array
    power: int = eqx.field(static=True)
    function: object = eqx.field(static=True)


def loss(model, x):
    return jnp.mean((model.function(model.double @ x) - model.single.sum()) ** model.power)


def held_out(step):
    return (jax.random.normal(jax.random.fold_in(jax.random.key(5), step), (3, 4)),)


def stream(step):
    return (jax.random.normal(jax.random.fold_in(jax.random.key(6), step), (3, 4)),)


def save(model, x):
    return {"model": model, "seen": x, "count": jnp.arange(3), "sign": model.double > 0}


def invariants(model, x):
    return {"size": jnp.sum(model.double**2)}


MODEL = Model(jnp.array([0.3, -0.4], jnp.float32), jnp.array([0.5, -1.0, 2.0]), 2, jnp.tanh)
RUN = {
    "stream": stream, "held_out": held_out, "learning_rate": 0.05, "steps": 11, "save_steps": SAVE_STEPS, "save": save,
    "invariants": invariants, "optimizer": optax.adam,
}  # fmt: skip


def run(path=None, **changes):
    return descend(loss, MODEL, **(RUN | {"checkpoint": path} | changes))


@pytest.fixture(scope="module")
def never_stopped():
    whole = run()
    assert whole.complete and len(whole.loss) == 6 and whole.loss[-1] != whole.loss[0]
    return whole


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new folder" / "run.npz"


def assert_same(one, two):
    """Bit by bit and type by type, all but how long it took."""
    parts = ("times", "states", "loss", "dissipated", "drift", "final", "method", "status")
    one_tree, two_tree = ({name: getattr(each, name) for name in parts} for each in (one, two))
    assert jax.tree.structure(one_tree) == jax.tree.structure(two_tree)
    for (where, a), b in zip(jax.tree_util.tree_leaves_with_path(one_tree), jax.tree.leaves(two_tree), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), jax.tree_util.keystr(where)
    assert one.cost.evaluations == two.cost.evaluations


def stopping(monkeypatch, at, error):
    """Have the next training stop once it has reported so many save points, each on its own."""
    monkeypatch.setattr(training, "STRETCH", 1)
    reports = iter(range(1, 100))

    def report(*args, **options):
        if next(reports) == at:
            raise error

    monkeypatch.setattr(progress, "report", report)


def advances(monkeypatch, stretch=training.STRETCH, interrupted=0):
    """[from step, to step, save points] of each stretch of the next trainings, of full length whatever the time that they take.

    The first call looks at the start. That number `interrupted` is interrupted when its steps are taken.
    """
    monkeypatch.setattr(training, "STRETCH", stretch)
    monkeypatch.setattr(training, "PATIENCE", 1e9)
    calls, advance = [], training._advance

    def spied(*args):
        state, rows, seen = advance(*args)
        calls.append((int(args[3].step), int(state.step), int(seen)))
        if len(calls) == interrupted:
            raise KeyboardInterrupt
        return state, rows, seen

    monkeypatch.setattr(training, "_advance", spied)
    return calls


def left_in(path):
    return sorted(each.name for each in path.parent.iterdir())


# ------------------------------------------------------------------------------------------------------- stopped, resumed


@pytest.mark.parametrize("often", [False, True])
def test_an_interrupted_run_goes_on_to_the_same_numbers(never_stopped, path, monkeypatch, often):
    monkeypatch.setattr(Checkpoint, "is_due", often)
    for at in range(1, 6):
        path.unlink(missing_ok=True)
        stopping(monkeypatch, at, KeyboardInterrupt)
        part = run(path)
        assert part.status == "interrupted" and len(part.loss) == at + 1 and left_in(path) == ["run.npz"]
        monkeypatch.undo()
        assert_same(run(path), never_stopped)


def test_a_run_that_is_interrupted_after_every_save_point_is_the_same(never_stopped, path, monkeypatch):
    for done in range(2, 7):
        stopping(monkeypatch, 1, KeyboardInterrupt)
        assert len(run(path).loss) == done
    monkeypatch.undo()
    assert_same(run(path), never_stopped)


def test_a_resumed_run_takes_only_the_steps_that_were_left(path, monkeypatch):
    stopping(monkeypatch, 3, KeyboardInterrupt)
    run(path)
    monkeypatch.undo()
    calls = advances(monkeypatch)
    run(path)
    assert calls == [(0, 0, 1), (4, 7, 1), (7, 11, 1)]


def test_an_interruption_in_the_middle_of_an_interval_leaves_a_state_that_was_saved(never_stopped, path, monkeypatch):
    """When its steps are taken, but nothing of it is kept."""
    advances(monkeypatch, stretch=1, interrupted=4)
    part = run(path)
    assert part.status == "interrupted" and len(part.loss) == 3 and part.cost.evaluations == 3
    np.testing.assert_array_equal(part.final.double, part.states["model"].double[-1])
    monkeypatch.undo()
    assert_same(run(path), never_stopped)


STRETCHES = {
    1: [(0, 0, 1), (0, 1, 1), (1, 3, 1), (3, 4, 1), (4, 7, 1), (7, 11, 1)],
    3: [(0, 0, 1), (0, 1, 1), (1, 7, 3), (7, 11, 1)],
    32: [(0, 0, 1), (0, 1, 1), (1, 11, 4)],
}


@pytest.mark.parametrize("stretch", STRETCHES)
@pytest.mark.parametrize("changes", [{}, {"optimizer": None}], ids=["adam", "plain"])
def test_numbers_do_not_depend_on_the_length_of_a_stretch(monkeypatch, stretch, changes):
    expected = run(**changes)  # its stretches are as long as the machine is fast
    calls = advances(monkeypatch, stretch)
    assert_same(run(**changes), expected)
    assert calls == STRETCHES[stretch]


@pytest.mark.parametrize("at", [3, 4])
def test_a_stretch_that_is_interrupted_is_taken_again_to_the_same_numbers(never_stopped, path, monkeypatch, at):
    """Of three save points in one call, none is kept before all are."""
    advances(monkeypatch, 3, interrupted=at)
    part = run(path)
    assert part.status == "interrupted" and len(part.loss) == (2, 5)[at - 3]
    assert part.cost.evaluations == SAVE_STEPS[len(part.loss) - 1]
    np.testing.assert_array_equal(part.final.double, part.states["model"].double[-1])
    monkeypatch.undo()
    assert_same(run(path), never_stopped)


def test_a_slow_run_answers_after_each_save_point(monkeypatch):
    calls = advances(monkeypatch)
    monkeypatch.setattr(training, "PATIENCE", 0.0)
    run()
    assert calls == STRETCHES[1]


def test_the_next_stretch_is_planned_by_steps_and_by_save_points(monkeypatch):
    """By a clock on which each stretch takes a second: patience for three of them is 3 times the steps and save points."""
    calls = advances(monkeypatch)
    monkeypatch.setattr(training, "PATIENCE", 3.0)
    monkeypatch.setattr(training, "time", types.SimpleNamespace(perf_counter=iter(range(1000)).__next__))
    steps = np.array([0, 2, 4, 6, 8, 20, 21, 22, 60])
    assert run(steps=60, save_steps=steps).complete
    # after 1 save point in 2 steps, 3 in 6 steps; after these, 9 in 18 steps, which end before 60; after those, 9 in 42
    assert calls == [(0, 0, 1), (0, 2, 1), (2, 8, 3), (8, 22, 3), (22, 60, 1)]


def test_a_stretch_keeps_no_more_than_there_is_room_for(never_stopped, monkeypatch):
    """Bytes of a save point: 8 + 24 of the model, 96, 24 and 3 of what it saw, 8 each of loss, energy and drift: 179."""

    def whole(model, x):  # compiled anew: the room is that of the program
        return save(model, x)

    monkeypatch.setattr(training, "ROOM", 3 * 179 - 1)
    calls = advances(monkeypatch)
    assert_same(run(save=whole), never_stopped)
    assert calls == [(0, 0, 1), (0, 1, 1), (1, 4, 2), (4, 11, 2)]

    def large(model, x):
        return save(model, x)

    monkeypatch.setattr(training, "ROOM", 1)
    calls.clear()
    assert_same(run(save=large), never_stopped)
    assert calls == STRETCHES[1]


def test_a_run_that_is_killed_goes_on_from_what_was_written_before(never_stopped, path, tmp_path, monkeypatch):
    """An error is raised where nobody catches it; then even the file is an older one."""
    older = tmp_path / "older.npz"
    monkeypatch.setattr(Checkpoint, "is_due", True)
    stopping(monkeypatch, 2, RuntimeError("killed"))
    with pytest.raises(RuntimeError, match="killed"):
        run(path)
    shutil.copy(path, older)
    stopping(monkeypatch, 2, RuntimeError("killed"))
    with pytest.raises(RuntimeError, match="killed"):
        run(path)
    assert path.read_bytes() != older.read_bytes()
    newer = path.read_bytes()
    for content in (newer, older.read_bytes()):
        monkeypatch.undo()
        path.write_bytes(content)
        assert_same(run(path), never_stopped)


def test_a_run_that_is_killed_while_it_writes_keeps_the_file_before_and_leaves_no_other(
    never_stopped, path, monkeypatch
):
    stopping(monkeypatch, 2, KeyboardInterrupt)
    run(path)
    before = path.read_bytes()

    def half(file, **leaves):
        file.write(before[: len(before) // 2])
        raise RuntimeError("killed")

    monkeypatch.undo()
    monkeypatch.setattr(checkpoint.np, "savez", half)
    with pytest.raises(RuntimeError, match="killed"):
        run(path)
    assert path.read_bytes() == before and left_in(path) == ["run.npz"]
    monkeypatch.undo()
    assert_same(run(path), never_stopped)


def test_a_finished_run_is_read_and_not_run_again(never_stopped, path, monkeypatch):
    assert_same(run(path), never_stopped)

    calls = advances(monkeypatch)
    assert_same(run(path), never_stopped)
    assert calls == [(0, 0, 1)]  # a look at the start
    assert left_in(path) == ["run.npz"]


def test_half_precision_and_random_keys_in_the_optimizer_are_kept(path, monkeypatch):
    def loss(params, x):
        return jnp.sum((params * x) ** 2)

    def noisy(learning_rate):
        return optax.noisy_sgd(learning_rate, key=jax.random.key(0))

    def trained(path):
        x = jnp.arange(3, dtype=jnp.bfloat16)
        return descend(
            loss, x + 1, x, learning_rate=0.01, steps=4, save_steps=[0, 2, 4], optimizer=noisy, checkpoint=path
        )

    stopping(monkeypatch, 1, KeyboardInterrupt)
    assert len(trained(path).loss) == 2
    monkeypatch.undo()
    whole = trained(None)
    assert whole.final.dtype == jnp.bfloat16 and whole.complete
    assert_same(trained(path), whole)


# ---------------------------------------------------------------------------------------------------------- divergence


def doubling(params):
    return 0.5 * params**2


@pytest.mark.parametrize(("stretch", "kept"), [(1, 500), (32, 100)])
def test_a_run_that_diverged_leaves_its_last_finite_state_and_diverges_again(path, monkeypatch, stretch, kept):
    """x doubles and changes sign each step: x = 2^k after k = 500 steps, and |grad|^2 overflows at k = 512."""
    advances(monkeypatch, stretch)
    options = {"learning_rate": 3.0, "steps": 1000, "save_steps": [0, 100, 500, 1000], "checkpoint": path}
    first = descend(doubling, 1.0, **options)
    assert first.status.startswith("diverged at step 513")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "digest"}
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert any(array.shape == () and array == 2.0**kept for array in arrays.values())  # the end of a whole stretch
    np.testing.assert_array_equal(first.states, 2.0 ** np.array([0, 100, 500]))
    assert_same(descend(doubling, 1.0, **options), first)


# ------------------------------------------------------------------------------------------------------------ refusals


class Bias(eqx.Module):
    """A loss with constants of its own, one traced and one not."""

    strength: float
    kind: str = eqx.field(static=True)

    def __call__(self, params, batch):
        return self.strength * jnp.sum(params**2) * batch.mean()


def another_loss(params, batch):
    return jnp.sum(params**4) * batch.mean()


def doubled(params, batch):
    return 2 * params


def task_stream(k=2, size=4, seed=0):
    return Fresh(WindowSum(n=3, p=5, k=k), size, jax.random.key(seed))


def small(path, loss=Bias(0.1, "map"), params=(1.0, 2.0), data=(), **changes):  # noqa: B008 - a constant
    held_out = {} if data else {"held_out": task_stream(seed=1)}
    options = {"learning_rate": 0.1, "steps": 2, "save_steps": [0, 1, 2], "stream": task_stream(), **held_out}
    return descend(loss, jnp.array(params), *data, **(options | {"checkpoint": path} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"params": (1.0, 2.5)},
        {"params": (1.0, 2.0, 0.0)},
        {"learning_rate": 0.2},
        {"save_steps": [0, 2]},
        {"steps": 3, "save_steps": [0, 1, 2, 3]},
        {"stream": task_stream(seed=2)},
        {"stream": task_stream(k=3)},
        {"stream": task_stream(size=5)},
        {"held_out": task_stream(seed=2)},
        {"data": (jnp.ones((4, 7)),)},
        {"loss": Bias(0.2, "map")},
        {"loss": Bias(0.1, "values")},
        {"loss": another_loss},
        {"save": doubled},
        {"optimizer": optax.sgd},
        {"optimizer": functools.partial(optax.sgd, momentum=0.9)},
        {"optimizer": HeavyBall(2.0)},
    ],
)
def test_the_checkpoint_of_another_run_is_refused_and_left_alone(changes, other_run):
    before = other_run.read_bytes()
    with pytest.raises(
        InputError, match=r"^.*other.npz is the checkpoint of another run; delete it, or name another"
    ) as told:
        small(other_run, **changes)
    assert "\n" not in str(told.value) and other_run.read_bytes() == before
    assert left_in(other_run) == ["other.npz"]


@pytest.fixture(scope="module")
def other_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("other") / "other.npz"
    assert small(path).complete
    return path


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (functools.partial(optax.sgd, momentum=0.9), functools.partial(optax.sgd, momentum=0.8)),
        (HeavyBall(2.0), HeavyBall(3.0)),
        (0.1, 0.2),
        (1.0, 1),
        (np.float32(0.1), np.float64(0.1)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        ((np.ones(2), np.ones(1)), (np.ones(1), np.ones(2))),
        ({"a": 1.0, "b": 2.0}, {"a": 1.0, "c": 2.0}),
        (None, ()),
        (jax.random.key(0), jax.random.key(1)),
        (jax.random.key(0), jax.random.key_data(jax.random.key(0))),
        (np.sin, np.cos),
        (Model(1.0, 2.0, 2, jnp.tanh), Model(1.0, 2.0, 2, jnp.sin)),
    ],
)
def test_what_differs_has_another_digest(one, other):
    assert digest(one) != digest(other)


def test_the_same_things_made_anew_have_the_same_digest():
    """Functions lie elsewhere in memory then, as in another process."""

    def make():
        def local(x):
            return x

        parts = (local, lambda x: x, functools.partial(local, 2), jax.jit(local), Model(np.ones(2), 0.5, 3, local))
        return (*parts, task_stream(), HeavyBall(2.0), "words", None, jax.random.key(3))

    one, two = make(), make()
    assert one[0] is not two[0] and repr(one[0]) != repr(two[0])
    assert digest(*one) == digest(*two)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused_in_one_sentence(part, other_run, tmp_path):
    path, content = tmp_path / "other.npz", other_run.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(InputError, match=r"other.npz is truncated or no checkpoint [(]\w+[)]; delete it") as told:
        small(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("kind", ["text", "array", "other arrays", "damaged"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_sentence(kind, other_run, tmp_path):
    path, content = tmp_path / "other.npz", bytearray(other_run.read_bytes())
    match kind:
        case "text":
            path.write_text("step 3\n")
        case "array":
            path.write_bytes(content)
            with path.open("wb") as file:
                np.save(file, np.ones(3))
        case "other arrays":
            np.savez(path, x=np.ones(3))
        case "damaged":
            at = content.index(np.array([1.0, 2.0]).tobytes())  # the parameters at the start
            content[at] ^= 1
            path.write_bytes(content)
    with pytest.raises(InputError, match="is truncated or no checkpoint"):
        small(path)
