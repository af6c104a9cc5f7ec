"""The mean start over the same scales as a sweep of random networks: the flow that they fluctuate around.

From the mean start (no initial outputs, Gram matrices at their means) the co-occurrence model with unique random words moves on
the orbits of its symmetry (`models.orbits`), and all points of a diagram are one ensemble.
"""

import numpy as np
import xarray as xr

from gradflow.dynamics import log_times
from gradflow.models.cooccurrence import entry_scales
from gradflow.models.groups import groups, readout_rate
from gradflow.observe.attention import with_and_without
from gradflow.observe.phases import all_positive_from


def mean_start(
    m: np.ndarray, sigma1: np.ndarray, *, n: int, L: int, m1: int, sigma0: float | None = None
) -> xr.Dataset:
    """T1 and the rate rho = m m1 (sigma0^2 + sigma1^2) over (sigma1, m), from the mean start.

    sigma0   default: that of Condition 1, 1 / (2 sqrt(L m))

    T1 is the first time that every training sample is right.
    """
    m, sigma1 = np.asarray(m, float), np.asarray(sigma1, float)
    scales = np.array([entry_scales("paper", m=each, m1=m1, d=1, L=L)[0] if sigma0 is None else sigma0 for each in m])
    both = dict(m=np.tile(m, sigma1.size), m1=m1, sigma0=np.tile(scales, sigma1.size), sigma1=np.repeat(sigma1, m.size))
    times = log_times(1e-2, 1e3, 161)
    loss = with_and_without(groups(**both), L, times=times, n=n)["loss_by_class"].values
    margins = -np.log(np.expm1(loss))
    clock = np.array([all_positive_from(times, each).time for each in margins.transpose(1, 0, 2)])
    rate = readout_rate(**both)
    table = {"T1": clock / rate, "rate": rate}
    shape = (sigma1.size, m.size)
    return xr.Dataset(
        {name: (("sigma1", "m"), each.reshape(shape)) for name, each in table.items()}, {"m": m, "sigma1": sigma1}
    )
