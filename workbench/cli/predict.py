"""The command that segments pictures of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.options import RESULTS, CheckpointRoot, Json, Results, app, print_json, print_rows, progress_of

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
            help="A trained run, as plan and status name it (<setting id>/seed<N>), its folder, or a .safetensors file "
            "of a run or from import-released.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for masks, overlays and predictions.json.")] = Path("predictions"),
    results: Results = RESULTS,
    checkpoint_root: CheckpointRoot = None,
    as_json: Json = False,
) -> None:
    """Segment what sentences refer to in pictures of your own, with any trained run or imported checkpoint.

    For each picture and sentence this writes a mask (black and white PNG) and an overlay, at the picture's own size.
    The score is the mean probability of the mask's pixels.
    """
    images, sentences = _images_and_sentences(inputs)
    from PIL import Image

    from workbench.analysis.predictor import Predictor
    from workbench.data.images import read_image
    from workbench.files import replacing, write_text
    from workbench.paper.overlay import overlay

    pictures = [read_image(image) for image in images]  # a broken one is named before a model is loaded
    predictor = Predictor.load(run, results, checkpoint_root or Path("checkpoints"))
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with progress_of("predicting", "images") as step:
        for number, (image, pixels) in enumerate(zip(images, pictures, strict=True)):
            name = (
                f"{image.stem}-{number + 1}" if [other.stem for other in images].count(image.stem) > 1 else image.stem
            )
            for place, found in enumerate(predictor(pixels, sentences), start=1):
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
                    }
                )
            step(number + 1, len(images))
    document = {"run": predictor.name, "predictions": rows}
    write_text(out / "predictions.json", json.dumps(document, indent=1) + "\n")
    if as_json:
        print_json(document)
        return
    print_rows(
        ("image", "sentence", "area", "score", "overlay"),
        [(r["image"], r["sentence"], f"{100 * r['area']:.1f} %", f"{r['score']:.2f}", r["overlay"]) for r in rows],
    )


def _images_and_sentences(inputs: list[str]) -> tuple[list[Path], list[str]]:
    from workbench.errors import DataError

    images, sentences = [], []
    for given in inputs:
        if Path(given).is_file():
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
