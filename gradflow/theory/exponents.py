"""Exponents on logarithmic axes, and how well they are known."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student


class Exponent(NamedTuple):
    """An exponent with the confidence interval of its mean over seeds."""

    mean: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def slope(x: Float[np.ndarray, " X"], values: Float[np.ndarray, " X"]) -> float:
    """The exponent of `values` in `x`, by least squares on logarithms."""
    return float(np.polyfit(np.log(x), np.log(values), 1)[0])


def exponent(x: Float[np.ndarray, " X"], values: Float[np.ndarray, "seeds X"], confidence: float = 0.95) -> Exponent:
    """The exponent of `values` in `x`: the mean of the seeds' slopes, with Student's t interval."""
    slopes = np.polyfit(np.log(x), np.log(np.asarray(values).T), 1)[0]
    half = student.ppf((1 + confidence) / 2, len(slopes) - 1) * slopes.std(ddof=1) / np.sqrt(len(slopes))
    return Exponent(float(slopes.mean()), float(slopes.mean() - half), float(slopes.mean() + half))
