"""What theory says of many samples and wide networks, and the claims that hold the datasets of `observe.large_n` to it.

Entries of Gram matrices and scores fluctuate by a share m^-1/2 around the mean start, and G(0) = W_V^T u is of size sigma0 sigma1
sqrt(m m1), so a random network is within m^-1/2 of the flow from the mean start if sigma0 ~ 1/m; at the theorems' sigma0 ~
m^-1/2 its G(0) keeps its size, and no width brings it nearer. Random words pull at the signals by 1/n. Where R ends is the
max-margin problem (`theory.max_margin`); corrections fall like a power of time, but like 1/log of it on the border where class
I4 becomes tight, since its dual is 0 and its margin 1 there.
"""

import numpy as np
import xarray as xr

from gradflow.models.cooccurrence import paper_scales
from gradflow.models.groups import groups
from gradflow.observe.large_n import POPULATION, distance
from gradflow.theory import four_point, max_margin
from gradflow.theory.claims import Claim, at_most, near
from gradflow.theory.exponents import Exponent, exponent, slope

QUANTITIES = {"G": "G of the signals", "loss": "the loss", "change_A": "the signals' scores (relative change)"}
MANY_SAMPLES = 600  # from as many on, the power of the samples is read
CONFIDENCE = 0.999  # of an exponent: at 95 %, up to one run in four would fail one of the six by chance
TELLING = 0.25  # a confidence interval of an exponent that is wider cannot tell -1/2 from 0
FROZEN = 1e-4  # share of W_V in the readout's rate, phi in `theory.attention`, up to which late limits are claimed
LATE = 1e4  # from S0 t as large on, the power of its logarithm
CLEAR = 2.0  # the factor between a number of samples and the border's from which on R* is expected sharp
ON_BORDER = (12, 3)  # the one training set that lies on the border exactly


def of_width(apart: xr.DataArray) -> Exponent:
    """The exponent of the width in (width, seed) distances, with its interval at `CONFIDENCE`."""
    return exponent(apart["width"].values, apart.transpose("seed", "width").values, CONFIDENCE)


def from_population(orbits: xr.Dataset, quantity: str) -> xr.DataArray:
    """Distance of the orbit flows from the population's, over finite numbers of samples."""
    finite = orbits.sel(samples=np.isfinite(orbits["samples"]))
    return distance(finite, orbits.sel(samples=POPULATION), quantity)


def limits(diagram: xr.Dataset) -> xr.DataArray:
    """Where R ends, over (samples, L), by the max-margin problem."""
    values = [[max_margin.class_limits(n, L).R for L in diagram["L"].values] for n in diagram["samples"].values]
    return xr.DataArray(values, {"samples": diagram["samples"], "L": diagram["L"]})


def claims(random: xr.Dataset, orbits: xr.Dataset, diagram: xr.Dataset) -> list[Claim]:
    """Every claim on the three datasets."""
    return [*_exact(orbits), *_width(random, orbits), *_samples(orbits), *_both(random, orbits), *_late(diagram)]


def _exact(orbits: xr.Dataset) -> list[Claim]:
    source = "orbit reduction"
    return [
        at_most(
            "the coupled system from the mean start is its orbits", source, "equal",
            float(orbits["coupled_distance"]), 1e-9, "two solves at rtol 1e-11",
        ),
        at_most("... and never leaves them", source, "0", float(orbits["orbit_spread"]), 1e-12, "rounding"),
    ]  # fmt: skip


def _width(random: xr.Dataset, orbits: xr.Dataset) -> list[Claim]:
    n, m = random["samples"].values[-1], int(random["width"][-1])
    G0 = random["G"].sel(samples=n, exponent=0.5).isel(width=-1, time=0)
    size, of_size = float((G0**2).mean() ** 0.5), 0.5 / random.attrs["L"] ** 0.5
    made = [
        near(
            f"sigma0 ~ m^-1/2: G(0) of the signals at m = {m}, root mean square", "mean start", of_size, size,
            3 * of_size / (2 * G0.size) ** 0.5, "three standard errors of as many Gaussian numbers",
        )
    ]  # fmt: skip
    # G(0) keeps its size, and beside it are parts that shrink like m^-1/2: if as large at the least width, they tilt the line by this
    widths = random["width"].values
    tilt = abs(slope(widths, np.sqrt(1 + widths[0] / widths)))
    interval = f"the {CONFIDENCE:.1%} confidence interval over seeds"
    cases = (
        (0.5, "sigma0 ~ m^-1/2", tilt, f"{interval}, and the tilt of parts that shrink"),
        (1.0, "sigma0 ~ m^-1", 0.0, interval),
    )
    for power, scale, more, why in cases:
        for quantity, words in QUANTITIES.items():
            chosen = {"samples": n, "exponent": power}
            found = of_width(distance(random.sel(chosen), orbits.sel(chosen), quantity))
            name = f"{scale}: exponent of the width, {words}"
            made.append(near(name, "mean start", 0.5 - power, found.mean, found.half + more, why, found.half < TELLING))
    return made


def _samples(orbits: xr.Dataset) -> list[Claim]:
    made = []
    for quantity, words in QUANTITIES.items():
        apart = from_population(orbits, quantity).isel(width=-1).sel(exponent=1.0)
        apart = apart.sel(samples=apart["samples"] >= MANY_SAMPLES)
        found = slope(apart["samples"].values, apart.values) if apart.size > 1 else np.nan
        name, why = f"exponent of the samples, {words}", "the next order is a few percent at the fewest"
        made.append(near(name, "population flow", -1, found, 0.02, why, apart.size > 1))
    return made


def _both(random: xr.Dataset, orbits: xr.Dataset) -> list[Claim]:
    apart = distance(random.sel(exponent=1.0), orbits.sel(exponent=1.0, samples=POPULATION), "G").isel(width=-1)
    alone = from_population(orbits, "G").sel(exponent=1.0).isel(width=-1)
    share = abs(apart.median("seed") / alone - 1).max()
    name = "the widest networks are as far from the population as their n alone is"
    return [at_most(name, "mean start", "equal", float(share), 0.02, "what the random start adds at this width")]


def _late(diagram: xr.Dataset) -> list[Claim]:
    n, L, tau = (diagram[name].values for name in ("samples", "L", "time"))
    border = max_margin.least_samples(L)
    largest = max(map(max_margin.border_constant, border, L))
    off, clear = abs(diagram["R"].isel(time=-1) - limits(diagram)), abs(np.log(n[:, None] / border)) >= np.log(CLEAR)
    T1 = diagram["T1"].isel(samples=-1).values
    farthest = float(T1[np.argmax(abs(T1 - four_point.ALL_RIGHT_TAU))])
    # the limits are those of uniform attention in the clock S0 t, which is off by a share phi; and scores move at
    # 2 phi / (m m1) times their force. A small phi at the least L makes m / m1 large, and so both small
    m, m1 = diagram.attrs["m"], diagram.attrs["m1"]
    sigma0, sigma1 = paper_scales(m, m1, int(L[0]))
    frozen = bool(groups(m=m, m1=m1, sigma0=sigma0, sigma1=sigma1).values <= FROZEN)
    rests = f"with attention at rest, which takes sigma0^2 <= {FROZEN:g} (sigma0^2 + sigma1^2)"
    source, long, many = "max-margin limit", frozen and bool(tau[-1] > 10 * LATE), frozen and bool(n[-1] >= 1e4 * L[-1])
    made = [
        at_most(
            f"|R - R*| at the end, n a factor of {CLEAR:g} and more off the border", source, "-> 0",
            float(off.where(clear).max()), 1e-3, f"corrections fall like a power of time, {rests}", long,
        ),
        at_most(
            "|R - R*| log(S0 t) at the end, anywhere", source, f"<= {largest:.3g}, on the border",
            float(off.max() * np.log(tau[-1])), 1.1 * largest, f"10 %: the next order in 1/log, {rests}", long,
        ),
        near(
            f"T1 at n = {n[-1]}, the farthest of all L", "four-point flow", four_point.ALL_RIGHT_TAU,
            farthest, 0.01, f"random words pull like L / n, {rests}", many,
        ),
    ]  # fmt: skip
    if ON_BORDER[0] in n and ON_BORDER[1] in L:
        constant, late = max_margin.border_constant(*ON_BORDER), tau >= LATE
        above = diagram["R"].sel(samples=ON_BORDER[0], L=ON_BORDER[1]).values - max_margin.class_limits(*ON_BORDER).R
        # R - R* = c / (log tau + what the start adds), so the inverse has slope 1/c
        found = 1 / np.polyfit(np.log(tau[late]), 1 / above[late], 1)[0] if long else np.nan
        name = "c of R - R* = c / log(S0 t) on the border, n = {}, L = {}".format(*ON_BORDER)
        made.append(
            near(name, source, constant, found, 0.05 * constant, f"5 %: the next order in 1/log, {rests}", long)
        )
    return made
