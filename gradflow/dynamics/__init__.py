"""How it learns: gradient flow and descent. These know a loss and a pytree, and no task by name."""

from gradflow.dynamics.descent import descend
from gradflow.dynamics.flow import gradient_flow
from gradflow.dynamics.optimizers import optimizer_flow
from gradflow.dynamics.times import linear_times, log_times
from gradflow.dynamics.trajectory import Trajectory

__all__ = ["Trajectory", "descend", "gradient_flow", "linear_times", "log_times", "optimizer_flow"]
