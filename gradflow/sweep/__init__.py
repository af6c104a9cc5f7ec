"""Many runs of one simulation: what to run (`plan`), where it is kept (`folder`), who runs it (`local`, `cluster`), reading it back.

Sweep         a simulation over a grid of its fields, or a list of settings, and seeds
run           run it into a folder: here, on a Dask.distributed cluster, or a share of it; a stopped sweep goes on
open_sweep    the folder as one dataset, at any time
summarise     statistic, quantiles and interval over the seeds
pack          the folder as one file
"""

from gradflow.sweep.plan import Sweep
from gradflow.sweep.run import run

__all__ = ["Sweep", "open_sweep", "pack", "run", "summarise"]


def __getattr__(name: str):
    """Import what needs xarray on first use: processes that run members set threads before numpy is there."""
    if name == "open_sweep":
        from gradflow.sweep.reading import open_sweep as found
    elif name == "pack":
        from gradflow.sweep.packing import pack as found
    elif name == "summarise":
        from gradflow.sweep.summary import summarise as found
    else:
        raise AttributeError(f"module 'gradflow.sweep' has no attribute {name!r}")
    return found
