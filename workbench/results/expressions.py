"""The Parquet files of evaluated expressions: one row per expression, checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.files import check_file, replacing
from workbench.validation import DamagedFile, Mistake

if TYPE_CHECKING:
    import pandas as pd

WHOLE_NUMBERS = ("image_id", "ref_id", "sent_id", "height", "width", "intersection", "union")
AREAS = ("target_area", "predicted_area")
"""Columns that files of early versions lack."""


def write_expressions(file: Path, frame: pd.DataFrame) -> None:
    """Replace a file by a frame; each page carries a checksum."""
    with replacing(file) as partial:
        frame.to_parquet(partial, index=False, write_page_checksum=True)


def read_table(file: Path, remedy: str) -> pd.DataFrame:
    """A Parquet file as a frame, its checksums verified; DamagedFile where it cannot be read."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        check_file(file)
        table = parquet.read_table(file, page_checksum_verification=True)
        table.validate(full=True)
        frame: pd.DataFrame = table.to_pandas()
    except (OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError, arrow.ArrowException) as error:
        why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0][:200]
        raise DamagedFile(file, why, remedy) from None
    return frame


def read_expressions(file: Path, remedy: str) -> pd.DataFrame:
    """The frame of a file of expressions.

    Args:
        remedy: what would help where it is damaged, for the message.

    Raises:
        DamagedFile: it cannot be read, or a column is missing or holds what it cannot hold; names the column.
    """
    frame = read_table(file, remedy)
    if mistake := _first_wrong_column(frame):
        raise DamagedFile(file, mistake, remedy)
    return frame


def check_counts(file: Path, frame: pd.DataFrame, counts: Mapping[str, float], source: Path, remedy: str) -> None:
    """DamagedFile where a file holds another number of expressions of a split than was counted when it was written.

    Args:
        counts: by split; NaN where it is not known.
        source: the file that says so.
    """
    held = frame["split"].value_counts().to_dict()
    for split, count in counts.items():
        if held.get(split, 0) != count and count == count:
            message = f"{held.get(split, 0)} expressions of {split}, but {source} counts {count:.0f}"
            raise DamagedFile(file, Mistake("split", message, "count"), remedy)


def _first_wrong_column(frame: pd.DataFrame) -> Mistake | None:
    from pandas.api.types import is_bool_dtype, is_integer_dtype, is_string_dtype

    for name in ("split", "sentence", *WHOLE_NUMBERS):
        if name not in frame:
            return Mistake(name, "is required", "missing")
    for name in ("split", "sentence"):
        if not is_string_dtype(frame[name]) or not frame[name].map(lambda value: isinstance(value, str)).all():
            return Mistake(name, f"a column of texts is expected, not {frame[name].dtype}", "dtype")
    for name in (*WHOLE_NUMBERS, *(column for column in AREAS if column in frame)):
        if not is_integer_dtype(frame[name]):
            return Mistake(name, f"a column of whole numbers is expected, not {frame[name].dtype}", "dtype")
    if "no_target" in frame and not is_bool_dtype(frame["no_target"]):
        return Mistake("no_target", f"a column of booleans is expected, not {frame['no_target'].dtype}", "dtype")
    if bool((frame["intersection"] < 0).any()) or bool((frame["intersection"] > frame["union"]).any()):
        return Mistake("intersection", "an area from 0 to the union's is expected", "range")
    if bool(frame.duplicated(["split", "ref_id", "sent_id"]).any()):
        return Mistake("sent_id", "an expression stands twice", "duplicate")
    return None
