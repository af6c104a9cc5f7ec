"""The claims on wide networks and many samples."""

import pytest

from gradflow import log_times
from gradflow.observe.large_n import diagram
from gradflow.theory.large_n import _late


@pytest.mark.parametrize(("m", "m1", "told"), [(1024, 1, True), (128, 1, None), (1024, 128, None)])
def test_the_late_limits_are_claimed_only_where_attention_rests(m, m1, told):
    """At m = 128 scores move, at m m1 = 131072 with m1 = 128 they and the clock: R and T1 are off their limits, as they should be."""
    found = _late(diagram(samples=[12, 6_000_000], lengths=[3, 100], m=m, m1=m1, times=log_times(0.1, 3e7, 91)))
    assert [claim.holds for claim in found] == 4 * [told]
    if told is None:
        assert found[0].measured > 2e-3
