"""What theory says of gradient descent against gradient flow, and the claims that hold a comparison to it.

Euler's method is of first order; descent is of order 2 and 3 to its modified equations (`dynamics.modified`); its distance
and the drift of what the flow conserves are told to first order by the certificate (`dynamics.certificate`). Linear
conserved quantities stand still under descent, too. Numerics: Hairer, Lubich, Wanner (2006); Barrett and Dherin (2021).
"""

import numpy as np
import xarray as xr

from gradflow.theory.claims import Claim, at_least, at_most, near

# learning_rate * sharpness up to which the claims about leading orders are made
RESOLVED = 0.2
TOLD = 0.1
# Relative to the largest drift: what of a quantity moves by rounding only
ROUNDING = 1e-10


def slope(rates: np.ndarray, values: np.ndarray) -> float:
    """Exponent of the learning rate, by least squares on logarithms."""
    return float(np.polyfit(np.log(rates), np.log(values), 1)[0])


def claims(comparison: xr.Dataset) -> list[Claim]:
    """The claims on a dataset of `observe.comparison.compare`; those on slopes need rates over a decade."""
    rates = comparison["learning_rate"].values
    sharpest = float(comparison["sharpness"].max())
    resolved, told = rates * sharpest <= RESOLVED * (1 + 1e-9), rates * sharpest <= TOLD * (1 + 1e-9)
    decade = resolved.any() and rates[resolved].max() >= 9.9 * rates[resolved].min()
    made = []
    for order in comparison["order"].values:
        distance = comparison["distance_from_order"].sel(order=order).values[resolved]
        source = {1: "Euler's method", 2: "Barrett and Dherin 2021"}.get(int(order), "third-order modified equation")
        found = slope(rates[resolved], distance) if decade else np.nan
        made.append(
            near(
                f"slope of |descent - flow of order {order}| in the rate",
                source,
                float(order),
                found,
                0.05,
                "the next order adds a few percent",
                decade,
            )
        )
    ratio = (comparison["distance"] / comparison["predicted_distance"]).values[told, 1:]
    source, why = "certificate", f"for learning_rate x sharpness <= {TOLD}"
    made += [
        at_least(
            "measured / predicted distance, least over time",
            source,
            "-> 1",
            float(ratio.min()) if told.any() else np.nan,
            0.98,
            why,
        ),
        at_most(
            "measured / predicted distance, largest over time",
            source,
            "-> 1",
            float(ratio.max()) if told.any() else np.nan,
            1.05,
            why,
        ),
    ]
    for quantity in comparison["quantity"].values if "quantity" in comparison else ():
        drift, left = (comparison[name].sel(quantity=quantity).values[:, -1] for name in ("drift", "drift_residual"))
        if drift.max() <= ROUNDING * float(comparison["drift"].max()):
            made.append(
                at_most(
                    f"drift of {quantity} under descent",
                    "linear invariant",
                    "0",
                    float(drift.max()),
                    1e-11,
                    "rounding of thousands of steps",
                )
            )
        else:
            found = slope(rates[resolved], left[resolved]) if decade else np.nan
            made.append(
                near(
                    f"slope of what the predicted drift of {quantity} leaves",
                    source,
                    2.0,
                    found,
                    0.1,
                    "the next order",
                    decade,
                )
            )
    return made  # fmt: skip
