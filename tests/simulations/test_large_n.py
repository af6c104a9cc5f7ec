"""From random networks to infinitely many samples, from flags to files and pictures: what is found, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from figures import large_n as figure
from gradflow import store
from gradflow.dynamics import gradient_flow
from gradflow.errors import InputError
from gradflow.models import coupled, orbits
from gradflow.models.coupled import Width
from gradflow.observe.large_n import distance
from gradflow.plotting.style import power_of_ten
from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary
from simulations.large_n import PRESETS, measure, run

pytestmark = pytest.mark.slow  # a small run of the whole simulation

TINY = dataclasses.replace(
    PRESETS["small"], seeds=6, widths=(64, 1024, 16384), samples=(60, 600, 6000), m1=4, grid=(4, 2)
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run(dataclasses.replace(TINY, out=out))
    return out


@pytest.fixture(scope="module")
def datasets(finished):
    return store.load_all(finished)


def test_a_run_leaves_its_configuration_datasets_claims_and_pictures(finished, datasets, tmp_path):
    assert set(datasets) == {"random", "orbits", "diagram"}
    assert store.load_config(finished / "config.json")["widths"] == [64, 1024, 16384]
    pictures = {"convergence.png", "phase_diagram.png"}
    assert {path.name for path in finished.glob("*.png")} == pictures
    assert {path.name for path in figure.draw(finished, tmp_path)} == pictures
    for each in datasets.values():
        for name, variable in each.variables.items():
            assert variable.attrs.get("long_name") or "signal" in name, name
    claims = json.loads((finished / "claims.json").read_text())
    assert len(claims) == 17 and all(claim["holds"] is not False for claim in claims)
    untold = [claim["name"] for claim in claims if claim["holds"] is None]
    assert len(untold) < 6 and all("exponent of the width" in name for name in untold)  # six seeds are few


def test_what_is_measured_are_the_claims_of_the_run_and_of_its_seed(finished, check_kept, check_claims):
    measured, other = measure(TINY), measure(dataclasses.replace(TINY, seed=1))
    check_kept(measured)
    check_claims(measured, finished)
    differs = (measured["measured"] != other["measured"]).values
    of_networks = ["sigma0 ~" in name or "networks" in name for name in measured["claim"].values]
    np.testing.assert_array_equal(differs, of_networks)


def test_a_random_network_is_a_flow_of_the_coupled_system_from_its_own_start(datasets):
    """One member by the general solver: at the theorems' sigma0 it is the draw of its key."""
    times = datasets["random"]["time"].values[[0, -1]]
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 1024), 6)[2]
    d = least_vocabulary(12, 4)
    start = coupled.draw(key, m=1024, m1=4, d=d, L=4)
    alone = gradient_flow(
        coupled.loss, start, CoOccurrence(12, 4, d).sample(jax.random.key(0)), Width(1024.0, 4.0),
        times=times / 1024, field=coupled.field, method="DOP853", rtol=1e-9, show_progress=False,
    )  # fmt: skip
    member = datasets["random"].sel(samples=12, exponent=0.5, width=1024, seed=2).isel(time=-1)
    np.testing.assert_allclose(member["G"], alone.final.G[:3], atol=1e-4)  # rtol = 1e-6 over some fifty steps
    np.testing.assert_allclose(member["change_A"], (alone.final.A - start.A)[:3, :3], atol=1e-6)


def test_the_population_of_fifteen_words_is_that_of_three(datasets):
    found = datasets["orbits"].sel(samples=np.inf, exponent=0.5, width=1024)
    start = coupled.infinite_width_start(m=1024, m1=4, d=orbits.POPULATION_WORDS, L=4)
    alone = gradient_flow(
        orbits.loss, start, orbits.classes(np.inf, 4), Width(1024.0, 4.0),
        times=found["time"].values / 1024, field=orbits.field, method="DOP853", rtol=1e-11, show_progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(found["G"], alone.states.G, atol=1e-8)
    np.testing.assert_allclose(found["loss"], alone.loss, atol=1e-9)


def test_the_exponents_start_alike_at_the_least_width_and_shrink_by_another_root_of_it(datasets):
    start = datasets["random"].isel(time=0, samples=0)["G"]
    shrunk = start.sel(exponent=0.5) * (64 / start["width"]) ** 0.5
    np.testing.assert_allclose(start.sel(exponent=1.0), shrunk.transpose("width", "seed", "signal"), rtol=1e-12)


def test_distances_are_the_largest_over_time(datasets):
    random, means = (datasets[name].sel(samples=12, exponent=1.0, width=64) for name in ("random", "orbits"))
    G, mean = random["G"].sel(seed=3).values, means["G"].values
    assert float(distance(random, means, "G").sel(seed=3)) == pytest.approx(np.linalg.norm(G - mean, axis=1).max())
    A, mean = random["change_A"].sel(seed=3).values, means["change_A"].values
    apart, change = (np.sqrt((each**2).sum(axis=(1, 2))).max() for each in (A - mean, mean))
    assert float(distance(random, means, "change_A").sel(seed=3)) == pytest.approx(apart / change)


def test_the_stored_configuration_gives_the_same_numbers_again(finished, datasets, tmp_path):
    stored = store.load_config(finished / "config.json")
    again = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    run(type(TINY)(**again | {"out": tmp_path / "again"}))
    for name, first in datasets.items():
        second = store.load(tmp_path / "again", name)
        for variable in ("R", "T1") if name == "diagram" else ("G", "loss"):
            np.testing.assert_array_equal(first[variable], second[variable])


@pytest.mark.parametrize(("value", "label"), [(1e8, "10^{8}"), (3e7, r"3 \times 10^{7}"), (99_999_999.99, "10^{8}")])
def test_a_time_is_labelled_with_its_own_digits(value, label):
    assert power_of_ten(value) == label


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentences": (7,)}, "multiple of 6"),
        ({"samples": (62,)}, "multiple of 6"),
        ({"samples": ()}, "samples must be given and ascend"),
        ({"sentences": (12, 6)}, "sentences must be given and ascend"),
        ({"sentences": (60,)}, "samples go on where sentences end"),
        ({"widths": (64,)}, "At least two positive widths"),
        ({"widths": (0, 64)}, "At least two positive widths"),
        ({"L": 2}, "at least 3"),
        ({"seeds": 1}, "at least two seeds"),
        ({"m1": 0}, "m1 must be positive"),
        ({"end": 0.0}, "t_end must be a positive time"),
        ({"late": -1.0}, "t_end must be a positive time"),
        ({"grid": (1, 5)}, "two points each way"),
    ],
)
@pytest.mark.parametrize("script", [run, measure])
def test_bad_input_is_refused_in_one_line_before_anything_is_written(script, change, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        script(dataclasses.replace(TINY, out=tmp_path / "run", **change))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.nc"))
