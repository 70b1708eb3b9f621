"""The command that segments pictures of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.options import (
    RESULTS,
    CheckpointRoot,
    Json,
    Results,
    app,
    print_json,
    print_rows,
    print_written,
    progress_of,
    warn,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.analysis.predictor import Predictor
    from workbench.analysis.words import Word

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


@app.command()
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar='IMAGE... "SENTENCE"...',
            help="Image files, and what to look for in each of them.",
            show_default=False,
        ),
    ],
    run: Annotated[
        str,
        typer.Option(
            help="A trained run, as plan and status name it (<setting id>/seed<N>), its folder, a .safetensors file of "
            "a run or from import-released, or builtin: a shipped miniature, for refshapes' pictures.",
            show_default=False,
        ),
    ],
    attention: Annotated[
        bool, typer.Option("--attention", help="Where each word looks in each picture too: a figure, and all maps.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for masks, overlays and predictions.json.")] = Path("predictions"),
    results: Results = RESULTS,
    checkpoint_root: CheckpointRoot = None,
    as_json: Json = False,
) -> None:
    """Segment what sentences refer to in pictures of your own, with any trained run or imported checkpoint.

    For each picture and sentence this writes a mask (black and white PNG) and an overlay, at the picture's own size,
    turned as the camera says. The score is the mean probability of the mask's pixels.
    """
    images, sentences = _images_and_sentences(inputs)
    from PIL import Image

    from workbench.analysis import words
    from workbench.analysis.predictor import Predictor
    from workbench.data.images import read_upright
    from workbench.files import check_writable, replacing, write_text
    from workbench.paper.overlay import overlay

    check_writable(out, "name a folder of your own with --out")
    pictures = [read_upright(image) for image in images]  # a broken one is named before a model is loaded
    predictor = Predictor.load(run, results, checkpoint_root or Path("checkpoints"))
    for sentence in sentences:
        words.check_sentence(sentence, predictor.tokenizer)
    not_read, spelt = (
        {sentence: _said(what, predictor, sentence) for sentence in sentences} for what in (words.unread, words.spelt)
    )
    written: list[Path] = []
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with progress_of("predicting", "images") as step:
        for number, (image, pixels) in enumerate(zip(images, pictures, strict=True)):
            name = (
                f"{image.stem}-{number + 1}" if [other.stem for other in images].count(image.stem) > 1 else image.stem
            )
            predictions = predictor(pixels, sentences)
            if attention:
                masks = [one.mask for one in predictions]
                written += _draw_attention(predictor, pixels, sentences, masks, image.name, out, name)
            for place, found in enumerate(predictions, start=1):
                mask_file, overlay_file = out / f"{name}-{place}.png", out / f"{name}-{place}-overlay.png"
                for file, picture in ((mask_file, found.mask), (overlay_file, overlay(pixels, found.mask))):
                    with replacing(file) as partial:
                        Image.fromarray(picture).save(partial, "PNG")
                rows.append(
                    {
                        "image": str(image),
                        "sentence": found.sentence,
                        "area": round(found.area, 4),
                        "score": round(found.score, 4),
                        "mask": str(mask_file),
                        "overlay": str(overlay_file),
                        "not_read": not_read[found.sentence],
                        "spelt": spelt[found.sentence],
                    }
                )
            step(number + 1, len(images))
    document: dict[str, Any] = {"run": predictor.name, "predictions": rows}
    if attention:
        document["attention"] = [str(file) for file in written]
    write_text(out / "predictions.json", json.dumps(document, indent=1) + "\n")
    if as_json:
        print_json(document)
        return
    print_rows(
        ("image", "sentence", "area", "score", "overlay"),
        [(r["image"], r["sentence"], f"{100 * r['area']:.1f} %", f"{r['score']:.2f}", r["overlay"]) for r in rows],
    )
    for sentence in not_read:
        if not_read[sentence]:
            warn(f"{sentence!r}: not read: {not_read[sentence]}")
        if spelt[sentence]:
            warn(f"{sentence!r}: the tokenizer knows only the letters of: {spelt[sentence]}")
    print_written(written)


def _said(what: Callable[[Sequence[Word]], str], predictor: Predictor, sentence: str) -> str:
    from workbench.analysis.words import words_of
    from workbench.errors import CheckpointError

    try:
        return what(words_of(sentence, predictor.tokenizer))
    except CheckpointError:  # a tokenizer that does not say which letters a token is of
        return ""


def _draw_attention(
    predictor: Predictor,
    pixels: NDArray[np.uint8],
    sentences: list[str],
    masks: list[NDArray[np.bool_]],
    image: str,
    out: Path,
    name: str,
) -> list[Path]:
    """Write `<name>-attention` as PNG, PDF, JSON and safetensors."""
    from workbench.analysis.picture_maps import picture_maps
    from workbench.files import write_text
    from workbench.paper.figures.picture_attention import data, save

    found = picture_maps(predictor, pixels, sentences)
    shown = data(pixels, found, masks, image, predictor.name)
    files = save(shown, out, f"{name}-attention")
    about, weights = out / f"{name}-attention.json", out / f"{name}-attention.safetensors"
    write_text(about, json.dumps(shown.document, indent=1, allow_nan=False) + "\n")
    found.save(weights)
    return [*files, about, weights]


def _images_and_sentences(inputs: list[str]) -> tuple[list[Path], list[str]]:
    from workbench.errors import DataError

    images, sentences = [], []
    for given in inputs:
        if _is_file(given):
            images.append(Path(given))
        elif given.lower().endswith(IMAGE_ENDINGS):
            raise DataError(f"missing image {given}")
        else:
            sentences.append(given)
    if not images:
        raise DataError("name at least one image file; none of these is one: " + ", ".join(map(repr, sentences)))
    if not all(sentence.strip() for sentence in sentences):
        raise DataError("a sentence is empty")
    if not sentences:
        raise DataError('say what to look for, in quotes, after the images: "the red circle on the left"')
    return images, sentences


def _is_file(given: str) -> bool:
    try:
        return Path(given).is_file()
    except (OSError, ValueError):  # a sentence that is longer than any file's name, or not valid text
        return False
