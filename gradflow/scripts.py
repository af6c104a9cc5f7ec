"""What all scripts share: flags from a dataclass, presets, one line and exit code 2 for bad input."""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar, get_type_hints

from gradflow.errors import InputError, require
from gradflow.precision import enable_compilation_cache, enable_x64

Config = TypeVar("Config")


def launch(run: Callable[[Config], None], presets: Mapping[str, Config], description: str) -> None:
    """Run a script: read its flags, prepare JAX, and end with one line and exit code 2 on bad input.

    With `sweep` as first argument, run many members of it instead (`gradflow.sweep`).
    """
    with one_line_errors():
        if sys.argv[1:2] == ["sweep"]:
            from gradflow.sweep.command import main

            module = sys.modules["__main__"].__spec__
            require(module is not None, "Processes of a sweep import the simulation: run it as `python -m NAME sweep`.")
            sys.exit(main(module.name, presets, sys.argv[2:]))
        config = parse(presets, description)
        enable_x64()
        enable_compilation_cache()
        run(config)


class OneLineParser(argparse.ArgumentParser):
    """Says in one line what is wrong, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        """Raise `InputError` instead of printing the usage."""
        raise InputError(f"{message}; see {self.prog} --help.")


def parse(
    presets: Mapping[str, Config],
    description: str,
    arguments: Sequence[str] | None = None,
    *,
    prog: str | None = None,
) -> Config:
    """The configuration that the command line asks for.

    Flags are the fields of the presets' dataclass, their help the comments on it. Defaults come from `--preset NAME`, or
    from `--config FILE`, the config.json of an earlier run.
    """
    import tyro

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    main = sys.modules["__main__"]
    if prog is None and getattr(main, "__spec__", None):
        prog = f"python -m {main.__spec__.name}"
    first = OneLineParser(prog=prog, add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=next(iter(presets)))
    first.add_argument("--config", type=Path)
    chosen, rest = first.parse_known_args(arguments)
    require(chosen.preset in presets, f"Unknown preset {chosen.preset!r}; known are {', '.join(presets)}.")
    default = presets[chosen.preset]
    if chosen.config is not None:
        default = _from_file(type(default), chosen.config)
    names = ", ".join(f"`{name}`" for name in presets)
    footer = f"Defaults shown are those of --preset {chosen.preset} (there are {names}); --config FILE takes those of an earlier run's config.json."
    if hasattr(main, "measure"):
        footer += f" `{prog} sweep` runs it many times, over a grid of these flags and over seeds; `{prog} sweep --help` says how."
    return tyro.cli(type(default), prog=prog, default=default, args=rest, description=f"{description}\n\n{footer}")


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line: exit code 2 on input that cannot be used, 130 on Ctrl-C."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _from_file(kind: type[Config], path: Path) -> Config:
    from gradflow.store import load_config
    from gradflow.sweep.plan import as_meant

    stored, kinds = load_config(path), get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = set(stored) - set(fields)
    require(not unknown, f"{path} belongs to another script: it has {', '.join(sorted(unknown))}.")
    return kind(**{name: as_meant(kinds[name], value) for name, value in stored.items()})
