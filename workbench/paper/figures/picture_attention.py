"""Where words look in a picture of one's own: a panel for each word, in each part of the model that reads words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from workbench.analysis.maps import MEAN_OVER, PARTS, UNIT
from workbench.analysis.picture_maps import PictureMaps, SentenceMaps
from workbench.analysis.words import shortened, unread
from workbench.paper.figures.attention import KEY_HEIGHT, extent_of, over_picture, scale_key
from workbench.paper.figures.data import FigureData
from workbench.paper.figures.panels import Band, Foot, Panel, compose, photo
from workbench.paper.style import WIDTHS, save_picture, styled

MOST_SIDE = 640
"""Pixels along the longer side of a panel: more are not seen."""
FLATTEST = 4
"""Pictures whose sides differ by more than this factor are shown as if they differed by this."""
CUT = 0.995


def data(
    pixels: NDArray[np.uint8], found: PictureMaps, masks: Sequence[NDArray[np.bool_]], image: str, run: str
) -> FigureData:
    """What the figure shows: `map.S.P` of sentence S and part P (see `SentenceMaps.maps`), picture and masks.

    Args:
        pixels: height×width×3.
        masks: the predictions for the sentences, height×width.
        image, run: what they are called.
    """
    height, width = _shown_size(*pixels.shape[:2])
    shown = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))
    arrays: dict[str, NDArray[np.generic]] = {"image": shown}
    for s, mask in enumerate(masks):
        small = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        arrays[f"mask.{s}"] = np.asarray(small).astype(np.uint8)
    parts = [part for part in PARTS if part in found.sentences[0].maps]
    for s, one in enumerate(found.sentences):
        arrays |= {f"map.{s}.{p}": one.maps[part] for p, part in enumerate(parts)}
    everything = np.concatenate([one.maps[part].ravel() for one in found.sentences for part in parts])
    document = {
        "image": image,
        "run": run,
        "parts": parts,
        "unread_parts": list(found.unread),
        "sentences": [_about(one) for one in found.sentences],
        "extent": extent_of(found.placement, height, width, found.side),
        "scale": [0.0, max(round(float(np.nanquantile(everything, CUT)), 4), 1e-4)],
        "unit": UNIT,
        "mean_over": MEAN_OVER,
        "stretched": max(pixels.shape[:2]) > FLATTEST * min(pixels.shape[:2]),
    }
    return FigureData(document, arrays)


def _about(one: SentenceMaps) -> dict[str, object]:
    """Words with their places among a part's maps, of which the first is that of all words."""
    words = [{"word": word.text, "map": place} for place, word in enumerate(one.words, start=1) if word.tokens]
    return {"sentence": one.sentence, "words": words, "not_read": unread(one.words)}


def _shown_size(height: int, width: int) -> tuple[int, int]:
    """Of a picture as it is shown; small ones keep their pixels, but for those that are far from square."""
    scale = min(1.0, MOST_SIDE / max(height, width))
    least = max(height, width) * scale / FLATTEST
    return max(1, round(max(height * scale, least))), max(1, round(max(width * scale, least)))


def draw(figure_data: FigureData) -> list[Figure]:
    """The pages."""
    document, arrays = figure_data.document, figure_data.arrays
    image, bands = arrays["image"], []
    for s, one in enumerate(document["sentences"]):
        mask = arrays[f"mask.{s}"]
        for p, part in enumerate(document["parts"]):
            maps = arrays[f"map.{s}.{p}"]
            entries = [("all words", 0), *((shortened(word["word"]), word["map"]) for word in one["words"])]
            panels = [
                Panel(over_picture(image, mask, maps[place], document["extent"], document["scale"]), title)
                for title, place in entries
            ]
            heading = f"{part.capitalize()}: “{shortened(one['sentence'], 160)}”"
            bands.append(Band(heading, panels, _picture(image, mask), image.shape[0] / image.shape[1]))
    foot = Foot(caption(figure_data), KEY_HEIGHT, scale_key(document["scale"], WIDTHS[2]))
    return compose(bands, foot, 2, WIDTHS[2])


def caption(figure_data: FigureData) -> str:
    """What the maps are, and what is not shown."""
    document = figure_data.document
    not_read = [one["not_read"] for one in document["sentences"] if one["not_read"]]
    nobody = [f"“{shortened(one['sentence'], 60)}”" for s, one in enumerate(document["sentences"])
              if not figure_data.arrays[f"mask.{s}"].any()]  # fmt: skip
    parts = [
        f"{document['image']}, {document['run']}: attention of each word to the picture, in multiples of uniform "
        "attention; mean over heads and layers, of all words without [CLS] and [SEP]. One scale for all panels, cut at "
        "the 99.5th percentile; from its bottom to its top: from dark to bright parts of the picture; dotted: uniform "
        "attention. Outlined: the predicted mask.",
        f"Nothing found: {', '.join(nobody)}." if nobody else "",
        "" if PARTS[1] in document["parts"] else "The image encoder of this run reads no words.",
        "In this run's image encoder the image reads the words, and the words do not read the image: shown is what "
        "they would read."
        if document["unread_parts"] else "",
        f"Words not read: {'; '.join(dict.fromkeys(not_read))}." if not_read else "",
        "The picture is shown stretched." if document["stretched"] else "",
    ]  # fmt: skip
    return " ".join(part for part in parts if part)


def _picture(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Callable[[Axes], None]:
    return lambda axes: photo(axes, image, mask)


@styled
def save(figure_data: FigureData, folder: Path, name: str) -> list[Path]:
    """Write NAME.png (NAME-2.png … of further pages) and NAME.pdf."""
    return save_picture(draw(figure_data), folder, name)
