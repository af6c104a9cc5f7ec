"""Questions for language models: those of a file, such as ARC-Easy's, or a few of our own.

Gopalani and Hu (2025), arXiv 2506.13688, take the first 100 test questions of ARC-Easy (Clark et al. 2018, arXiv 1803.05457), which
this makes a file of:

    pip install datasets
    python -c "from datasets import load_dataset as load; load('allenai/ai2_arc', 'ARC-Easy', split='test[:100]').to_json('arc_easy.jsonl')"
"""

import json
from itertools import islice
from pathlib import Path

from gradflow.errors import InputError, require

# Written for gradflow, in the manner of a school's science test; not of ARC
OWN = (
    "Why does ice float on water?",
    "Which planet takes the least time to go once around the Sun?",
    "A plant is kept in a dark cupboard for three weeks. What will most likely happen to it?",
    "What do magnets attract?",
    "Which part of a cell holds most of its genetic material?",
    "A ball rolls down a hill. Which form of energy grows while it rolls?",
    "What causes day and night on Earth?",
    "Which of these is a mixture: salt, sea water, iron, or oxygen?",
    "How do bees help flowering plants?",
    "A metal spoon stands in hot soup, and soon its handle is warm. How did the heat get there?",
    "Which gas do animals breathe out?",
    "Why is the shadow of a tree shorter at noon than in the evening?",
    "What is the first step in finding out whether a soil holds water better than another?",
    "Which instrument measures the mass of a stone?",
    "Why do many animals of the desert sleep through the day?",
    "What happens to the volume of a gas that is pressed together?",
)


def read(path: Path | str | None, count: int) -> tuple[str, ...]:
    """The first `count` questions, or all where there are fewer: of a text file, one a line, or of a .jsonl file, their field `question`.

    Without a file, OWN. Raises `InputError` where the file cannot be read, a line of it has no question, or there is none at all.
    """
    require(count >= 1, f"The number of questions must be positive, got {count}.")
    if path is None:
        return OWN[:count]
    try:
        lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read questions from {path}: {error}.") from error
    require(len(lines) > 0, f"{path} holds no question; it takes one a line.")
    if Path(path).suffix != ".jsonl":
        return tuple(line.strip() for line in lines[:count])
    return tuple(_question(path, number, line) for number, line in islice(enumerate(lines, 1), count))


def _question(path: Path | str, number: int, line: str) -> str:
    try:
        question = json.loads(line)["question"]
        require(isinstance(question, str) and bool(question.strip()), "empty")
        return question
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'Line {number} of {path} is no JSON object with a text in "question".') from error
