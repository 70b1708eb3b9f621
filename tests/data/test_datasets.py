"""Which reader reads what: the forms that data sets name, in their order, and folders of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data import fixtures
from workbench.data.datasets import Dataset, datasets, find
from workbench.data.readers import Reader, Source, read, readers
from workbench.data.tables import Raw
from workbench.errors import DataError

SQUARE = {"size": [48, 64], "counts": [0, 48, 48 * 63]}


class CsvReader(Reader):
    """`<split_by>.csv`, one line per expression: split, sentence; all about the first column of one image."""

    form = "csv"

    def source(self, folder: Path, name: str, split_by: str) -> Source:
        return Source(name, split_by, self.form, folder, (folder / f"{split_by}.csv",))

    def read(self, source: Source) -> Raw:
        raw = Raw(images=[("image 1", 1, fixtures.file_name(1), 48, 64)])
        raw.objects = [("object 7", 7, 1, "column", False, None, SQUARE)]
        for i, line in enumerate(source.files[0].read_text().splitlines()):
            split, sentence = line.split(",")
            raw.expressions.append((f"line {i}", split, 1, i, [7], i, sentence))
        return raw


@pytest.fixture
def csv() -> Iterator[str]:
    """A form and a data set that has it, registered as a new reader's author would."""
    readers.register("csv")(CsvReader())
    datasets.register("notes")(Dataset(("csv",)))
    yield "notes"
    del readers._things["csv"], datasets._things["notes"]


def test_each_known_data_set_names_forms_that_have_readers() -> None:
    forms = {name: dataset.forms for name, dataset in datasets.items()}
    assert forms == {
        "refshapes": ("refs", "grefs"),
        "refcoco": ("refs", "released"),
        "refcoco+": ("refs", "released"),
        "refcocog": ("refs", "released"),
        "grefcoco": ("grefs", "released"),
    }
    assert {form for names in forms.values() for form in names} == set(readers)
    assert all(reader.form == name for name, reader in readers.items())


def test_a_folder_of_one_s_own_is_read_by_the_first_reader_whose_files_are_there(tmp_path: Path) -> None:
    folder = fixtures.write_refcoco(tmp_path, "mine")
    assert find(folder, "mine", "unc").form == "refs"
    for file in fixtures.write_grefcoco(tmp_path / "other").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert find(folder, "mine", "unc").form == "refs"
    (folder / "refs(unc).p").unlink()
    assert find(folder, "mine", "unc").form == "grefs"
    (folder / "grefs(unc).json").rename(folder / "grefs(umd).json")
    with pytest.raises(
        DataError, match=r"missing file .*/mine/grefs\(unc\)\.json .*; there is grefs\(umd\)\.json, see"
    ):
        find(folder, "mine", "unc")


@pytest.mark.parametrize(
    ("name", "missing"),
    [("refcoco", "instances.json"), ("grefcoco", "instances.json"), ("refshapes", "instances.json")],
)
def test_where_nothing_is_there_the_preferred_form_s_file_is_missed(tmp_path: Path, name: str, missing: str) -> None:
    with pytest.raises(DataError) as error:
        find(tmp_path / name, name, "unc")
    assert str(error.value) == f"missing file {tmp_path / name / missing} (annotations of {name}, split by unc)"


def test_of_half_a_data_set_the_other_half_is_missed(tmp_path: Path) -> None:
    for write, name, file in (
        (fixtures.write_refcoco, "refcoco", "refs(unc).p"),
        (fixtures.write_grefcoco, "grefcoco", "grefs(unc).json"),
    ):
        folder = write(tmp_path)
        (folder / file).rename(tmp_path / "kept")
        with pytest.raises(DataError) as error:
            find(folder, name, "unc")
        assert str(error.value) == f"missing file {folder / file} (annotations of {name}, split by unc)"
        (tmp_path / "kept").rename(folder / file)
        (folder / "instances.json").unlink()
        with pytest.raises(
            DataError, match=rf"missing file .*instances\.json \(annotations of {name}, split by unc\)$"
        ):
            find(folder, name, "unc")


def test_a_new_reader_is_one_class_and_one_name(tmp_path: Path, csv: str) -> None:
    folder = tmp_path / csv
    fixtures.write_images(folder / "images", 1)
    (folder / "mine.csv").write_text("train,the left edge\nval,a column\n")
    data = read(find(folder, csv, "mine"))
    assert data.splits == ["train", "val"]
    assert data.expressions["sentence"].to_pylist() == ["the left edge", "a column"]
    assert data.objects["area"].to_pylist() == [48]
