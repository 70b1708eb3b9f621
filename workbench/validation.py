"""What pydantic finds wrong, a line for each mistake: in what people write, and in records read from disk."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, ValidationInfo
from pydantic_core import from_json

from workbench.errors import WorkbenchError, shown
from workbench.files import read_file
from workbench.registry import did_you_mean, unknown_name


class Mistake(NamedTuple):
    """One thing that is wrong with a document.

    Attributes:
        key: the dotted name of the field; empty where the document as a whole is meant.
        message: what is wrong with it, and what would be right.
        kind: pydantic's name of the mistake.
        value: what stands there.
    """

    key: str
    message: str
    kind: str
    value: Any = None

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


def first_mistake(error: ValidationError, model: type[BaseModel]) -> Mistake:
    """The first mistake of a document that should have been a `model`."""
    return mistakes(error, model)[0]


def mistakes(error: ValidationError, model: type[BaseModel]) -> list[Mistake]:
    """All mistakes of a document that should have been a `model`, one for each key, in the order of its fields."""
    by_key: dict[str, Mistake] = {}
    for details in error.errors(include_url=False):
        mistake = _mistake(details, model)
        known = by_key.setdefault(mistake.key, mistake)
        # Of a union's branches, the one with a name that was nearly met says most.
        if SUGGESTION in mistake.message and SUGGESTION not in known.message:
            by_key[mistake.key] = mistake
    return list(by_key.values())


SUGGESTION = "(did you mean "


def _mistake(first: Any, model: type[BaseModel]) -> Mistake:
    location = [str(part) for part in first["loc"]]
    # A union of types reports one location per branch; the branch's name is no key of the document.
    key = ".".join(part for part in location if part != "[key]" and not _is_branch(part))
    kind, message = first["type"], first["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return Mistake(key, unknown_name("key", location[-1], _known_keys(model, location)), kind)
    value = first["input"]
    if kind == "missing":
        return Mistake(key, "is required", kind)
    if kind in ("json_invalid", "value_error"):  # our own messages say the value
        return Mistake(key, message, kind, value)
    choices = re.findall(r"'([^']+)'", first["ctx"]["expected"]) if kind == "literal_error" else ()
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    return Mistake(key, f"{shown(value)} is not valid: {message[0].lower()}{message[1:]}{hint}", kind, value)


def _is_branch(part: str) -> bool:
    return any(character in part for character in "[](),'") or part.startswith(("constrained-", "function-"))


def _known_keys(model: type[BaseModel], location: list[str]) -> list[str]:
    section: Any = model
    for part in location[:-1]:
        field = section.model_fields.get(part) if hasattr(section, "model_fields") else None
        if field is None:
            break
        types = [field.annotation, *get_args(field.annotation)]
        section = next((kind for kind in types if hasattr(kind, "model_fields")), None)
    return list(section.model_fields) if hasattr(section, "model_fields") else []


class DamagedFile(WorkbenchError):
    """A file of ours does not hold what it should.

    Attributes:
        file: which.
        field: the dotted name of the first wrong field, empty where it cannot be read at all.
    """

    def __init__(self, file: Path, mistake: Mistake | str, remedy: str = "") -> None:
        self.file = file
        self.field = mistake.key if isinstance(mistake, Mistake) else ""
        super().__init__(f"{file}: damaged ({mistake}){remedy and f'; {remedy}'}")


FINITE = "finite"
"""The context of a validation of a document that holds no infinite number, which a look at its text told."""


def _finite(value: Any, info: ValidationInfo) -> Any:
    """Free-form JSON without infinite numbers (`1e999` reads as one), which could not be written again."""
    pending = [] if info.context == FINITE else [value]
    while pending:
        item = pending.pop()
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"a finite number is expected, not {item}")
        pending += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return value


Json = Annotated[JsonValue, AfterValidator(_finite)]
"""Free-form JSON inside a record."""
JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_finite)]
"""A free-form JSON object inside a record."""
Whole = Annotated[int, Field(ge=0, le=2**53)]
"""A count, an id or a step."""
Moment = Annotated[float, Field(ge=0, le=1e11)]
"""Seconds of the epoch; every one can be shown as a date."""


class Record(BaseModel):
    """Base of what is read from files that the workbench wrote: nothing is converted, nothing is infinite.

    Fields that this version does not know are kept, so that writing a record again loses nothing.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Json]


R = TypeVar("R", bound=BaseModel)


def parse_record(content: bytes, model: type[R]) -> R:
    """A JSON document as a record.

    Raises:
        Damage: it is no JSON (cut short, nested over 200 levels, lone surrogates, NaN), or a field is wrong.
    """
    # Parsed once where nothing hints at more: thousands of records are read for one status.
    if not _perhaps_not_finite(content):
        with contextlib.suppress(ValidationError):
            return model.model_validate_json(content, context=FINITE)
    try:
        values = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise Damage(Mistake("", str(error), "json_invalid")) from None
    try:
        return model.model_validate_json(content, context=None if "inf" in str(values) else FINITE)
    except ValidationError as error:
        raise Damage(first_mistake(error, model)) from None


_SKELETON = bytes.maketrans(b"123456789E \n]}", b"000000000e,,,,")
_LARGE_EXPONENT = re.compile(rb"e0000*,")


def _perhaps_not_finite(content: bytes) -> bool:
    """Whether a JSON document may hold a surrogate, or a number beyond the largest float (10^308)."""
    # Searches for a fixed beginning are fast; a pattern over digits would take longer than the parser.
    skeleton = content.translate(_SKELETON, b"+.\r\t")
    return (
        any(word in content for word in (b"NaN", b"Infinity", b"\\u"))
        or b"0" * 200 in skeleton
        or _LARGE_EXPONENT.search(skeleton) is not None
    )


class Damage(Exception):
    """What is wrong with a document whose file is not known here; whoever knows it raises `DamagedFile`."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


def read_record(file: Path, model: type[R], remedy: str = "") -> R:
    """A record from its file.

    Args:
        remedy: what would help, for the message.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        DamagedFile: it cannot be read, or a field is wrong; names both.
    """
    try:
        content = read_file(file)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise DamagedFile(file, error.strerror or str(error), remedy) from None
    try:
        return parse_record(content, model)
    except Damage as damage:
        raise DamagedFile(file, damage.mistake, remedy) from None


def read_lines(content: bytes, model: type[R]) -> Iterator[tuple[int, R | Mistake]]:
    """The lines of a JSONL document, each with its number from 1, as a record or as what is wrong with it."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                yield number, parse_record(line, model)
            except Damage as damage:
                yield number, damage.mistake
