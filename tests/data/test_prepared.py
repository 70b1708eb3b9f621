from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data import fixtures
from workbench.config import DataConfig
from workbench.data.datasets import find, open_data
from workbench.data.prepared import NotPrepared, open_prepared, read_record
from workbench.data.readers import read
from workbench.errors import DataError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    fixtures.write_refcoco(tmp_path)
    place = open_data(DataConfig(dataset="refcoco"), tmp_path).place
    assert place is not None
    return place


def change(place: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((place / "prepared.json").read_text())
    edit(document)
    (place / "prepared.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("digest"), "digest: is required"),
        (lambda d: d.update(name=7), "name: 7 is not valid"),
        (lambda d: d.update(form="other"), "form: unknown form 'other'; known: refs, grefs, released"),
        (lambda d: d.update(notes=["a", 1]), "notes.1: 1 is not valid"),
        (lambda d: d.update(notes="none"), "notes: 'none' is not valid"),
        (lambda d: d.update(sources={}), "sources: "),
        (lambda d: d["sources"][1].update(file=None), "sources.1.file: None is not valid"),
        (lambda d: d["sources"][0].update(bytes="12"), "sources.0.bytes: '12' is not valid"),
        (lambda d: d.update(masks=[]), "masks: "),
        (lambda d: d.update(folder="../../.."), "folder: it leads elsewhere"),
        (lambda d: d.update(image_folder="/etc"), "image_folder: it leads elsewhere"),
        (lambda d: d["sources"][1].update(file="../../../secret"), "sources.1.file: it leads elsewhere"),
        (lambda d: d["sources"][1].update(file="x" * 5000), "sources.1.file: it leads elsewhere"),
        (
            lambda d: d.update(masks={"folder": "..\0", "count": 1, "bytes": 1, "mtime_ns": 1}),
            "masks.folder: it leads elsewhere",
        ),
    ],
)
def test_a_damaged_record_is_named_with_its_field_and_what_helps(
    place: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    change(place, edit)
    with pytest.raises(DataError) as error:
        open_prepared(place)
    assert str(error.value).startswith(f"{place / 'prepared.json'}: damaged ({message}")
    assert str(error.value).endswith("; remove its folder, and it is made again")
    assert not isinstance(error.value, NotPrepared), "it would replace whatever is there"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000, b'{"format": NaN}', b"\xff", b'"\\ud800"'])
def test_what_is_no_record_is_one_line(place: Path, content: bytes) -> None:
    (place / "prepared.json").write_bytes(content)
    with pytest.raises(DataError, match=r"prepared\.json: damaged \(.*\); remove its folder, and it is made again$"):
        read_record(place)


def test_a_set_of_another_version_is_made_anew(place: Path) -> None:
    change(place, lambda d: d.update(format=0, of_a_later_version=[1]))
    with pytest.raises(NotPrepared, match="prepared by another version"):
        read_record(place)
    open_data(DataConfig(dataset="refcoco"), place.parent.parent)
    assert read_record(place).format == 1


def test_a_record_says_what_the_tables_were_made_from(place: Path) -> None:
    record = read_record(place)
    files = [(place / source.file).resolve() for source in record.sources]
    folder = place.parent.parent / "refcoco"
    assert files == [folder / "instances.json", folder / "refs(unc).p"]
    assert [source.bytes for source in record.sources] == [file.stat().st_size for file in files]
    assert (record.name, record.split_by, record.form, record.masks) == ("refcoco", "unc", "refs", None)


def test_tables_that_no_file_holds_travel_themselves(place: Path) -> None:
    folder = place.parent.parent / "refcoco"
    data = read(find(folder, "refcoco", "unc"))
    travelled = pickle.loads(pickle.dumps(data))
    assert travelled.place is None
    assert travelled.expressions.equals(data.expressions)
