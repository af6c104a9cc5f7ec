"""gradflow: how small transformers learn, in continuous time.

    gradient_flow, descend        two ways to train, one kind of result (`Trajectory`)
    certify, modified_flow        how far apart they are, and the flow that descent follows to higher order
    diffuse, optimizer_flow       SGD; momentum, RMSProp, Adam and sign descent: in continuous time
    linear_times, log_times       when to save
    Sweep, open_sweep             many runs of one simulation, and what they measured as one dataset
    enable_x64                    64-bit numbers, which flows need

Systems, theory and observation live in the subpackages `tasks`, `models`, `theory` and `observe`.
"""

from gradflow.errors import InputError
from gradflow.precision import enable_compilation_cache, enable_x64

__version__ = "0.1.0"

_DYNAMICS = (
    "Certificate", "Trajectory", "certify", "descend", "diffuse", "gradient_flow", "linear_times", "log_times",
    "modified_flow", "optimizer_flow",
)  # fmt: skip
_SWEEP = ("Sweep", "open_sweep")
__all__ = ["InputError", "enable_compilation_cache", "enable_x64", *_DYNAMICS, *_SWEEP]


def __getattr__(name: str):
    """Import what needs JAX or xarray on first use, so that `--help` need not wait for it."""
    if name in _DYNAMICS:
        from gradflow import dynamics

        return getattr(dynamics, name)
    if name in _SWEEP:
        from gradflow import sweep

        return getattr(sweep, name)
    raise AttributeError(f"module 'gradflow' has no attribute {name!r}")
