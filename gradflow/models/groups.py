"""The three numbers in which sigma0, sigma1, m and m1 enter from the mean start (derivations/attention_speed.py).

values    phi = sigma0^2 / (sigma0^2 + sigma1^2)          share of W_V's size in the readout's rate
richness  epsilon = 4 / (m^2 m1 (sigma0^2 + sigma1^2)^2)  how much that rate grows: along a straight path it is sqrt(1 + epsilon |G|^2)
size      m m1
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Groups(NamedTuple):
    """The three numbers; scalars or arrays of one shape."""

    values: Float[np.ndarray, "..."]
    richness: Float[np.ndarray, "..."]
    size: Float[np.ndarray, "..."]


def groups(*, m, m1, sigma0, sigma1) -> Groups:
    """The numbers that two widths and two scales come to."""
    total = sigma0**2 + sigma1**2
    return Groups(sigma0**2 / total, 4 / (m**2 * m1 * total**2), m * m1)


def scales(given: Groups, m1=1.0) -> dict[str, Float[np.ndarray, "..."]]:
    """Widths and scales (m, m1, sigma0, sigma1) that come to these numbers, for any choice of m1."""
    m = given.size / m1
    total = 2 / (m * np.sqrt(m1 * given.richness))
    return dict(m=m, m1=m1, sigma0=np.sqrt(given.values * total), sigma1=np.sqrt((1 - given.values) * total))


def readout_rate(*, m, m1, sigma0, sigma1):
    """rho, the rate at which G moves along its own loss gradient at the start."""
    return m * m1 * (sigma0**2 + sigma1**2)
