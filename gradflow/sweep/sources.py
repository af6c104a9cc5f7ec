"""What the members of a sweep are computed with: versions of libraries, and sources; other ones may give other numbers."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gradflow import __version__
from gradflow.errors import require
from gradflow.sweep.plan import module_of

LIBRARIES = ("numpy", "scipy", "jax", "jaxlib", "equinox", "diffrax", "optax")
# parts of the package that change no number of a member
_NOT_COMPUTING = ("plotting", "sweep")


def made_with(simulation: str) -> dict[str, Any]:
    """Versions, and digests of gradflow's sources that compute, of the simulation's, and of the modules beside it that it imports.

    These are followed from the text, also into functions and from one to the next. Not seen are imports by names that are only
    known when they run, other installed packages than LIBRARIES, and files that hold data.
    """
    root = Path(__file__).parents[1]
    files = {
        f"gradflow/{path.relative_to(root).as_posix()}": path
        for path in sorted(root.rglob("*.py"))
        if path.relative_to(root).parts[0] not in _NOT_COMPUTING
    }
    files |= _with_imports(simulation)
    return {
        "versions": {"gradflow": __version__} | _library_versions(),
        "sources": {name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for name, path in files.items()},
    }


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two answers of `made_with`, in words."""
    old, new = before["versions"], now["versions"]
    differences = [f"{name} {old.get(name)} there, {new.get(name)} here" for name in new if old.get(name) != new[name]]
    old, new = before["sources"], now["sources"]
    edited = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if edited:
        differences.append(
            f"{len(edited)} sources changed ({', '.join(edited[:5])}{', ...' if len(edited) > 5 else ''})"
        )
    return differences


def source_of(simulation: str) -> Path:
    """The file of a simulation; `InputError` where there is none that other processes could read."""
    file = getattr(module_of(simulation), "__file__", None)
    require(
        file is not None and Path(file).is_file(),
        f"The simulation {simulation} is in no file; write it into one, that processes of a sweep can import.",
    )
    return Path(file).absolute()


def root_of(simulation: str) -> Path:
    """The folder that a simulation is imported from."""
    file = source_of(simulation)
    return file.parents[simulation.count(".") + (file.name == "__init__.py")]


def _with_imports(simulation: str) -> dict[str, Path]:
    """The simulation's file, and those below its root that it imports, itself or through others, by the names of their modules."""
    root, own = root_of(simulation), simulation.partition(".")[0]
    is_installed = root.name in ("site-packages", "dist-packages")  # then what lies beside it is anything
    files, new = {}, {simulation: source_of(simulation)}
    while new:
        name, file = new.popitem()
        files[name] = file
        for imported in _imports(name, file):
            path = root.joinpath(*imported.split("."))
            top = imported.partition(".")[0]
            for candidate in (path / "__init__.py", path.with_suffix(".py")):
                followed = top == own or not (is_installed or top == "gradflow")
                if followed and imported not in files and candidate.is_file():
                    new[imported] = candidate
                    break
    return dict(sorted(files.items()))


def _imports(module: str, file: Path) -> Iterator[str]:
    """Names that may be modules, of all import statements in a module's text and of the module itself, and of what packages hold them."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    names = [module]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            names += [".".join(filter(None, (*above, node.module, alias.name))) for alias in node.names]
    for name in names:
        parts = name.split(".")
        yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


@cache
def _library_versions() -> dict[str, str]:
    return {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
