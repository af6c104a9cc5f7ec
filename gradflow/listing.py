"""`python -m simulations` and its like: what is in a folder of scripts, a line each, read without importing them."""

import argparse
import ast
from pathlib import Path

from gradflow.errors import require


def scripts_in(folder: Path) -> dict[str, str]:
    """Name and first docstring line of every script in a folder; names with a leading underscore are not scripts."""
    files = sorted(path for path in Path(folder).glob("*.py") if not path.name.startswith("_"))
    return {path.stem: (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0] for path in files}


def parser_of(folder: Path, description: str, what: str) -> argparse.ArgumentParser:
    """The parser of `python -m FOLDER [NAME ...]`, whose help lists the scripts of the folder."""
    listing = "\n".join(f"  {name:<24} {summary}" for name, summary in scripts_in(folder).items())
    parser = argparse.ArgumentParser(
        prog=f"python -m {folder.name}", description=description, epilog=listing,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{what} (default: all, listed below)")
    return parser


def parse_names(parser: argparse.ArgumentParser, folder: Path) -> argparse.Namespace:
    """The flags, with the names that were given, or all; raises `InputError` for one that is no script of the folder."""
    known, arguments = scripts_in(folder), parser.parse_args()
    for name in arguments.names:
        require(name in known, f"Unknown name {name!r}; known are {', '.join(known)}.")
    arguments.names = arguments.names or list(known)
    return arguments
