"""The mean start over the same scales as a sweep of random networks: the flow that they fluctuate around.

From the mean start (no initial outputs, Gram matrices at their means) the co-occurrence model with unique random words moves on
the orbits of its symmetry (`models.orbits`), and all points of a diagram are one ensemble.
"""

import numpy as np
import xarray as xr
from jaxtyping import Float

from gradflow.dynamics import log_times
from gradflow.models.cooccurrence import entry_scales
from gradflow.models.groups import groups, readout_rate
from gradflow.observe.attention import with_and_without
from gradflow.observe.phases import all_positive_from
from gradflow.tasks.cooccurrence import least_vocabulary


def mean_start(
    m: Float[np.ndarray, " M"], sigma1: Float[np.ndarray, " S"], *,
    n: int, L: int, m1: int, sigma0: float | None = None, initialisation: str = "paper",
) -> xr.Dataset:  # fmt: skip
    """T1, the first time that every training sample is right, and the rate rho = m m1 (sigma0^2 + sigma1^2), over (sigma1, m).

    sigma0   default: that of the initialisation, which may depend on m
    """
    m, sigma1, d = np.asarray(m, float), np.asarray(sigma1, float), least_vocabulary(n, L)
    scales = [entry_scales(initialisation, m=each, m1=m1, d=d, L=L)[0] if sigma0 is None else sigma0 for each in m]
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
