"""A referent of a data set as a picture: the image, its mask, and the sentences that mean it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from workbench.data import masks
from workbench.data.images import read_image
from workbench.data.tables import ReferData
from workbench.errors import DataError, counted
from workbench.paper.fonts import families_of, fitted
from workbench.paper.style import WIDTH, new_figure, save, styled

LINE = 0.145
"""Height of a line of text, in inches."""


@styled
def show_referent(data: ReferData, index: int, folder: Path, name: str, split: str | None = None) -> list[Path]:
    """Draw one referent.

    Args:
        index: among the referents of the split, or of all, in the files' order, from 0.
        folder, name: the files are `<folder>/<name>.png`, .pdf and .json.

    Raises:
        DataError: there is no such referent, or its image cannot be read.
    """
    table = data.expressions if split is None else data.split(split)
    referents = pc.unique(table["ref_id"])
    where = data.name if split is None else f"{data.name} {split}"
    if not 0 <= index < len(referents):
        raise DataError(f"--index {index}: {where} has referents 0 to {len(referents) - 1}")
    rows = table.filter(pc.equal(table["ref_id"], referents[index])).to_pylist()
    first = rows[0]
    image_row, targets = first["image_row"], first["object_rows"]
    height, width = data.images["height"][image_row].as_py(), data.images["width"][image_row].as_py()
    objects = [data.objects.slice(row, 1).to_pylist()[0] for row in targets]
    parts = [data.counts(row, height, width) for row in targets]
    mask = masks.decode(masks.union(parts, height, width), height, width)
    image = read_image(data.image_file(image_row), (height, width))

    sentences = [fitted(f"{i}. {row['sentence']}", WIDTH - 0.2, 9) for i, row in enumerate(rows, start=1)]
    kinds = ", ".join(dict.fromkeys(o["category"] for o in objects)) or "nothing is meant"
    share = f"{100 * mask.mean():.1f} % of the image" if targets else "no mask"
    others = "" if first["distractors"] < 0 else f" · {counted(first['distractors'], 'other')} of its class"
    heading = f"{where} · referent {index} (ref_id {first['ref_id']}, split {first['split']})\n" + textwrap.fill(
        f"{data.images['file_name'][image_row]}, {width}×{height} px · {kinds} · {share}{others}", 110
    )
    panel = 3.4 * min(1.3, height / width)
    lines = sum(text.count("\n") + 1 for text in sentences)
    figure = new_figure(panel + LINE * (lines + 4) + 0.2)
    figure.suptitle(heading, ha="left", x=0.01, fontsize=8)
    left, right = figure.subplots(1, 2)
    for axes, picture in ((left, image), (right, _dimmed(image, mask))):
        axes.imshow(picture, interpolation="nearest" if width < 200 else "antialiased")
        axes.set_axis_off()
    if mask.any():
        for line, colour in ((2.2, "black"), (0.9, "white")):
            right.contour(mask, [0.5], colors=colour, linewidths=line)
    text = "\n".join(sentences)
    figure.supxlabel(text, ha="left", x=0.01, fontsize=9, fontfamily=families_of(text))
    source = {
        "dataset": data.name, "digest": data.digest, "ref_id": first["ref_id"], "split": first["split"],
        "ann_ids": first["ann_ids"], "sentences": [row["sentence"] for row in rows],
    }  # fmt: skip
    return save(figure, folder, name, source)


def _dimmed(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image with its colours where the mask is, and pale grey elsewhere: a colour laid over it would hide them."""
    grey = (image @ np.array([0.299, 0.587, 0.114]) * 0.35 + 155).astype(np.uint8)
    return np.where(mask[..., None] > 0, image, grey[..., None]).astype(np.uint8)
