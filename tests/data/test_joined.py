from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.fixtures import compressed, file_name, mask_of
from workbench.config import RunConfig
from workbench.data import masks
from workbench.data.datasets import open_dataset
from workbench.data.joined import joined
from workbench.data.loading import Expressions
from workbench.data.tables import Raw, ReferData, assemble
from workbench.errors import DataError
from workbench.results.folders import RunFolder
from workbench.training.train import train

REFSHAPES = ["refshapes", {"name": "second", "dataset": "refshapes", "recipe": {"seed": 4, "version": 2}}]


def made(folder: Path, splits: dict[int, str], size: tuple[int, int] = (48, 64)) -> ReferData:
    """One object and two sentences an image, of which the split is given; the side of its square is the image's id."""
    raw = Raw()
    for place, (image_id, split) in enumerate(splits.items()):
        where = f"image {image_id}"
        raw.images.append((where, image_id, file_name(image_id), *size))
        segmentation = compressed(mask_of(2, 2, image_id)) if size == (48, 64) else None
        raw.objects.append(
            (where, 100 + image_id, image_id, "cat", False, None, segmentation or [[1.0, 1, 9, 1, 9, 9]])
        )
        for k in range(2):
            raw.expressions.append((where, split, image_id, place, [100 + image_id], 2 * place + k, f"cat {image_id}"))
    return assemble(raw, folder.name, folder, folder)


def keys(data: ReferData, *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(data.expressions[name].to_pylist() for name in names), strict=True))


def test_an_image_of_any_members_other_splits_is_not_trained_on(tmp_path: Path) -> None:
    one = made(tmp_path, {1: "train", 2: "train", 3: "val"})
    # It trains on an image of the first one's val, and the first one on an image of its test split.
    other = made(tmp_path, {2: "train", 3: "train", 4: "val", 1: "test"})
    data = joined({"one": one, "other": other}, "train")
    assert data.splits == ["train", "one/val", "other/val", "other/test"]
    assert set(keys(data, "split", "image_id")) == {
        ("train", 2), ("one/val", 3), ("other/val", 4), ("other/test", 1),
    }  # fmt: skip
    assert len(data.split("train")) == 4
    assert data.images["image_id"].to_pylist() == [1, 2, 3, 4]
    assert [note.partition(" left out")[0] for note in data.notes] == [
        f"{name}: 2 expressions about 1 image" for name in ("one", "other")
    ]
    assert data.notes[0].endswith("2 expressions left")


def test_keys_and_ids_of_members_do_not_collide_and_the_first_keeps_its_own(tmp_path: Path) -> None:
    splits = {1: "train", 2: "val"}
    one, other = made(tmp_path, splits), made(tmp_path, {5: "train", 6: "val"})
    data = joined({"one": one, "other": other}, "train")
    assert keys(data, "ref_id", "sent_id")[:4] == keys(one, "ref_id", "sent_id")
    assert len(set(keys(data, "split", "ref_id", "sent_id"))) == len(set(keys(data, "sent_id"))) == 8
    assert len(set(keys(data, "ref_id"))) == 4
    for split, image_id in (("other/val", 6), ("one/val", 2)):
        for expression in Expressions(data, split):
            assert expression.image_id == image_id
            assert masks.area(expression.rle, 48, 64) == image_id**2
            assert expression.file_name == file_name(image_id)


def test_images_of_other_folders_are_others_but_cocos_are_known_by_name(tmp_path: Path) -> None:
    def renamed(folder: Path) -> ReferData:
        folder.mkdir()
        data = made(folder, {1: "train", 2: "val"})
        names = [name[-6:] for name in data.images["file_name"].to_pylist()]
        return replace(data, images=data.images.set_column(1, "file_name", [names]))

    data = joined({"a": renamed(tmp_path / "a"), "b": renamed(tmp_path / "b")}, "train")
    assert data.images["image_id"].to_pylist() == [1, 2, 3, 4]
    assert data.images["file_name"].to_pylist() == ["a/01.jpg", "a/02.jpg", "b/01.jpg", "b/02.jpg"]
    assert data.image_file(3) == tmp_path.resolve() / "b" / "02.jpg"
    assert sorted(set(keys(data, "split", "image_id"))) == [("a/val", 2), ("b/val", 4), ("train", 1), ("train", 3)]
    assert data.objects["image_id"].to_pylist() == [1, 2, 3, 4]
    copy = made(tmp_path / "b", {2: "train", 7: "train", 8: "val"})
    coco = joined({"a": made(tmp_path / "a", {1: "train", 2: "val"}), "b": copy}, "train")
    assert {image for split, image in keys(coco, "split", "image_id") if split == "train"} == {1, 7}


def test_what_cannot_be_joined_is_said(tmp_path: Path) -> None:
    one = made(tmp_path, {1: "train", 2: "val"})
    with pytest.raises(DataError, match=r"other: COCO_\w+\.jpg is 40×40, and 48×64 in another data set of the list"):
        joined({"one": one, "other": made(tmp_path, {1: "train", 3: "val"}, (40, 40))}, "train")
    with pytest.raises(DataError, match=r"one&other: every image of train is in another split of a member"):
        joined({"one": one, "other": made(tmp_path, {2: "train", 1: "val"})}, "train")
    with pytest.raises(DataError, match=r"has no split 'train'; it has val"):
        joined({"one": one, "other": made(tmp_path, {4: "val"})}, "train")


def test_a_run_trains_on_all_members_and_is_evaluated_on_the_splits_of_each(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    splits = ["refshapes/val", "second/testA"]
    config = make_config(
        data__dataset=REFSHAPES,
        evaluation__splits=splits,
        training__steps=3,
        text_encoder__name="bert_mini2",
        text_encoder__max_tokens=18,
    )
    data = open_dataset(config)
    assert data.digest == open_dataset(config).digest
    alone = [
        open_dataset(make_config(data__recipe=part.recipe.model_dump())) for part in config.data.parts if part.recipe
    ]
    assert len(data.split("train")) == sum(len(one.split("train")) for one in alone)
    assert len(data.images) == sum(len(one.images) for one in alone)
    folder = RunFolder.of(tmp_path, config, 0)
    train(config, 0, folder)
    assert folder.name.startswith("refshapes_second-vit_mini-")
    record = folder.record()
    assert list(record.metrics) == splits
    assert RunConfig.parse(record.config).setting_id == config.setting_id
    frame = folder.expressions()
    assert not frame.duplicated(["ref_id", "sent_id"]).any()
    second = frame[frame["split"] == "second/testA"]
    assert len(second) == len(alone[1].split("testA"))
    areas = [masks.area(e.rle, e.height, e.width) for e in Expressions(alone[1], "testA")]
    assert np.array_equal(np.sort(second["target_area"]), np.sort(areas))
    event = folder.log().last("data")
    assert event is not None
    assert [note.partition(" left out")[0] for note in event.details()["notes"]][:2] == [
        "refshapes: 0 expressions about 0 images", "second: 0 expressions about 0 images",
    ]  # fmt: skip


def test_a_split_without_its_member_lists_those_there_are(make_config: Callable[..., RunConfig]) -> None:
    with pytest.raises(
        DataError, match=r"refshapes&second has no split 'val'; it has train, refshapes/val, .*second/val"
    ):
        open_dataset(make_config(data__dataset=REFSHAPES))


def test_a_member_that_changed_is_refused(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = make_config(data__dataset=REFSHAPES, evaluation__splits=["second/val"])
    wrong = [member.model_copy(update={"sha256": "0" * 64}) for member in config.data.members]
    data = config.data.model_copy(update={"members": tuple(wrong)})
    with pytest.raises(DataError, match=r"data\.sha256 is 000.*, but refshapes \(unc\) there has "):
        open_dataset(config.model_copy(update={"data": data}))
