"""A simulation that tests can count, halt, fail and kill: how a sweep fares, not what is measured, is what matters here."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from gradflow.scripts import launch


@dataclass(frozen=True)
class Config:
    preset: str = "small"
    out: Path = Path("runs/toy")
    overwrite: bool = False
    seed: int = 0
    size: int = 4
    rate: float = 0.5
    rates: tuple[float, ...] = (1.0, 2.0)
    wait: float = 0.0
    """seconds that a member takes"""
    fail: tuple[int, ...] = ()
    """seeds that raise, while there is a file named by `trouble`, or always if that is empty"""
    die: tuple[int, ...] = ()
    """seeds that kill their process, likewise"""
    trouble: str = ""
    gate: str = ""
    """file that members wait for"""
    log: str = ""
    """file that receives a line for each run that begins"""


PRESETS = {"small": Config(), "large": Config("large", size=64)}


def measure(config: Config):
    import numpy as np
    import xarray as xr

    if config.log:
        descriptor = os.open(config.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{config.size} {config.rate} {config.seed} {os.getpid()}\n".encode())
        os.close(descriptor)
    while config.gate and not Path(config.gate).exists():
        time.sleep(0.01)
    time.sleep(config.wait)
    trouble = not config.trouble or Path(config.trouble).exists()
    if trouble and config.seed in config.die:
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble and config.seed in config.fail:
        raise RuntimeError(f"seed {config.seed} fails\nfor the second line says")
    path = np.cumsum(np.random.default_rng([config.seed, config.size]).normal(size=config.size)) * config.rate
    return xr.Dataset({"path": ("time", path), "sum": sum(config.rates)})


if __name__ == "__main__":
    launch(lambda config: None, PRESETS, "A toy.")
