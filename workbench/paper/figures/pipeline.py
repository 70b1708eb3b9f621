"""One model in full, drawn from the built model: every stage with what it makes, its weights, and whether it learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from workbench.grids import Grid
from workbench.grids.evaluated import Evaluated
from workbench.paper.anatomy import PROJECTION, Anatomy, Entry, Stage, anatomy_of, as_document, from_document
from workbench.paper.figures.data import FigureData
from workbench.paper.figures.diagram import UNDRAWN, Canvas, Foot, Look, glyph_of, key_of, parts_of, short_count
from workbench.paper.style import MARGIN, PAGE, SMALL, WIDTH, line_height, wrapped

GAP = 0.16
"""Inches between models."""
LABELS = 3 * line_height(SMALL) + 0.05
"""Inches: name, shape and weights above a stage."""
TALL = 0.62
"""Inches: the height of the stages that work on the image."""
RISE = 0.62
"""Inches from the blocks down to the words' line."""
BODY = LABELS + TALL + RISE + 0.24 + 3 * line_height(SMALL) + 0.16
"""Inches: a model without its title."""
FIRST, LAST = 1.72, 4.70
"""Inches: where the blocks begin and end."""


def data(evaluated: Evaluated, results: Path) -> FigureData:
    """What the models are made of: of the settings that the report names, else the first of each variant that is fused.

    No run is read.
    """
    grid = evaluated.grid
    models = {name: anatomy_of(config) for name, config in grid.settings.items()}
    shown = list(models) if grid.report.settings else _one_of_each(grid, models)
    return FigureData(
        {
            "title": grid.title,
            "settings": shown,
            "labels": {name: grid.label(name) for name in shown},
            "models": {name: as_document(models[name]) for name in shown},
        }
    )


def _one_of_each(grid: Grid, models: Mapping[str, Anatomy]) -> list[str]:
    """The first setting of each variant that fuses blocks; where none does, the first setting."""
    first: dict[str, str] = {}
    for name, model in models.items():
        if model.entries:
            first.setdefault(model.variant, name)
    return list(first.values()) or list(grid.settings)[:1]


def draw(figure_data: FigureData) -> list[Figure]:
    """The picture, always two columns wide: a model below the other, as many on a page as fit."""
    document = figure_data.document
    models = {name: from_document(document["models"][name]) for name in document["settings"]}
    caption = (
        "Built models, stage by stage: what each makes (height × width × channels, or tokens × channels) and its "
        "weights (k thousand, M million), for one image and one expression."
    )
    foot = Foot(key_of(list(models.values())), caption, WIDTH)
    parts = parts_of(list(models.values()))
    titles = {name: _title(document["labels"][name], model) for name, model in models.items()}
    pages: list[list[str]] = [[]]
    for name in models:
        used = sum(_height(titles[one]) for one in (*pages[-1], name))
        if pages[-1] and used + foot.height + 2 * MARGIN > PAGE:
            pages.append([])
        pages[-1].append(name)
    figures = []
    for page in pages:
        canvas = Canvas(WIDTH, sum(_height(titles[name]) for name in page) + foot.height + 2 * MARGIN)
        top = MARGIN
        for name in page:
            canvas.text(MARGIN, top, titles[name], align="left", down="top", size=8)
            _Drawing(canvas, models[name], parts, top + _height(titles[name]) - BODY - GAP).draw()
            top += _height(titles[name])
        foot.draw(canvas, top)
        figures.append(canvas.figure)
    return figures


def _title(label: str, model: Anatomy) -> str:
    more = "".join(f"; {control}" for control in model.controls)
    return wrapped(f"{label}: {model.rule}{more}", WIDTH - 2 * MARGIN, 8)


def _height(title: str) -> float:
    return line_height(8) * (title.count("\n") + 1) + 0.06 + BODY + GAP


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


class _Drawing:
    """One model. `lane` is the middle of the image's stages, `words` the line of words to the blocks."""

    def __init__(self, canvas: Canvas, model: Anatomy, parts: Sequence[str], top: float) -> None:
        self.canvas, self.model, self.parts = canvas, model, parts
        self.top, self.box = top, top + LABELS
        self.lane = self.box + TALL / 2
        self.bottom = self.box + TALL
        self.words = self.bottom + RISE
        self.straight = self.words + 0.2
        self.pitch = (LAST - FIRST) / model.blocks
        self.block = self.pitch * 0.8
        self.cell = 0.18

    def draw(self) -> None:
        """Everything."""
        self._image_stages()
        self._blocks()
        self._text_encoder()
        self._decoder()
        if self.model.entries:
            self._fusion()

    def _stage(self, name: str) -> Stage:
        return self.model.stages[name]

    def _look(self, role: str, name: str) -> Look:
        return Look(role, self._stage(name).is_frozen)

    def _above(self, x: float, *lines: str) -> None:
        self.canvas.text(x, self.box - 0.06, "\n".join(lines), down="baseline")

    def _image_stages(self) -> None:
        canvas, side = self.canvas, self.model.side
        canvas.box(0.1, self.box + 0.08, 0.46, TALL - 0.16, Look(""))
        canvas.text(0.33, self.lane, "image")
        self._above(0.33, f"{side}×{side}×3")
        for left, right, name, label, reach in (
            (0.78, 1.2, "patches", "patches", TALL), (4.86, 5.14, "neck", "neck", TALL - 0.1),
        ):  # fmt: skip
            stage, top = self._stage(name), self.lane - reach / 2
            shape = stage.shape if name == "patches" else (*stage.shape[1:], stage.shape[0])
            canvas.box(left, top, right - left, reach, self._look("image", name))
            self._above((left + right) / 2, label, _shape(shape), short_count(stage.weights))
        for start, end in ((0.56, 0.78), (1.2, FIRST), (LAST - (self.pitch - self.block), 4.86), (5.14, 5.42)):
            canvas.arrow((start, self.lane), (end, self.lane))

    def _blocks(self) -> None:
        stage, canvas = self._stage("blocks"), self.canvas
        fused = {entry.layer for entry in self.model.entries}
        every = 1 if self.pitch > 0.2 else 4
        for layer in range(self.model.blocks):
            left = self._left(layer)
            canvas.cell(left, self.box, self.block, TALL, self._look("image", "blocks"))
            if layer in fused:
                canvas.cell(left, self.bottom - self.cell, self.block, self.cell, Look("words"))
            if layer + 1 < self.model.blocks:
                canvas.line((left + self.block, self.lane), (left + self.pitch, self.lane))
            if layer % every == 0:
                middle = left + self.block / 2
                if stage.is_frozen:
                    canvas.backing(middle, self.box + 0.11, str(layer), 6)
                canvas.text(middle, self.box + 0.11, str(layer), size=6, turned=every > 1)
        self._above(
            (FIRST + LAST) / 2,
            f"image encoder, {self.model.blocks} blocks",
            f"{_shape(stage.shape)} after each, {short_count(stage.weights)} weights",
        )

    def _left(self, layer: int) -> float:
        return FIRST + layer * self.pitch

    def _middle(self, layer: int) -> float:
        return self._left(layer) + self.block / 2

    def _text_encoder(self) -> None:
        canvas, stage = self.canvas, self._stage("text_encoder")
        top, bottom = self.words - 0.14, self.straight + 0.1
        canvas.box(0.78, top, 0.56, bottom - top, self._look("words", "text_encoder"))
        canvas.box(0.1, self.words - 0.02, 0.46, 0.24, Look(""))
        canvas.text(0.33, self.words + 0.1, "words")
        canvas.text(0.33, bottom + 0.04, f"{stage.shape[0]} tokens", down="top")
        canvas.arrow((0.56, self.words + 0.1), (0.78, self.words + 0.1))
        layers = f"{self.model.text_layers} layer{'s' * (self.model.text_layers != 1)}"
        if stage.is_frozen:
            canvas.backing(1.06, (top + bottom) / 2, "text\nencoder")
        canvas.text(1.06, (top + bottom) / 2, "text\nencoder")
        label = f"{layers}\n{_shape(stage.shape)}, {short_count(stage.weights)}"
        canvas.text(1.06, bottom + 0.04, label, down="top")

    def _decoder(self) -> None:
        canvas, model, stage = self.canvas, self.model, self._stage("mask_decoder")
        left, right, words = 5.42, 6.06, self._stage("decoder_words")
        canvas.box(left, self.box, right - left, TALL, Look(""))
        pitch = (right - left - 0.08) / model.decoder_layers
        for layer in range(model.decoder_layers):
            role = "added" if layer >= model.decoder_layers - model.added_decoder_layers else "decoder"
            x = left + 0.04 + layer * pitch
            canvas.cell(x + 0.1 * pitch, self.box + 0.06, 0.8 * pitch, TALL - 0.12, self._look(role, "mask_decoder"))
        self._above((left + right) / 2, "mask decoder", f"{model.decoder_layers} layers", short_count(stage.weights))
        canvas.arrow((right, self.lane), (6.3, self.lane))
        canvas.box(6.3, self.box + 0.08, 0.46, TALL - 0.16, Look(""))
        canvas.text(6.53, self.lane, "mask\nlogits")
        self._above(6.53, _shape(stage.shape))
        up = (left + right) / 2
        canvas.line((1.34, self.straight), (up + 0.005, self.straight))
        canvas.arrow((up, self.straight), (up, self.bottom))
        canvas.glyph(up - 0.35, self.straight, glyph_of("projection", self.parts), 0.13, words.is_frozen)
        label = f"words for the decoder\n{_shape(words.shape)}\n{short_count(words.weights)}"
        canvas.text(up, self.straight + 0.14, label, down="top")

    def _fusion(self) -> None:
        """The line of words to the blocks, its branches, and what stands below it."""
        canvas, model = self.canvas, self.model
        reading = [entry for entry in model.entries if "words" in entry.reads]
        start = 1.34
        if model.learned:
            canvas.line((1.46, self.words - 0.09), (1.46, self.words + 0.09), width=1.6)
            start = 1.46
        canvas.line((start, self.words), (self._middle(reading[-1].layer), self.words))
        common = [PROJECTION] * (self._stage(PROJECTION).weights > 0)
        common += [part for part in model.shared(reading[0]) if part not in UNDRAWN]
        for number, part in enumerate(common):
            marker = glyph_of("projection" if part == PROJECTION else part, self.parts)
            canvas.glyph(1.58 - 0.16 * (len(common) - 1 - number), self.words, marker, 0.13, self._frozen)
        previous: Entry | None = None
        for entry in model.entries:
            self._entry(entry, previous)
            previous = entry
        text = "\n".join(wrapped(line, LAST - FIRST + 0.2, SMALL) for line in self._weights())
        canvas.text((FIRST + LAST) / 2 + 0.05, self.straight + 0.07, text, down="top")

    @property
    def _frozen(self) -> bool:
        return self._stage("fusion").is_frozen

    def _entry(self, entry: Entry, previous: Entry | None) -> None:
        canvas, x, size = self.canvas, self._middle(entry.layer), min(0.13, 0.75 * self.pitch)
        drawn = [part for part in self.model.own(entry) if part not in UNDRAWN]
        hands_on = previous is not None and "last" in entry.reads
        beside = hands_on and "words" not in entry.reads
        into_glyph = hands_on and not beside and "cross-attention" in drawn
        if "words" in entry.reads:
            canvas.arrow((x, self.words), (x, self.bottom), head=4)
            for number, part in enumerate(drawn):
                y = self.words - 0.16 - 0.17 * number
                canvas.glyph(x, y, glyph_of(part, self.parts), size, self._frozen)
                if part == "cross-attention" and "image" in entry.reads:
                    gap = self._left(entry.layer) - (self.pitch - self.block) / 2
                    canvas.line((gap, self.lane), (gap, y), (x - size / 2, y), width=0.6)
                if part == "cross-attention" and into_glyph and previous is not None:
                    end = self._left(previous.layer) + 0.85 * self.block
                    canvas.line((end, self.bottom), (end, y), (x - size / 2, y), width=0.6)
        if previous is None or not hands_on or into_glyph:
            return
        start, y = self._left(previous.layer) + self.block, self.bottom - self.cell / 2
        if not (beside and drawn):
            canvas.arrow((start, y), (self._left(entry.layer), y), width=0.7, head=3)
            return
        low, before = self.bottom + 0.2, self._middle(previous.layer)
        canvas.line((before, self.bottom), (before, low), (x, low), width=0.6)
        canvas.arrow((x, low), (x, self.bottom), width=0.6, head=3)
        for number, part in enumerate(drawn):
            canvas.glyph((before + x) / 2, low + 0.15 * number, glyph_of(part, self.parts), 0.9 * size, self._frozen)

    def _weights(self) -> list[str]:
        """What the fusion makes and its weights, in all and part by part."""
        model, stage = self.model, self._stage("fusion")
        before = self._stage(PROJECTION).weights
        parts = [f"projection before all {before:,}"] * (before > 0)
        for part in model.parts:
            own = [entry.own[part] for entry in model.entries if part in entry.own]
            shared = next((entry.shared[part] for entry in model.entries if part in entry.shared), 0)
            if shared:
                parts.append(f"{part} {shared:,} for all")
            if own:
                same = len(set(own)) == 1
                parts.append(f"{part} {f'{len(own)}×{own[0]:,}' if same and len(own) > 1 else f'{sum(own):,}'}")
        what = "learned tokens in place of words" if model.learned else "words"
        made = f"{what} in {len(model.entries)} block{'s' * (len(model.entries) != 1)}, {_shape(stage.shape)} each"
        return [f"{made}: {stage.weights + before:,} weights", "; ".join(parts)]
