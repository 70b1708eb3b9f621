"""How long the explorer of attention takes to answer, in seconds; part of `workbench bench trace`.

Three runs side by side (default SAM, E-DIT and L-DIT on the shipped vit_mini, as the demo has them) and a picture of
640×480 pixels, as COCO's. Each figure is the median over several choices that were not made before, from a change of
the widget to the finished picture, with the runs' weights loaded.

    explorer_choice_s: another layer, head or word; the maps are kept from before.
    explorer_sentence_s: another sentence, so that all runs compute anew.
    explorer_gradient_s: another sentence by rollout × gradient, so that all runs also run backwards.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from workbench.analysis.explorer import Explorer, Picture
from workbench.analysis.predictor import Predictor
from workbench.benchmarks.race import Report
from workbench.config import RunConfig
from workbench.models.build import build_model
from workbench.models.text_encoder import load_tokenizer
from workbench.paper.explorer_view import ExplorerView

VARIANTS = ("default", "e_dit", "l_dit")
HEIGHT, WIDTH = 480, 640
ROUNDS = 9


def run(report: Report) -> dict[str, float]:
    """All figures; see the module."""
    view = ExplorerView(_explorer())
    sentences = (f"the {size} {colour} {shape}" for size, colour, shape in _words())

    def new_sentence() -> None:
        view.sentence.value = next(sentences)

    choices = {"explorer_choice_s": (_choices(view), "words to image"),
               "explorer_sentence_s": (itertools.repeat(new_sentence), "words to image"),
               "explorer_gradient_s": (itertools.repeat(new_sentence), "rollout × gradient")}  # fmt: skip
    found = {}
    for name, (choose, method) in choices.items():
        view.method.value = method
        found[name] = _median(choose)
        report(f"{name}: {1000 * found[name]:.0f} ms")
    return found


def _explorer() -> Explorer:
    predictors = {}
    for variant in VARIANTS:
        values = {"fusion": {"variant": variant}, "training": {"steps": 1, "batch_size": 1},
                  "text_encoder": {"name": "bert_mini2", "max_tokens": 18}}  # fmt: skip
        config = RunConfig.parse(values)
        torch.manual_seed(0)
        tokenizer = load_tokenizer(config.text_encoder, config.machine.checkpoint_root)
        predictors[variant] = Predictor(build_model(config), tokenizer, config, variant)
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Explorer(predictors, [Picture("noise", pixels, {"the red circle on the left": np.eye(HEIGHT, WIDTH) > 0})])


def _words() -> Iterator[tuple[str, ...]]:
    return itertools.product(("small", "large"), ("red", "green", "blue", "yellow"), ("circle", "square", "triangle"))


def _choices(view: ExplorerView) -> Iterator[Callable[[], None]]:
    """Another layer, one of its heads and another word in turn; a new layer begins with the mean of its heads."""
    for turn in itertools.count(1):
        layers = list(view.layer.options)
        yield functools.partial(setattr, view.layer, "value", layers[turn % len(layers)])
        for widget in (view.head, view.word):
            yield functools.partial(_set_to_one, widget, turn)


def _set_to_one(widget: Any, turn: int) -> None:
    """Any but the first option, which stands for all."""
    widget.value = widget.options[1 + turn % (len(widget.options) - 1)][1]


def _median(choices: Iterator[Callable[[], None]]) -> float:
    """Seconds of a choice, the first one left out."""
    seconds = []
    for choose in itertools.islice(choices, ROUNDS + 1):
        began = time.perf_counter()
        choose()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])
