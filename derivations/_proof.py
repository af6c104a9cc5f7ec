"""What the derivations share: exact proof steps, checks of the derived expressions as numbers, and the text of a proof.

A file of this folder derives one result. Its functions return sympy expressions, for tests and other files to use, and its
`derive()` puts the proof together. A step is proved by `require_zero` or it raises; a `Check` then holds the derived expression,
turned into a function by `sympy.lambdify` and never typed a second time, to the numbers of gradflow's own code.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
import sympy as sp

# Deviations of 64-bit numbers that went through a few hundred operations stay far below.
ALLOWED = 1e-10


class NotProved(ArithmeticError):
    """A step of a proof does not hold."""


@dataclasses.dataclass(frozen=True)
class Check:
    """How far the derived expression is from numbers that were made in another way; see `compare`."""

    against: str
    deviation: float
    allowed: float = ALLOWED

    @property
    def holds(self) -> bool:
        return bool(self.deviation <= self.allowed)


@dataclasses.dataclass(frozen=True)
class Derivation:
    """One result: what it says, whose it is, the steps of its proof (Markdown with LaTeX) and its checks."""

    title: str
    source: str
    steps: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks)

    def line(self) -> str:
        """What was derived, against what it was checked, and the largest deviation."""
        against = ", ".join(check.against for check in self.checks)
        return f"{self.title}: checked against {against}; largest deviation {max(check.deviation for check in self.checks):.1e}"

    def markdown(self) -> str:
        """The proof as a section of a document."""
        rows = [f"- {check.against}: {check.deviation:.1e} (allowed {check.allowed:.0e})" for check in self.checks]
        parts = [f"## {self.title}", f"*{self.source}*", *self.steps, "Largest deviation from\n\n" + "\n".join(rows)]
        return "\n\n".join(parts) + "\n"


def compare(against: str, derived, made: Iterable, allowed: float = ALLOWED) -> Check:
    """The largest deviation of the derived numbers from those that were made in another way, relative to the largest of these.

    Raises `NotProved` where shapes differ or a number is not finite, which no deviation would show.
    """
    derived, made = np.asarray(derived, float), np.asarray(made, float)
    if derived.shape != made.shape or not (np.isfinite(derived).all() and np.isfinite(made).all()):
        raise NotProved(f"{against}: shapes {derived.shape} and {made.shape}, or numbers that are not finite.")
    scale = np.abs(made).max()
    return Check(against, float(np.abs(derived - made).max() / (scale if scale > 0 else 1.0)), allowed)


def require_zero(what: str, *expressions: sp.Expr | sp.MatrixBase) -> None:
    """Prove that expressions vanish identically; raises `NotProved` with what is left where one does not."""
    for expression in expressions:
        for entry in sp.flatten(sp.Matrix([expression]) if isinstance(expression, sp.Expr) else expression):
            left = sp.simplify(sp.expand(entry))
            if left != 0:
                raise NotProved(f"{what}: {left} is left.")


def equation(left: str | sp.Basic, right: str | sp.Basic) -> str:
    """A displayed equation; sympy expressions are set as LaTeX."""
    return f"$$ {_latex(left)} = {_latex(right)} $$"


def _latex(side: str | sp.Basic) -> str:
    return side if isinstance(side, str) else sp.latex(side)
