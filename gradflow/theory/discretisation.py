"""What theory says of gradient descent against gradient flow, and the claims that hold a comparison to it.

Euler's method is of first order; descent is of order 2 and 3 to its modified equations (`dynamics.modified`); its distance
and the drift of what the flow conserves are told to first order by the certificate (`dynamics.certificate`). Linear
conserved quantities stand still under descent, too. Numerics: Hairer, Lubich, Wanner (2006); Barrett and Dherin (2021).
"""

import numpy as np
import xarray as xr

from gradflow.dynamics.certificate import TRUSTED
from gradflow.theory.claims import Claim, at_least, at_most, near
from gradflow.theory.exponents import slope

# learning_rate * sharpness up to which the claims about orders are made
RESOLVED = 0.2
# drift of a conserved quantity, relative to the largest of any: below, it is rounding
ROUNDING = 1e-9


def claims(comparison: xr.Dataset) -> list[Claim]:
    """The claims on a dataset of `observe.comparison.compare`; those on slopes need rates over a decade."""
    rates = comparison["learning_rate"].values
    sharpest = float(comparison["sharpness"].max())
    resolved, told = rates * sharpest <= RESOLVED * (1 + 1e-9), rates * sharpest <= TRUSTED * (1 + 1e-9)
    decade = resolved.any() and rates[resolved].max() >= 9.9 * rates[resolved].min()

    def exponent(name, source, order, values, within, why):
        found = slope(rates[resolved], values[resolved]) if decade else np.nan
        return near(name, source, float(order), found, within, why, decade)

    sources = {1: "Euler's method", 2: "Barrett and Dherin 2021", 3: "third-order modified equation"}
    made = [
        exponent(
            f"slope of |descent - flow of order {order}| in the rate", sources[order], order,
            comparison["distance_from_order"].sel(order=order).values, 0.05, "the next order adds a few percent",
        )
        for order in map(int, comparison["order"].values)
    ]  # fmt: skip
    ratio = (comparison["distance"] / comparison["predicted_distance"]).values[told, 1:]
    least, largest = (float(ratio.min()), float(ratio.max())) if told.any() else (np.nan, np.nan)
    name, source, why = "measured / predicted distance", "certificate", f"for learning_rate x sharpness <= {TRUSTED}"
    made += [
        at_least(f"{name}, least over time", source, "-> 1", least, 0.98, why),
        at_most(f"{name}, largest over time", source, "-> 1", largest, 1.05, why),
    ]
    if "quantity" in comparison:
        drift, predicted = comparison["drift"], comparison["predicted_drift"]
        for quantity in comparison["quantity"].values:
            moved, told = (float(each.sel(quantity=quantity).max()) / float(each.max()) for each in (drift, predicted))
            left = comparison["drift_residual"].sel(quantity=quantity).values[:, -1]
            if told <= ROUNDING:
                name = f"drift of {quantity} under descent, relative to the largest"
                made.append(at_most(name, "linear invariant", "0", moved, ROUNDING, "rounding of thousands of steps"))
            else:
                name = f"slope of what the predicted drift of {quantity} leaves"
                made.append(exponent(name, source, 2, left, 0.1, "the next order"))
    return made
