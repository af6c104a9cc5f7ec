"""Many runs of one simulation: what to run (`plan`), where it is kept (`folder`), who runs it (`local`, `cluster`), reading it back.

Sweep         a simulation over a grid of its fields, or a list of settings, and seeds
run           run it into a folder: here, on a Dask.distributed cluster, or a share of it; a stopped sweep goes on
"""

from gradflow.sweep.plan import Sweep
from gradflow.sweep.run import run

__all__ = ["Sweep", "run"]
