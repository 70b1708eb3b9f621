"""Small data sets in each of the forms that the readers know, with the field lists of the originals."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

SIZE = (48, 64)
"""Height and width of every image."""
SPLITS = {
    "unc": ("train", "val", "testA", "testB"),
    "google": ("train", "val"),
    "umd": ("train", "val", "test"),
}
SENTENCES = ("left one", "café on the right", "the red thing above the chair")


def square(left: int, top: int, side: int) -> list[float]:
    return [float(v) for v in (left, top, left + side, top, left + side, top + side, left, top + side)]


def mask_of(left: int, top: int, side: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def compressed(mask: np.ndarray) -> dict[str, Any]:
    return {"size": list(SIZE), "counts": coco_mask.encode(np.asfortranarray(mask))["counts"].decode()}


def plain_rle(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.flatten(order="F")
    runs = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    return {"size": list(SIZE), "counts": runs if not flat[0] else [0, *runs]}


def instances(images: int) -> dict[str, Any]:
    """Three objects an image: polygons (two that overlap), plain RLE, and compressed RLE; two of one category."""
    annotations = []
    for image_id in range(1, images + 1):
        forms: list[tuple[Any, np.ndarray]] = [
            ([square(4, 4, 12), square(10, 8, 12)], mask_of(4, 4, 12) | mask_of(10, 8, 12)),
            (plain_rle(mask_of(30, 10, 9)), mask_of(30, 10, 9)),
            (compressed(mask_of(44, 30, 15)), mask_of(44, 30, 15)),
        ]
        for place, (segmentation, mask) in enumerate(forms):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            annotations.append(
                {
                    "segmentation": segmentation,
                    "area": float(mask.sum()),
                    "iscrowd": 0,
                    "image_id": image_id,
                    "bbox": [float(columns[0]), float(rows[0]), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)],
                    "category_id": (1, 1, 17)[place],
                    "id": 100 * image_id + place,
                }
            )
    return {
        "info": {"description": "This is stable 1.0 version of the 2014 MS COCO dataset.", "year": 2014},
        "images": [
            {
                "license": 1,
                "file_name": file_name(image_id),
                "coco_url": "",
                "height": SIZE[0],
                "width": SIZE[1],
                "date_captured": "2013-11-14 11:18:45",
                "flickr_url": "",
                "id": image_id,
            }
            for image_id in range(1, images + 1)
        ],
        "licenses": [{"url": "", "id": 1, "name": "any"}],
        "annotations": annotations,
        "categories": [
            {"supercategory": "person", "id": 1, "name": "person"},
            {"supercategory": "animal", "id": 17, "name": "cat"},
        ],
    }


def file_name(image_id: int) -> str:
    return f"COCO_train2014_{image_id:012d}.jpg"


def refs(images: int, splits: tuple[str, ...]) -> list[dict[str, Any]]:
    """One reference to each object; image k belongs to split k modulo their number."""
    found: list[dict[str, Any]] = []
    sent_id = 0
    for image_id in range(1, images + 1):
        for place in range(3):
            ann_id = 100 * image_id + place
            texts = SENTENCES[: place + 1]
            found.append(
                {
                    "sent_ids": list(range(sent_id, sent_id + len(texts))),
                    "file_name": f"{file_name(image_id)[:-4]}_{ann_id}.jpg",
                    "ann_id": ann_id,
                    "ref_id": len(found),
                    "image_id": image_id,
                    "split": splits[(image_id - 1) % len(splits)],
                    "sentences": [
                        {"tokens": text.split(), "raw": text.upper(), "sent_id": sent_id + i, "sent": text}
                        for i, text in enumerate(texts)
                    ],
                    "category_id": (1, 1, 17)[place],
                }
            )
            sent_id += len(texts)
    return found


def grefs(images: int) -> list[dict[str, Any]]:
    """gRefCOCO's: those of one target, and to each image one of two targets and one of none."""
    found = [
        {**ref, "ann_id": [ref["ann_id"]], "category_id": [ref["category_id"]], "no_target": False}
        for ref in refs(images, SPLITS["unc"])
    ]
    sent_id = 10_000
    for image_id in range(1, images + 1):
        targets = [100 * image_id, 100 * image_id + 2]
        for ann_ids, text in ((targets, "both of them"), ([-1], "the green dog")):
            found.append(
                {
                    "image_id": image_id,
                    "split": SPLITS["unc"][(image_id - 1) % 4],
                    "sentences": [{"sent": text, "raw": text, "sent_id": sent_id, "tokens": text.split()}],
                    "category_id": [1, 17] if ann_ids != [-1] else [-1],
                    "ann_id": ann_ids,
                    "sent_ids": [sent_id],
                    "ref_id": len(found),
                    "no_target": ann_ids == [-1],
                    "file_name": f"{file_name(image_id)[:-4]}.jpg",
                }
            )
            sent_id += 1
    return found


def write_images(folder: Path, images: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in range(1, images + 1):
        pixels = np.full((*SIZE, 3), 40 * image_id % 256, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / file_name(image_id), quality=90)


def python2_protocol_0(value: Any) -> bytes:
    """As Python 2's cPickle.dump(value) wrote: opcodes as lines of text, byte strings quoted, every container kept."""
    memo = 0

    def put() -> bytes:
        nonlocal memo
        memo += 1
        return f"p{memo}\n".encode()

    def write(value: Any) -> bytes:
        if isinstance(value, bool):
            return b"I01\n" if value else b"I00\n"
        if isinstance(value, int):
            return f"I{value}\n".encode()
        if isinstance(value, float):
            return f"F{value!r}\n".encode()
        if isinstance(value, str):
            return b"S" + repr(value.encode("latin1"))[1:].encode() + b"\n" + put()
        if isinstance(value, list):
            return b"(l" + put() + b"".join(write(item) + b"a" for item in value)
        return b"(d" + put() + b"".join(write(k) + write(v) + b"s" for k, v in value.items())

    return write(value) + b"."


def python2_protocol_2(value: Any) -> bytes:
    """As Python 2's cPickle.dump(value, f, 2) wrote: byte strings with a length before them, containers kept."""
    memo = 0

    def put() -> bytes:
        nonlocal memo
        memo += 1
        return b"q" + bytes([memo]) if memo < 256 else b"r" + struct.pack("<I", memo)

    def write(value: Any) -> bytes:
        if isinstance(value, bool):
            return b"\x88" if value else b"\x89"
        if isinstance(value, int):
            return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            raw = value.encode("latin1")
            return (b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))) + raw + put()
        if isinstance(value, list):
            return b"]" + put() + (b"(" + b"".join(map(write, value)) + b"e" if value else b"")
        return b"}" + put() + b"(" + b"".join(write(k) + write(v) for k, v in value.items()) + b"u"

    return b"\x80\x02" + write(value) + b"."


PICKLES = {
    "python 2, protocol 0": python2_protocol_0,
    "python 2, protocol 2": python2_protocol_2,
    "python 3, protocol 2": lambda value: pickle.dumps(value, protocol=2),
    "python 3, newest protocol": lambda value: pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL),
}


def write_refcoco(root: Path, name: str = "refcoco", split_by: str = "unc", images: int = 8) -> Path:
    """A data set of RefCOCO's family in `<root>/<name>`, its images where COCO puts them."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "instances.json").write_text(json.dumps(instances(images)))
    (folder / f"refs({split_by}).p").write_bytes(python2_protocol_0(refs(images, SPLITS[split_by])))
    write_images(root / "images" / "train2014", images)
    return folder


def write_grefcoco(root: Path, images: int = 8) -> Path:
    folder = root / "grefcoco"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "instances.json").write_text(json.dumps(instances(images)))
    (folder / "grefs(unc).json").write_text(json.dumps(grefs(images)))
    write_images(root / "images" / "train2014", images)
    return folder


def write_released(root: Path, images: int = 8) -> Path:
    """What the released code reads: json by split (training items a referent, others a sentence) and summed masks."""
    known = {a["id"]: a for a in instances(images)["annotations"]}
    document: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS["unc"]}
    masks = root / "masks" / "refcoco"
    masks.mkdir(parents=True, exist_ok=True)
    for ref in refs(images, SPLITS["unc"]):
        annotation = known[ref["ann_id"]]
        texts = [sentence["sent"] for sentence in ref["sentences"]]
        item = {
            "iid": ref["image_id"],
            "bbox": annotation["bbox"],
            "cat_id": annotation["category_id"] - 1,
            "mask_id": ref["ref_id"],
        }
        items = [item | {"refs": texts}] if ref["split"] == "train" else [item | {"refs": [text]} for text in texts]
        document[ref["split"]] += items
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            mask = coco_mask.decode(coco_mask.frPyObjects(segmentation, *SIZE)).sum(axis=2).astype(np.uint8)
            assert mask.max() == 2, "parts that overlap add up in the released masks"
        else:
            mask = mask_of(30, 10, 9) if ref["ann_id"] % 100 == 1 else mask_of(44, 30, 15)
        np.save(masks / f"{ref['ref_id']}.npy", mask)
    (root / "anns").mkdir(exist_ok=True)
    (root / "anns" / "refcoco.json").write_text(json.dumps(document))
    write_images(root / "images" / "coco", images)
    return root / "refcoco"
