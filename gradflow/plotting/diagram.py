"""A phase diagram: one number over two axes, a cell for each pair of values, hatched where it is missing."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize


def cells(
    axes: Axes, x: Float[np.ndarray, " X"], y: Float[np.ndarray, " Y"], values: Float[np.ndarray, "Y X"], *,
    norm: Normalize, cmap: str, label: str, extend: str = "neither",
) -> QuadMesh:  # fmt: skip
    """Draw `values` with a colour bar. Axes are logarithmic where their values are positive and span more than a factor of 10."""
    edges = [_edges(each) for each in (x, y)]
    mesh = axes.pcolormesh(*edges, np.ma.masked_invalid(values), cmap=cmap, norm=norm, rasterized=True)
    axes.figure.colorbar(mesh, ax=axes, label=label, extend=extend)
    axes.set(xscale=_scale(x), yscale=_scale(y), xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]])
    axes.patch.set(hatch="////", facecolor="white", edgecolor="0.8")
    axes.grid(False)
    return mesh


def _scale(values: np.ndarray) -> str:
    return "log" if np.min(values) > 0 and np.max(values) > 10 * np.min(values) else "linear"


def _edges(values: np.ndarray) -> np.ndarray:
    """Where cells meet: half-way between their values, as the axis shows them."""
    there, back = (np.log, np.exp) if _scale(values) == "log" else (np.asarray, np.asarray)
    at = there(np.asarray(values, float))
    middles = (at[1:] + at[:-1]) / 2
    if at.size == 1:
        return back(np.array([at[0] - 0.5, at[0] + 0.5]))
    return back(np.concatenate([[2 * at[0] - middles[0]], middles, [2 * at[-1] - middles[-1]]]))
