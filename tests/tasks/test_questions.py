"""Questions for language models: read from files, as many as asked for; what is no question is refused with its line."""

import json

import pytest

from gradflow import InputError
from gradflow.tasks.questions import OWN, read


def test_a_text_file_has_a_question_a_line(tmp_path):
    (tmp_path / "q.txt").write_text("Why?\n\n  What is « é »?  \nWho?\n", encoding="utf-8")
    assert read(tmp_path / "q.txt", 100) == ("Why?", "What is « é »?", "Who?")
    assert read(tmp_path / "q.txt", 2) == ("Why?", "What is « é »?")


def test_a_jsonl_file_has_a_field_question_as_arc_easy_does(tmp_path):
    rows = [
        {"id": i, "question": f"Which\nis {i}?", "choices": {"text": ["a", "b"]}, "answerKey": "A"} for i in range(3)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(str(tmp_path / "q.jsonl"), 2) == ("Which\nis 0?", "Which\nis 1?")


def test_without_a_file_they_are_our_own():
    assert read(None, 100) == OWN and read(None, 3) == OWN[:3]
    assert len(set(OWN)) == len(OWN) and all(len(question) > 15 for question in OWN)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("q.txt", "\n \n", "q.txt holds no question"),
        ("q.jsonl", '{"question": "Why?"}\n{"text": "Why?"}\n', "Line 2 of .* is no JSON object"),
        ("q.jsonl", '{"question": ""}\n', "Line 1 of"),
        ("q.jsonl", "Why?\n", "Line 1 of"),
        ("q.jsonl", "[1]\n", "Line 1 of"),
    ],
)
def test_what_is_no_question_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / name, 10)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "q.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "q.txt", tmp_path / "nowhere.txt", tmp_path):
        with pytest.raises(InputError, match="Cannot read questions from"):
            read(path, 10)
    with pytest.raises(InputError, match="must be positive, got 0"):
        read(None, 0)
