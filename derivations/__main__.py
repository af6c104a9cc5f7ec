"""Derive all results, or those named: a line each, and one document with every proof."""

import sys
from importlib import import_module
from pathlib import Path

from derivations._proof import NotProved
from gradflow.errors import require
from gradflow.listing import parse_names, parser_of
from gradflow.precision import enable_compilation_cache, enable_x64
from gradflow.scripts import one_line_errors


def main() -> None:
    folder = Path(__file__).parent
    parser = parser_of(folder, __doc__, "results to derive")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/derivations"),
        help="folder for derivations.md (default: runs/derivations)",
    )
    arguments = parse_names(parser, folder)
    require(not arguments.out.is_file(), f"{arguments.out} is a file; --out takes a folder.")
    enable_x64()
    enable_compilation_cache()
    sections, proved = [], True
    for name in arguments.names:
        try:
            derived = import_module(f"derivations.{name}").derive()
        except NotProved as step:
            holds, line, section = False, f"{name}: {step}", f"## {name}\n\nNot proved: {step}\n"
        else:
            holds, line, section = derived.holds, derived.line(), derived.markdown()
        print(f"{'derived' if holds else 'FAILS':<8} {line}", flush=True)
        sections.append(section)
        proved = proved and holds
    arguments.out.mkdir(parents=True, exist_ok=True)
    document = arguments.out / "derivations.md"
    document.write_text("# Derivations\n\n" + "\n".join(sections))
    print(document)
    if not proved:
        sys.exit(1)


if __name__ == "__main__":
    with one_line_errors():
        main()
