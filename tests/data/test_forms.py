"""Every form that is read, against what its maker put in."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data import fixtures
from tests.data.fixtures import PICKLES, SENTENCES, SPLITS, mask_of
from workbench.config import DataConfig
from workbench.data import masks
from workbench.data.datasets import find, open_data
from workbench.data.loading import Expressions
from workbench.data.pickles import load_plain
from workbench.data.readers import read
from workbench.data.tables import UNKNOWN, ReferData
from workbench.errors import DataError
from workbench.evaluation.predictions import score_predictions

MASKS = [mask_of(4, 4, 12) | mask_of(10, 8, 12), mask_of(30, 10, 9), mask_of(44, 30, 15)]


def rows_of(data: ReferData) -> list[dict[str, Any]]:
    return data.expressions.to_pylist()


def check_single_targets(data: ReferData, rows: list[dict[str, Any]], splits: tuple[str, ...]) -> None:
    refs = fixtures.refs(8, splits)
    expected = [
        (ref["split"], ref["image_id"], ref["ref_id"], sentence["sent"])
        for ref in refs
        for sentence in ref["sentences"]
    ]
    assert sorted((r["split"], r["image_id"], r["ref_id"], r["sentence"]) for r in rows) == sorted(expected)
    for row in rows:
        (target,) = row["object_rows"]
        found = data.objects.slice(target, 1).to_pylist()[0]
        np.testing.assert_array_equal(masks.decode(found["rle"], *fixtures.SIZE), MASKS[row["ref_id"] % 3])
        assert found["area"] == MASKS[row["ref_id"] % 3].sum()
        assert data.images["file_name"][row["image_row"]].as_py() == fixtures.file_name(row["image_id"])


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog"])
@pytest.mark.parametrize("split_by", ["unc", "google", "umd"])
def test_the_refcoco_family(tmp_path: Path, name: str, split_by: str) -> None:
    data = read(find(fixtures.write_refcoco(tmp_path, name, split_by), name, split_by))
    assert data.splits == list(SPLITS[split_by])
    check_single_targets(data, rows_of(data), SPLITS[split_by])
    # In each image two persons and a cat: a person has one other of its class.
    assert [row["distractors"] for row in rows_of(data)[:6]] == [1, 1, 1, 0, 0, 0]
    assert [row["ann_ids"] for row in rows_of(data)[:3]] == [[100], [101], [101]]


@pytest.mark.parametrize("writer", PICKLES)
def test_pickles_of_both_pythons_hold_the_same(tmp_path: Path, writer: str) -> None:
    folder = fixtures.write_refcoco(tmp_path)
    refs = fixtures.refs(8, SPLITS["unc"])
    (folder / "refs(unc).p").write_bytes(PICKLES[writer](refs))
    assert load_plain(folder / "refs(unc).p") == refs
    data = read(find(folder, "refcoco", "unc"))
    assert data.expressions["sentence"].to_pylist().count("café on the right") == 16
    check_single_targets(data, rows_of(data), SPLITS["unc"])


def test_python_2_wrote_latin_1_strings(tmp_path: Path) -> None:
    for writer in ("python 2, protocol 0", "python 2, protocol 2"):
        content = PICKLES[writer](fixtures.refs(1, ("train",)))
        assert b"caf\xe9" in content or rb"caf\xe9" in content
        assert b"caf\xc3\xa9" not in content
        with pytest.raises(UnicodeDecodeError):
            pickle.loads(content)
        assert pickle.loads(content, encoding="latin1") == fixtures.refs(1, ("train",))


def test_grefcoco(tmp_path: Path) -> None:
    data = read(find(fixtures.write_grefcoco(tmp_path), "grefcoco", "unc"))
    rows = rows_of(data)
    several = [row for row in rows if len(row["ann_ids"]) == 2]
    nothing = [row for row in rows if not row["ann_ids"]]
    assert len(several) == len(nothing) == 8
    check_single_targets(data, [row for row in rows if len(row["ann_ids"]) == 1], SPLITS["unc"])
    parts = [data.objects["rle"][row].as_py() for row in several[0]["object_rows"]]
    whole = masks.decode(masks.union(parts, *fixtures.SIZE), *fixtures.SIZE)
    np.testing.assert_array_equal(whole, MASKS[0] | MASKS[2])
    assert several[0]["distractors"] == 1  # a person is left over, no cat
    assert nothing[0]["distractors"] == UNKNOWN


def test_grefcoco_leaves_crowds_out_of_a_target(tmp_path: Path) -> None:
    folder = fixtures.write_grefcoco(tmp_path)
    document = json.loads((folder / "instances.json").read_text())
    document["annotations"][2]["iscrowd"] = 1
    (folder / "instances.json").write_text(json.dumps(document))
    data = read(find(folder, "grefcoco", "unc"))
    (row,) = [r for r in rows_of(data) if r["sentence"] == "both of them" and r["image_id"] == 1]
    assert [data.objects["ann_id"][target].as_py() for target in row["object_rows"]] == [100]
    (alone,) = {tuple(r["object_rows"]) for r in rows_of(data) if r["ann_ids"] == [102]}
    assert alone == (), "what points at a crowd alone has an empty mask; it does not come to mean nothing"
    assert data.notes == (
        "1 reference to crowds among others, which are left out of the mask",
        "1 reference to crowds alone: without a mask, neither trained on nor scored",
    )
    read_at_all = {row["sent_id"] for row in rows_of(data)}
    unscored = {r["sent_id"] for r in rows_of(data) if r["ann_ids"] == [102]}
    scored = {int(i) for split in data.splits for i in Expressions(data, split).column("sent_id")}
    assert scored == read_at_all - unscored < read_at_all
    # Other people's files have a mask for it, which is neither missed nor in the way.
    predictions = [{"sent_id": i, "segmentation": None} for i in sorted(read_at_all)]
    (tmp_path / "all.json").write_text(json.dumps(predictions))
    frame = score_predictions(data, tmp_path / "all.json")
    assert set(frame["sent_id"]) == scored


def test_a_bare_annotation_id_and_a_pickle_are_read_as_grefcoco(tmp_path: Path) -> None:
    folder = fixtures.write_grefcoco(tmp_path)
    published = read(find(folder, "grefcoco", "unc"))
    refs = json.loads((folder / "grefs(unc).json").read_text())
    bare = [ref | {"ann_id": ref["ann_id"][0] if len(ref["ann_id"]) == 1 else ref["ann_id"]} for ref in refs]
    assert {type(ref["ann_id"]) for ref in bare} == {int, list}
    (folder / "grefs(unc).json").unlink()
    (folder / "grefs(unc).p").write_bytes(pickle.dumps(bare, protocol=2))
    assert read(find(folder, "grefcoco", "unc")).digest == published.digest
    (folder / "grefs(unc).p").rename(folder / "grefs(google).p")
    with pytest.raises(DataError, match=r"there is grefs\(google\)\.p, see data\.split_by"):
        find(folder, "grefcoco", "unc")


def test_the_text_as_it_was_written_is_another_data_set(tmp_path: Path) -> None:
    folder = fixtures.write_refcoco(tmp_path)
    document = load_plain(folder / "refs(unc).p")
    document[0]["sentences"][0]["raw"] = "The LEFT one, please!"
    (folder / "refs(unc).p").write_bytes(pickle.dumps(document))
    cleaned, raw = (
        open_data(DataConfig(dataset="refcoco", sentence=sentence), tmp_path) for sentence in ("sent", "raw")
    )
    assert rows_of(raw)[0]["sentence"] == "The LEFT one, please!" != rows_of(cleaned)[0]["sentence"]
    assert raw.digest != cleaned.digest
    assert raw.place is not None
    assert raw.place.name == "refcoco-unc+raw"
    assert cleaned.place is not None
    assert cleaned.place.name == "refcoco-unc"
    del document[1]["sentences"][0]["raw"]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(document))
    with pytest.raises(DataError, match=r"ref_id 1: sentences\[0\]: field 'raw' is missing"):
        read(find(folder, "refcoco", "unc", "raw"))
    released = fixtures.write_released(tmp_path / "released")
    with pytest.raises(DataError, match="the released form has one text per sentence"):
        read(find(released, released.name, "unc", "raw"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ann_id": []}, r"ann_id: is empty; \[-1\] marks a no-target expression"),
        ({"ann_id": [True]}, r"ann_id: a whole number is expected, not True"),
        ({"ann_id": "100"}, r"ann_id: a list is expected, not str"),
        ({"ann_id": [100, -1]}, r"no annotation with id -1"),
        ({"ann_id": [100, 200]}, r"annotation 200 is of image 2, not 1"),
    ],
)
def test_a_target_of_grefcoco_that_cannot_be_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = fixtures.write_grefcoco(tmp_path)
    refs = json.loads((folder / "grefs(unc).json").read_text())
    refs[0] |= change
    (folder / "grefs(unc).json").write_text(json.dumps(refs))
    with pytest.raises(DataError, match=r"grefs\(unc\)\.json: ref_id 0: .*" + message):
        read(find(folder, "grefcoco", "unc"))


def test_what_is_odd_in_grefcoco_is_noted(tmp_path: Path) -> None:
    folder = fixtures.write_grefcoco(tmp_path)
    refs = json.loads((folder / "grefs(unc).json").read_text())
    refs[0] |= {"ann_id": [100, 100]}
    refs[1] |= {"no_target": True}
    (folder / "grefs(unc).json").write_text(json.dumps(refs))
    data = read(find(folder, "grefcoco", "unc"))
    assert (rows_of(data)[0]["ann_ids"], rows_of(data)[0]["distractors"]) == ([100], 1)
    assert rows_of(data)[1]["ann_ids"] == [101]
    assert data.notes == (
        "1 reference with a target named twice, which counts once",
        "1 reference with an ann_id that contradicts no_target; the ann_id is used",
    )


@pytest.mark.parametrize("field", ["ref_id", "ann_id", "image_id", "split", "sentences"])
def test_a_value_that_contains_itself_many_times_is_shown_at_once(tmp_path: Path, field: str) -> None:
    folder = fixtures.write_refcoco(tmp_path)
    entangled: list[Any] = []
    for _ in range(60):
        entangled = [entangled, entangled]
    refs = fixtures.refs(8, SPLITS["unc"])
    refs[0][field] = entangled
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs))
    with pytest.raises(DataError, match=r"a list of 2|an object is expected, not list"):
        read(find(folder, "refcoco", "unc"))


def test_the_released_form(tmp_path: Path) -> None:
    data = read(find(fixtures.write_released(tmp_path), "refcoco", "unc"))
    assert data.splits == list(SPLITS["unc"])
    check_single_targets(data, rows_of(data), SPLITS["unc"])
    assert {row["distractors"] for row in rows_of(data)} == {UNKNOWN}
    assert data.image_folder.resolve() == (tmp_path / "images" / "coco").resolve()
    assert [row["sent_id"] for row in rows_of(data)] == list(range(8 * 6))


def test_originals_come_before_the_released_form(tmp_path: Path) -> None:
    fixtures.write_released(tmp_path)
    assert find(tmp_path / "refcoco", "refcoco", "unc").form == "released"
    fixtures.write_refcoco(tmp_path)
    assert find(tmp_path / "refcoco", "refcoco", "unc").form == "refs"


def test_another_split_s_file_is_pointed_out(tmp_path: Path) -> None:
    folder = fixtures.write_refcoco(tmp_path, "refcocog", "umd")
    with pytest.raises(DataError, match=r"missing file .*refs\(unc\)\.p .*; there is refs\(umd\)\.p, see data"):
        find(folder, "refcocog", "unc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"].append(d["annotations"][0]), r"annotations\[24\]: annotation id 100 occurs twice"),
        (lambda d: d["images"].append(d["images"][0]), r"images\[8\]: image id 1 occurs twice"),
        (lambda d: d["images"][2].pop("height"), r"images\[2\]: field 'height' is missing"),
        (lambda d: d["images"][2].update(height="48"), r"images\[2\]: height: a whole number .* not '48'"),
        (lambda d: d["images"][2].update(file_name="../up.jpg"), r"images\[2\]: file_name: a name without folders"),
        (lambda d: d["annotations"][1].update(category_id=99), r"annotations\[1\]: no category with id 99"),
        (lambda d: d["annotations"][1].update(image_id=99), r"annotations\[1\]: no image with id 99"),
        (lambda d: d["annotations"][1].update(bbox=[1, 2]), r"annotations\[1\]: bbox: four numbers"),
        (
            lambda d: d["annotations"][0].update(segmentation=[[1e18] * 8]),
            r"annotation 100\): .* far outside",
        ),
        (
            lambda d: d["annotations"][1]["segmentation"].update(size=[64, 48]),
            r"annotation 101\): .*is \[64, 48\]",
        ),
        (lambda d: d["annotations"][2]["segmentation"].update(counts="zz"), r"annotation 102\): .*counts are damaged"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(tmp_path: Path, change: Any, message: str) -> None:
    folder = fixtures.write_refcoco(tmp_path)
    document = json.loads((folder / "instances.json").read_text())
    change(document)
    (folder / "instances.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=message):
        read(find(folder, "refcoco", "unc"))


def test_polygons_without_an_area_are_left_out_and_noted(tmp_path: Path) -> None:
    folder = fixtures.write_refcoco(tmp_path)
    document = json.loads((folder / "instances.json").read_text())
    document["annotations"][0]["segmentation"].append([3.0, 4.0, 9.0, 9.0])
    (folder / "instances.json").write_text(json.dumps(document))
    data = read(find(folder, "refcoco", "unc"))
    np.testing.assert_array_equal(masks.decode(data.objects["rle"][0].as_py(), *fixtures.SIZE), MASKS[0])
    assert data.notes == ("1 annotation with polygons of fewer than three points, which are left out",)


def test_every_sentence_is_there_once(tmp_path: Path) -> None:
    data = read(find(fixtures.write_refcoco(tmp_path), "refcoco", "unc"))
    counted = [data.expressions["sentence"].to_pylist().count(sentence) for sentence in SENTENCES]
    assert counted == [24, 16, 8]
