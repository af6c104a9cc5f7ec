"""A simulation for tests of reading sweeps: numbers, a curve, claims; any of it can be made to differ between members."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr


@dataclass(frozen=True)
class Config:
    preset: str = "small"
    out: Path = Path("runs/readable")
    overwrite: bool = False
    seed: int = 0
    """of the noise"""
    size: int = 3
    """points of the curve, where times differ"""
    rate: float = 1.0
    """how fast it decays"""
    label: str = "plain"
    """text that is kept"""
    parts: tuple[float, ...] = (1.0, 2.0)
    bound: float | None = None
    flag: bool = False
    kind: str = "same"
    """same: members fit together; times, claims or both: they differ in these"""
    fail: bool = False
    sleep: float = 0.0


PRESETS = {"small": Config()}


def noise(seed: int) -> float:
    return float(np.random.default_rng(seed).normal())


def measure(config: Config) -> xr.Dataset:
    if config.fail or config.rate < 0:
        raise ValueError(f"rate = {config.rate} will not do")
    time.sleep(config.sleep)
    differ = config.kind in ("times", "both")
    times = np.linspace(0, config.rate, config.size) if differ else np.arange(5.0)
    claims = ["first", "second"]
    if config.kind in ("claims", "both"):
        claims = ["first", f"only at {config.rate:g} Γ"] + ["second"] * (config.rate > 1)
    return xr.Dataset(
        {
            "final": ((), config.rate + noise(config.seed), {"long_name": "final value", "units": "1"}),
            "count": ((), config.size),
            "converged": ((), config.seed % 2 == 0),
            "verdict": ((), config.label * config.size),
            "loss": ("time", np.exp(-config.rate * times) + config.seed, {"long_name": "loss", "units": "1"}),
            "measured": ("claim", config.rate * np.arange(1.0, len(claims) + 1)),
            "table": (("claim", "time"), config.rate * np.add.outer(np.arange(1.0, len(claims) + 1), times)),
            "words": ("claim", [name[:3] for name in claims]),
        },
        {"time": ("time", times, {"long_name": "time", "units": "1"}), "claim": claims},
        {"remark": "not kept"},
    )
