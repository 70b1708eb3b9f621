from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data import fixtures
from workbench.benchmarks import full_size
from workbench.config import DataConfig, RefshapesRecipe, RunConfig
from workbench.data import counts, datasets, refshapes
from workbench.data.check import check
from workbench.data.datasets import find, open_data, open_dataset, pinned
from workbench.data.loading import ReferringDataset, training_loader
from workbench.data.prepare import prepare
from workbench.data.prepared import NotPrepared, open_prepared, prepared_folder
from workbench.data.readers import read
from workbench.data.tables import ReferData
from workbench.errors import DataError

ROOT = Path(__file__).resolve().parent.parent.parent


def prepared(root: Path, name: str = "refcoco", split_by: str = "unc") -> ReferData:
    return prepare(find(root / name, name, split_by), prepared_folder(root, name, split_by))


def same_tables(one: ReferData, other: ReferData) -> bool:
    return all(getattr(one, name).equals(getattr(other, name)) for name in ("images", "objects", "expressions"))


@pytest.mark.parametrize("write", [fixtures.write_refcoco, fixtures.write_released, fixtures.write_grefcoco])
def test_what_is_prepared_is_what_was_read(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    name = write(tmp_path).name
    original = read(find(tmp_path / name, name, "unc"))
    found = prepared(tmp_path, name)
    assert same_tables(found, original)
    assert found.digest == original.digest
    assert (found.image_folder, found.folder) == (original.image_folder, tmp_path / name)
    assert not list((tmp_path / "prepared").glob(".*")), "nothing half-written is left"
    again = open_prepared(found.place or Path())
    assert same_tables(again, original)
    travelled = pickle.loads(pickle.dumps(again))
    assert same_tables(travelled, original)
    assert len(pickle.dumps(again)) < 1000, "mapped tables travel by name"


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    one = prepared(fixtures.write_refcoco(tmp_path / "one").parent)
    folder = fixtures.write_refcoco(tmp_path / "two")
    document = json.loads((folder / "instances.json").read_text())
    (folder / "instances.json").write_text(json.dumps(document, indent=3))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(fixtures.refs(8, fixtures.SPLITS["unc"])))
    assert prepared(tmp_path / "two").digest == one.digest
    document["annotations"][0]["segmentation"] = [fixtures.square(5, 4, 12)]
    (folder / "instances.json").write_text(json.dumps(document))
    assert prepared(tmp_path / "two").digest != one.digest


def test_files_that_changed_are_noticed_and_files_that_went_are_not_needed(tmp_path: Path) -> None:
    folder = fixtures.write_refcoco(tmp_path)
    before = prepared(tmp_path)
    config = DataConfig(dataset="refcoco")
    os.utime(folder / "instances.json")  # touched, with the same content
    assert open_data(config, tmp_path).digest == before.digest
    refs = fixtures.refs(8, fixtures.SPLITS["unc"])
    refs[0]["sentences"][0]["sent"] = "another"
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs))
    with pytest.raises(NotPrepared, match=r"refs\(unc\)\.p changed since it was prepared; .*data prepare refcoco"):
        open_prepared(prepared_folder(tmp_path, "refcoco", "unc"))
    after = open_data(config, tmp_path)
    assert after.digest != before.digest
    assert after.expressions["sentence"][0].as_py() == "another"
    shutil.rmtree(folder)
    assert open_data(config, tmp_path).digest == after.digest


def test_masks_of_the_released_form_that_changed_are_noticed(tmp_path: Path) -> None:
    fixtures.write_released(tmp_path)
    config = DataConfig(dataset="refcoco")
    before = open_data(config, tmp_path)
    mask = tmp_path / "masks" / "refcoco" / "4.npy"
    np.save(mask, 1 - np.clip(np.load(mask), 0, 1))
    after = open_data(config, tmp_path)
    assert after.digest != before.digest
    areas = [
        dict(zip(*(data.objects[name].to_pylist() for name in ("ann_id", "area")), strict=True))
        for data in (before, after)
    ]
    assert areas[1] == areas[0] | {4: 48 * 64 - areas[0][4]}


def test_originals_that_come_later_take_the_released_form_s_place(tmp_path: Path) -> None:
    fixtures.write_released(tmp_path)
    config = DataConfig(dataset="refcoco")
    released = open_data(config, tmp_path)
    fixtures.write_refcoco(tmp_path)
    assert "category" in released.objects["category"][0].as_py()
    assert open_data(config, tmp_path).objects["category"][0].as_py() == "person"


def test_preparing_again_leaves_the_same_tables_where_they_are(tmp_path: Path) -> None:
    fixtures.write_refcoco(tmp_path)
    place = prepared(tmp_path).place
    assert place is not None
    inodes = [(place / f"{name}.arrow").stat().st_ino for name in ("images", "objects", "expressions")]
    (tmp_path / "refcoco" / "instances.json").touch()
    prepared(tmp_path)
    assert [(place / f"{name}.arrow").stat().st_ino for name in ("images", "objects", "expressions")] == inodes


def test_an_id_needs_no_images_and_reads_files_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixtures.write_refcoco(tmp_path / "whole")
    known = pinned(config_of(tmp_path / "whole")).data.sha256
    fixtures.write_refcoco(tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "images")
    reads: list[int] = []
    original = datasets.read
    monkeypatch.setattr(datasets, "read", lambda *a, **k: reads.append(1) or original(*a, **k))
    assert [pinned(config_of(tmp_path / "bare")).data.sha256 for _ in range(3)] == [known] * 3
    assert len(reads) == 1
    with pytest.raises(DataError, match="missing image folder"):
        open_dataset(config_of(tmp_path / "bare"))


def test_damaged_tables_are_noticed(tmp_path: Path) -> None:
    fixtures.write_refcoco(tmp_path)
    place = prepared(tmp_path).place
    assert place is not None
    file = place / "expressions.arrow"
    content = bytearray(file.read_bytes())
    at = content.index(b"the red thing")
    content[at] = ord("T")
    file.write_bytes(content)
    with pytest.raises(DataError, match="tables were changed or damaged; make them again: workbench data prepare"):
        open_prepared(place)
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"expressions\.arrow: damaged"):
        open_prepared(place)


def test_a_pipe_by_a_file_s_name_is_not_waited_for(tmp_path: Path) -> None:
    fixtures.write_refcoco(tmp_path)
    image = tmp_path / "images" / "train2014" / fixtures.file_name(3)
    place = prepared(tmp_path).place
    assert place is not None
    image.unlink()
    os.mkfifo(image)
    (finding,) = check(open_prepared(place))
    assert finding.text() == f"broken or missing images: 1 ({image}: not a file but a pipe)"
    with pytest.raises(DataError, match=r"000000000003\.jpg: not a file"):
        prepared(tmp_path)
    (place / "objects.arrow").unlink()
    os.mkfifo(place / "objects.arrow")
    with pytest.raises(DataError, match=r"objects\.arrow: not a file"):
        open_prepared(place)


def test_a_failed_preparation_leaves_what_was_there(tmp_path: Path) -> None:
    fixtures.write_refcoco(tmp_path)
    before = prepared(tmp_path)
    image = tmp_path / "images" / "train2014" / fixtures.file_name(3)
    Image.new("RGB", (20, 20)).save(image)
    with pytest.raises(DataError, match=r"000000000003\.jpg is 20×20, its annotation says 48×64"):
        prepared(tmp_path)
    assert open_prepared(before.place or Path()).digest == before.digest
    image.write_bytes(b"text")
    with pytest.raises(DataError, match="cannot be decoded"):
        prepared(tmp_path)
    image.unlink()
    with pytest.raises(DataError, match=r"missing image COCO_train2014_000000000003\.jpg in"):
        prepared(tmp_path)


def test_where_nothing_can_be_written_the_originals_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixtures.write_refcoco(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    data = open_data(DataConfig(dataset="refcoco"), tmp_path)
    assert data.place is None
    assert not (tmp_path / "prepared").exists()


def config_of(root: Path, **data: Any) -> RunConfig:
    return RunConfig.parse(
        {"data": {"dataset": "refcoco", **data}, "training": {"steps": 1}, "machine": {"data_root": str(root)}}
    )


def test_the_digest_becomes_part_of_a_run_s_identity(tmp_path: Path) -> None:
    plain = config_of(tmp_path)
    assert pinned(plain) == plain, "what is not there cannot be known"
    folder = fixtures.write_refcoco(tmp_path)
    config = pinned(plain)
    assert config.data.sha256 == open_prepared(prepared_folder(tmp_path, "refcoco", "unc")).digest
    assert config.setting_id != plain.setting_id
    open_dataset(config)
    refs = fixtures.refs(8, fixtures.SPLITS["unc"])
    refs[0]["sentences"][0]["sent"] = "another"
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs))
    with pytest.raises(DataError, match=rf"data\.sha256 is {config.data.sha256}, but refcoco \(unc\) there has"):
        open_dataset(config)


def test_counts_are_set_beside_the_published(tmp_path: Path) -> None:
    found = counts.counts(prepared(fixtures.write_grefcoco(tmp_path).parent, "grefcoco"))
    assert found["train"] == {
        "refs": 10, "images": 2, "expressions": 16, "objects": 6, "multi-target expressions": 2,
        "no-target expressions": 2,
    }  # fmt: skip
    assert found["all"]["expressions"] == 64
    known = counts.published(ROOT / "results" / "reference" / "dataset_statistics.csv", "grefcoco", "unc")
    lines = counts.differences(found, known)
    assert "all: 64 expressions, published 278,232 (-278,168); source: secondary" in lines
    assert len(lines) == len(known) == 4
    met = [counts.Published("train", "refs", 10, "here"), counts.Published("test", "refs", 3, "there")]
    assert counts.differences(found, met) == ["test: 0 refs, published 3 (-3); source: there"]


def test_every_published_number_is_of_a_data_set_that_can_be_named() -> None:
    file = ROOT / "results" / "reference" / "dataset_statistics.csv"
    by_name = {key: counts.published(file, *key) for key in counts.PUBLISHED_AS}
    assert {key: len(found) for key, found in by_name.items()} == {
        ("refcoco", "unc"): 15, ("refcoco", "google"): 6, ("refcoco+", "unc"): 15, ("refcocog", "google"): 4,
        ("refcocog", "umd"): 8, ("grefcoco", "unc"): 4,
    }  # fmt: skip
    assert all(number.unit in counts.UNITS for found in by_name.values() for number in found)


def test_checking_finds_each_kind_of_fault(tmp_path: Path) -> None:
    folder = fixtures.write_refcoco(tmp_path, split_by="google")
    document = json.loads((folder / "instances.json").read_text())
    document["annotations"][0]["segmentation"] = [[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]
    document["annotations"][4]["bbox"] = [40.0, 10.0, 30.0, 9.0]
    (folder / "instances.json").write_text(json.dumps(document))
    refs = fixtures.refs(8, ("train", "val"))
    refs[5]["sentences"][0] |= {"sent": " "}
    refs[6] |= {"split": "val", "image_id": 1, "ann_id": 100}
    refs.append({**refs[0], "split": "val"})
    (folder / "refs(google).p").write_bytes(pickle.dumps(refs))
    image = tmp_path / "images" / "train2014" / fixtures.file_name(2)
    image.write_bytes(image.read_bytes()[:-300])
    found = {f.what: f for f in check(read(find(folder, "refcoco", "google")), lambda s: [len(t) for t in s], 12)}
    assert {what: finding.count for what, finding in found.items()} == {
        "broken or missing images": 1,
        "empty masks": 1,
        "boxes that reach outside their image": 1,
        "expressions without words": 1,
        "sentence ids that occur twice": 1,
        "expressions on several splits": 1,
        "referents on several splits": 1,
        "images that several splits share": 1,
        "sentences of more than 12 tokens, which are cut": 24,
    }
    assert "annotation 201 by 6.0 px" in found["boxes that reach outside their image"].text()
    assert fixtures.file_name(1) + " on train and val" in found["images that several splits share"].text()
    assert "000000000002.jpg" in found["broken or missing images"].text()
    assert found["empty masks"].wrong
    assert not found["images that several splits share"].wrong
    assert check(read(find(fixtures.write_refcoco(tmp_path / "good"), "refcoco", "unc"))) == []


def test_a_full_size_maker_holds_the_numbers_it_states(tmp_path: Path) -> None:
    data = prepared(full_size.make(tmp_path, scale=0.01).parent)
    assert len(data.expressions) == 1422
    assert counts.counts(data)["all"]["refs"] == 500
    assert data.splits == ["train", "val", "testA", "testB"]
    assert (full_size.REFERENTS, full_size.EXPRESSIONS) == (50_000, 142_210)
    areas = np.array(data.objects["area"].to_pylist())
    assert (areas > 0).all()


@pytest.mark.parametrize("targets", ["one", "any"])
def test_batches_of_prepared_refshapes_are_those_of_its_original_files(tmp_path: Path, targets: str) -> None:
    recipe = RefshapesRecipe(seed=2, train_images=12, eval_images=2, width=80, height=56, targets=targets)
    original = read(find(refshapes.ensure(tmp_path, recipe), "refshapes", "unc"))
    config = DataConfig(recipe=recipe)
    ready = open_data(config, tmp_path)
    assert (original.place, ready.place is None) == (None, False)
    for one, other in zip(*(batches(data, config) for data in (original, ready)), strict=True):
        assert one["sentence"] == other["sentence"]
        assert all(torch.equal(one[key], other[key]) for key in ("pixels", "mask", "content"))


def batches(data: ReferData, config: DataConfig) -> list[dict[str, Any]]:
    return list(training_loader(ReferringDataset(data, "train", 64, config), config, 5, 6, seed=1))
