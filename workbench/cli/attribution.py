"""The command that says which words and which patches made a mask."""

from __future__ import annotations

from enum import StrEnum
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
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.analysis.attribution import Explanation


class MethodName(StrEnum):
    """Ways to attribute, over words and over patches of the picture."""

    word_gradients = "word-gradients"
    word_ablation = "word-ablation"
    word_shapley = "word-shapley"
    patch_gradients = "patch-gradients"
    patch_occlusion = "patch-occlusion"


class TargetName(StrEnum):
    """The number that is attributed."""

    mask_logit = "mask_logit"
    picture_logit = "picture_logit"
    soft_iou = "soft_iou"


class WordBaselineName(StrEnum):
    """What stands for a word that is absent."""

    mask = "mask"
    pad = "pad"


class ImageBaselineName(StrEnum):
    """What stands for a part of the picture that is absent."""

    blurred = "blurred"
    mean = "mean"


@app.command()
def attribute(
    image: Annotated[Path, typer.Argument(help="An image file.", show_default=False)],
    sentences: Annotated[
        list[str], typer.Argument(metavar='"SENTENCE"...', help="What to look for in it.", show_default=False)
    ],
    run: Annotated[
        str,
        typer.Option(
            help="A trained run, as plan and status name it (<setting id>/seed<N>), its folder, a .safetensors file of "
            "a run or from import-released, or builtin: a shipped miniature, for refshapes' pictures.",
            show_default=False,
        ),
    ],
    method: Annotated[list[MethodName] | None, typer.Option(help="Repeat for more; by default all.")] = None,
    target: Annotated[
        TargetName,
        typer.Option(
            help="The number that is attributed: the mean logit inside the predicted mask, that of the whole picture, "
            "or the soft IoU with the --referent."
        ),
    ] = TargetName.mask_logit,
    referent: Annotated[
        Path | None, typer.Option(help="The true mask: an image of the picture's size, bright inside.")
    ] = None,
    word_baseline: Annotated[WordBaselineName, typer.Option(help="The embedding that an absent word has.")] = (
        WordBaselineName.mask
    ),
    image_baseline: Annotated[ImageBaselineName, typer.Option(help="What absent patches show.")] = (
        ImageBaselineName.blurred
    ),
    steps: Annotated[int, typer.Option(min=2, max=4096, help="Steps of integrated gradients, at first.")] = 128,
    orders: Annotated[
        int, typer.Option(min=1, max=100_000, help="How many orders of the words are sampled for Shapley values.")
    ] = 50,
    draws: Annotated[int, typer.Option(min=1, max=10_000, help="How many random attributions to compare with.")] = 30,
    memory: Annotated[float, typer.Option(min=0.001, help="At most this many GiB of activations at once.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Folder for the picture (PNG, PDF) and the values (JSON).")] = Path(
        "attributions"
    ),
    results: Results = RESULTS,
    checkpoint_root: CheckpointRoot = None,
    as_json: Json = False,
) -> None:
    """Say which words of a sentence and which patches of a picture made the mask, and how faithful that is.

    Each method's faithfulness (deletion, insertion, infidelity, SaCo) is compared with that of random attributions,
    and marked where it is not better. Several sentences share one picture and one scale.
    """
    from workbench.analysis.attribution import MAX_STEPS_FACTOR, METHODS, Effort, attribute
    from workbench.analysis.predictor import Predictor
    from workbench.data.images import read_upright
    from workbench.errors import DataError
    from workbench.files import check_writable
    from workbench.paper.figures.attribution_panel import draw
    from workbench.paper.style import save, styled

    if not all(sentence.strip() for sentence in sentences):
        raise DataError("a sentence is empty")
    check_writable(out, "name a folder of your own with --out")
    pixels = read_upright(image)
    truth = None if referent is None else _mask_of(referent)
    predictor = Predictor.load(run, results, checkpoint_root or Path("checkpoints"))
    explanations: list[Explanation] = []
    with progress_of("attributing", "sentences") as step:
        for number, sentence in enumerate(sentences, start=1):
            explanations.append(
                attribute(
                    predictor,
                    pixels,
                    sentence,
                    [name.value for name in method] if method else tuple(METHODS),
                    target.value,
                    truth,
                    word_baseline.value,
                    image_baseline.value,
                    Effort(steps, MAX_STEPS_FACTOR * steps, orders=orders),
                    draws,
                    int(memory * 2**30),
                )
            )
            step(number, len(sentences))
    document = {
        "image": str(image),
        "run": predictor.name,
        "draws": draws,
        "sentences": [explanation.document() for explanation in explanations],
    }
    files = styled(save)(draw(pixels, explanations, predictor.name), out, image.stem, document)
    if as_json:
        print_json(document)
        return
    for explanation in explanations:
        _print(explanation)
    print_written(files)


def _mask_of(file: Path) -> NDArray[np.bool_]:
    from workbench.data.images import read_upright

    bright: NDArray[np.bool_] = read_upright(file).max(axis=2) > 127
    return bright


def _print(explanation: Explanation) -> None:
    """The words' values and the patch that counts most, then what separates from random."""
    from workbench.analysis.attribution import METHODS
    from workbench.errors import counted

    print(f"\n{explanation.sentence!r}: {explanation.target} {explanation.answer:.3f} {explanation.unit}")
    words = [one for one in explanation.attributions if METHODS[one.method].over == "words"]
    if words:
        rows: list[tuple[Any, ...]] = [
            (word.text, *(_shown(one.values[place]) for one in words), "" if word.read == "read" else word.read)
            for place, word in enumerate(explanation.words)
            if word.tokens or word.read == "skipped"
        ]
        print_rows(("word", *(one.method for one in words), ""), rows)
        if cut := sum(word.read == "cut" and not word.tokens for word in explanation.words):
            print(f"{counted(cut, 'word')} more: past what the model reads")
    rows = [
        (
            one.method,
            f"{one.gap:+.3f}" if METHODS[one.method].complete else "–",
            *(f"{_shown(compared.value)} {compared.mark}" for compared in one.faithfulness.values()),
        )
        for one in explanation.attributions
    ]
    print_rows(("method", "completeness gap", *explanation.attributions[0].faithfulness), rows)
    print("* better than random attributions; ≈ does not separate from them; ? cannot be told")


def _shown(value: float) -> str:
    return "–" if value != value else f"{value:+.3f}"
