"""64-bit numbers, and the training set, the weights and the two accurate flows that several files share."""

import os

import jax
import pytest

import gradflow

gradflow.enable_x64()
gradflow.enable_compilation_cache()  # before equinox is imported: compiling takes most of the time


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: some of the tests wait for processes that they started."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: they run beside the quick ones and not after them."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def batch():
    """Twelve sentences of four words, all random words distinct."""
    from gradflow.tasks.cooccurrence import CoOccurrence, least_vocabulary

    return CoOccurrence(n=12, L=4, d=least_vocabulary(12, 4)).sample(jax.random.key(0))


@pytest.fixture(scope="session")
def weights():
    """Weights at the theorems' scales; m = 24 < 2 d, so that the Gram matrix of [W_K W_Q] has not full rank."""
    from gradflow.models import cooccurrence
    from gradflow.tasks.cooccurrence import least_vocabulary

    return cooccurrence.init(jax.random.key(1), m=24, m1=8, d=least_vocabulary(12, 4), L=4)


@pytest.fixture(scope="session")
def full_flow(batch, weights):
    """The flow of the full weights to t = 50, saved at every unit of time."""
    from gradflow.models import cooccurrence
    from gradflow.theory import conservation

    return gradflow.gradient_flow(
        cooccurrence.loss, weights, batch, times=gradflow.linear_times(50, 51), method="dopri8", rtol=1e-10,
        invariants=conservation.of_weights,
    )  # fmt: skip


@pytest.fixture(scope="session")
def reduced_flow(batch, weights):
    """The same flow in the coupled variables, by another library."""
    from gradflow.models import coupled
    from gradflow.theory import conservation

    return gradflow.gradient_flow(
        coupled.loss, coupled.reduce(weights), batch, coupled.width_of(weights), times=gradflow.linear_times(50, 51),
        method="DOP853", rtol=1e-10, field=coupled.field, invariants=conservation.of_coupled,
    )  # fmt: skip
