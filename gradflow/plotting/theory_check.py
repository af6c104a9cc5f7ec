"""The paper on one page."""

from gradflow.plotting.style import panels


def one_page(grid, verdicts):
    with panels() as (figure, axes):
        axes.loglog(grid["m"], grid["T1"], "o")
        return figure
