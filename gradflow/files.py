"""Files that are complete or absent, and stay when the power is cut."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, that stay when the power is cut."""
    if not path.exists():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _flush(path.parent)


@contextlib.contextmanager
def complete_or_absent(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place once it is written, and on the disk for good, power cut or not."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the operating system write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
