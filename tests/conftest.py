"""64-bit numbers, and the training set, the weights and the two accurate flows that several files share."""

import jax
import pytest

import gradflow
from gradflow.dynamics import gradient_flow, linear_times
from gradflow.models import cooccurrence, coupled
from gradflow.tasks.cooccurrence import Batch, CoOccurrence, least_vocabulary
from gradflow.theory import conservation

gradflow.enable_x64()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: they run beside the quick ones and not after them."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def batch() -> Batch:
    """Twelve sentences of four words, all random words distinct."""
    return CoOccurrence(n=12, L=4, d=least_vocabulary(12, 4)).sample(jax.random.key(0))


@pytest.fixture(scope="session")
def weights() -> cooccurrence.Weights:
    """Weights at the theorems' scales; m = 24 < 2 d, so that the Gram matrix of [W_K W_Q] has not full rank."""
    return cooccurrence.init(jax.random.key(1), m=24, m1=8, d=least_vocabulary(12, 4), L=4)


@pytest.fixture(scope="session")
def full_flow(batch, weights):
    """The flow of the full weights to t = 50, saved at every unit of time."""
    return gradient_flow(
        cooccurrence.loss, weights, batch, times=linear_times(50, 51), method="dopri8", rtol=1e-10,
        invariants=conservation.of_weights,
    )  # fmt: skip


@pytest.fixture(scope="session")
def reduced_flow(batch, weights):
    """The same flow in the coupled variables, by another library."""
    return gradient_flow(
        coupled.loss, coupled.reduce(weights), batch, coupled.width_of(weights), times=linear_times(50, 51),
        method="DOP853", rtol=1e-10, field=coupled.field, invariants=conservation.of_coupled,
    )  # fmt: skip
