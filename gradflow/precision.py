"""The one place that changes JAX's global settings: 64-bit numbers and the compilation cache on disk.

Importing gradflow changes nothing. Scripts call `enable_x64()` and `enable_compilation_cache()` before they compute; in
a notebook, call `gradflow.enable_x64()` once at the top. A flow in 32 bits cannot reach a relative tolerance under 1e-6.
"""

import os
from pathlib import Path


def enable_x64() -> None:
    """Let JAX compute in float64 from here on, in this process."""
    import jax

    jax.config.update("jax_enable_x64", True)


def enable_compilation_cache() -> Path:
    """Keep compiled programs on disk, so that a second run of a script skips compiling. Returns the folder.

    The folder is `$GRADFLOW_CACHE`, or `gradflow/` below `$XDG_CACHE_HOME` (`~/.cache` where that is not set). Call this before
    anything that imports equinox: its run-time checks call back into Python, and JAX does not store programs that do. Here
    they turn a failed check into NaN instead, which every solve looks for anyway.
    """
    os.environ.setdefault("EQX_ON_ERROR", "nan")
    import jax

    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("GRADFLOW_CACHE") or Path(user_cache) / "gradflow")
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder
