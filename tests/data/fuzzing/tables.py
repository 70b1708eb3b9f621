"""Prepared tables and their record, damaged or forged."""

from __future__ import annotations

import io
import json
import random
from typing import Any

from tests.data.fuzzing.cases import (
    PLACE,
    PREDICTIONS,
    PRISTINE,
    RECORD,
    Case,
    Files,
    images,
    kind,
    predictions,
    pristine,
)
from tests.data.fuzzing.damages import CLIMBING, WRONG, WRONG_IN_JSON, bend, hurt
from tests.data.fuzzing.writing import as_json


def _prepared(rng: random.Random) -> Files:
    """With the files that they were made from, or without."""
    files = pristine("refs") if rng.random() < 0.5 else images()
    return files | PRISTINE["prepared"]


@kind(120)
def bytes_of_tables(rng: random.Random, seed: int) -> Case:
    files = _prepared(rng)
    file = f"{PLACE}/" + ("images.arrow", "objects.arrow", "expressions.arrow")[seed % 3]
    files[file] = hurt(rng, files[file])
    return Case("check", "refcoco", files)


@kind(60)
def bytes_of_the_record(rng: random.Random, seed: int) -> Case:
    files = _prepared(rng)
    files[RECORD] = hurt(rng, files[RECORD])
    return Case("check", "refcoco", files)


SOURCES = ("/dev/zero", "/dev/stdin", "..", "\0", "", "x" * 5000, "../../../outside/secret.jpg", "\ud800", ".")


@kind(100)
def structure_of_the_record(rng: random.Random, seed: int) -> Case:
    files = _prepared(rng)
    record = json.loads(files[RECORD])
    if seed < len(SOURCES):
        record["sources"][0]["file"] = SOURCES[seed]
    elif seed < 3 * len(SOURCES):
        record[("image_folder", "folder")[seed % 2]] = SOURCES[seed // 2 - len(SOURCES) // 2 - 1]
    else:
        record = bend(rng, record, (*WRONG, *WRONG_IN_JSON, *SOURCES))
    files[RECORD] = as_json(record)
    return Case("check", "refcoco", files)


@kind(60, more=False)
def other_tables(rng: random.Random, seed: int) -> Case:
    """Sound files of Arrow with other columns, or none."""
    import pyarrow as pa

    files = _prepared(rng)
    name = ("images", "objects", "expressions")[seed % 3]
    table = _table(name)
    match seed // 3 % 10:
        case 0:
            table = table.slice(0, 0)
        case 1:
            table = table.slice(1)
        case 2:
            table = pa.concat_tables([table, table])
        case 3:
            table = table.drop_columns(table.column_names[0])
        case 4:
            table = table.rename_columns([f"{column}\n" for column in table.column_names])
        case 5:
            table = table.select(table.column_names[::-1])
        case 6:
            table = pa.table({"x": pa.array([None] * 10)})
        case 7:
            table = pa.table({"x": pa.array(["x" * 10_000])}).replace_schema_metadata({"two\nlines": "x" * 10_000})
        case 8:
            columns = [pa.nulls(len(table), column.type) for column in table.schema]
            table = pa.table(columns, table.schema)
        case _:
            table = pa.table([table[0].dictionary_encode(), *table.columns[1:]], table.column_names)
    files[f"{PLACE}/{name}.arrow"] = _arrow(table, seed % 2 == 0)
    return Case("check", "refcoco", files)


def _table(name: str) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(PRISTINE["prepared"][f"{PLACE}/{name}.arrow"]).read_all()


def _arrow(table: Any, as_file: bool = True) -> bytes:
    import pyarrow as pa

    stream = io.BytesIO()
    with (pa.ipc.new_file if as_file else pa.ipc.new_stream)(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


FORGED: tuple[tuple[str, str, Any], ...] = (
    *(("images", "file_name", name) for name in CLIMBING),
    *(("images", "file_name", name) for name in (None, "two\nlines.jpg")),
    *(("images", name, v) for name in ("height", "width") for v in (0, -1, 2**31 - 1, 13, None)),
    *(("images", "image_id", v) for v in (2, 99, None)),
    *(("objects", "rle", v) for v in (b"", b"x", b"\0\xff", b"o" * 100, b"`" * 13 + b"0", b"l" * 10_000, None)),
    *(("objects", "box", v) for v in ([float("nan")] * 4, [1e308] * 4, [float("inf")] * 4, None)),
    *(("objects", name, None) for name in ("ann_id", "image_id", "category", "crowd", "area")),
    *(("objects", "image_id", v) for v in (99, -1)),
    *(("objects", "area", v) for v in (0, -1, 2**62)),
    *(("expressions", "image_row", v) for v in (3, -1, 2**31 - 1, -(2**31), None)),
    *(("expressions", "object_rows", v) for v in ([5], [-1], [2**31 - 1], [None], [], None, [0] * 1000)),
    *(("expressions", "ann_ids", v) for v in ([99], [None], [], None)),
    *(("expressions", "split", v) for v in ("", "x" * 10_000, "two\nlines", None)),
    *(("expressions", "sentence", v) for v in ("", "x" * 100_000, "two\nlines", None)),
    *(("expressions", name, None) for name in ("ref_id", "sent_id", "image_id", "distractors")),
    *(("expressions", "image_id", v) for v in (99, -1)),
)


@kind(len(FORGED), more=False)
def forged_tables(rng: random.Random, seed: int) -> Case:
    """Tables with a digest that agrees, made by somebody who means harm."""
    import pyarrow as pa

    from workbench.data.tables import digest_of_tables

    name, column, value = FORGED[seed]
    tables = {n: _table(n) for n in ("images", "objects", "expressions")}
    table = tables[name]
    at = table.column_names.index(column)
    values = [value, *table[column].to_pylist()[1:]]
    tables[name] = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    record = json.loads(PRISTINE["prepared"][RECORD])
    record["digest"] = digest_of_tables(tuple(tables.values()))
    files = _prepared(rng) | {
        f"{PLACE}/{name}.arrow": _arrow(tables[name]),
        RECORD: as_json(record),
        PREDICTIONS: as_json(predictions()),
    }
    # What scoring reads, it reads; the rest is looked at.
    scored = column in ("rle", "height", "width", "ann_ids", "split", "sentence", "object_rows", "image_row")
    return Case("evaluate" if scored and rng.random() < 0.6 else "check", "refcoco", files)
