"""How it learns: gradient flow and descent, and what lies between. These know a loss and a pytree, and no task by name."""

from gradflow.dynamics.certificate import Certificate, certify
from gradflow.dynamics.descent import descend
from gradflow.dynamics.diffusion import diffuse
from gradflow.dynamics.flow import gradient_flow
from gradflow.dynamics.modified import modified_flow
from gradflow.dynamics.optimizers import optimizer_flow
from gradflow.dynamics.times import linear_times, log_times
from gradflow.dynamics.trajectory import Trajectory

__all__ = [
    "Certificate",
    "Trajectory",
    "certify",
    "descend",
    "diffuse",
    "gradient_flow",
    "linear_times",
    "log_times",
    "modified_flow",
    "optimizer_flow",
]
