from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from workbench.validation import DamagedFile, JsonObject, Mistake, Moment, Record, Whole, read_lines, read_record


class Book(Record):
    title: str
    pages: Whole = 0
    printed: Moment = 0.0
    cover: Literal["hard", "soft"] = "soft"
    shelf: JsonObject = {}


@pytest.mark.parametrize(
    ("content", "field", "words"),
    [
        (b'{"title": 3}', "title", "3 is not valid: input should be a valid string"),
        (b'{"pages": 3}', "title", "is required"),
        (b'{"title": "a", "pages": "3"}', "pages", "'3' is not valid"),
        (b'{"title": "a", "pages": true}', "pages", "True is not valid"),
        (b'{"title": "a", "pages": 3.5}', "pages", "3.5 is not valid"),
        (b'{"title": "a", "pages": -1}', "pages", "greater than or equal to 0"),
        (b'{"title": "a", "pages": 99999999999999999999}', "pages", "less than or equal to"),
        (b'{"title": "a", "printed": "today"}', "printed", "'today' is not valid"),
        (b'{"title": "a", "printed": 1e300}', "printed", "less than or equal to"),
        (b'{"title": "a", "cover": null}', "cover", "'hard' or 'soft'"),
        (b'{"title": "a", "shelf": {"row": 1e999}}', "shelf", "a finite number is expected, not inf"),
        (b'{"title": "a", "note": [1e999]}', "note", "a finite number is expected, not inf"),
        (b'{"title": "a", "note":1.5E+400\t}', "note", "a finite number is expected, not inf"),
        (b'{"title": "a", "note": {"rows": [1, -1e0400]}}', "note", "a finite number is expected, not -inf"),
        (b'{"title": "a", "note": ' + b"9" * 250 + b"e60}", "note", "a finite number is expected, not inf"),
        (b'{"title": "a", "note": NaN}', "", "expected value at line 1"),
        (b'{"title": "\\ud800"}', "", "unexpected end of hex escape"),
        (b'{"title": "a", "note": ' + b"[" * 100_000, "", "recursion limit exceeded"),
        (b'{"title": "a", "pages": 1' + b"0" * 5000 + b"}", "", "number out of range"),
        (b'{"title": "a", "pa', "", "EOF while parsing"),
        (b"[]", "", "should be an object"),
        (b"\xff\xfe\x00", "", "expected value"),
        (b"", "", "EOF while parsing"),
    ],
)
def test_damage_is_one_line_with_file_and_field(tmp_path: Path, content: bytes, field: str, words: str) -> None:
    file = tmp_path / "book.json"
    file.write_bytes(content)
    with pytest.raises(DamagedFile) as raised:
        read_record(file, Book, "print it again")
    message = str(raised.value)
    assert raised.value.field == field
    assert message.startswith(f"{file}: damaged ({field}{': ' if field else ''}")
    assert words in message
    assert message.endswith("; print it again")
    assert "\n" not in message


def test_fields_of_other_versions_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "book.json"
    file.write_text('{"title": "a", "edition": {"number": 2}}')
    assert read_record(file, Book).model_dump(exclude_unset=True) == {"title": "a", "edition": {"number": 2}}


def test_a_file_that_is_not_there_and_one_that_cannot_be_read_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "none.json", Book)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DamagedFile, match=r"damaged \(not a file but a folder\)"):
        read_record(tmp_path / "folder.json", Book)


def test_lines_are_read_one_by_one() -> None:
    content = b'{"title": "a"}\n{"title": 4}\n\n{"title": "c", "pages": 2}\n{"ti'
    lines = list(read_lines(content, Book))
    assert [number for number, _ in lines] == [1, 2, 4, 5]
    assert [line.title for _, line in lines if isinstance(line, Book)] == ["a", "c"]
    assert [line.key for _, line in lines if isinstance(line, Mistake)] == ["title", ""]
