"""`python -m simulations` and its like: what is in a folder of scripts, a line each, read without importing them."""

import ast
from pathlib import Path


def scripts_in(folder: Path) -> dict[str, str]:
    """Name and first docstring line of every script in a folder; names with a leading underscore are not scripts."""
    files = sorted(path for path in Path(folder).glob("*.py") if not path.name.startswith("_"))
    return {path.stem: (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0] for path in files}
