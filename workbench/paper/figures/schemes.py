"""Fusion schemes, drawn from the built models: where words enter each setting's SAM, through what, and what learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from workbench.grids.evaluated import Evaluated
from workbench.paper.anatomy import PROJECTION, Anatomy, anatomy_of, as_document, from_document
from workbench.paper.figures.data import FigureData, width_of
from workbench.paper.figures.diagram import UNDRAWN, Canvas, Foot, Look, glyph_of, key_of, parts_of, short_count
from workbench.paper.style import MARGIN, PAGE, SMALL, line_height, wrapped

ACROSS = {1: 2, 2: 5}
"""Panels in a line, by the figure's columns."""
WIDEST = 1.75
"""Inches: of a panel."""
GAP = 0.12
"""Inches between panels, across and down."""
BLOCKS = 1.0
"""Inches: the height of the image encoder's blocks."""
LAYER = 0.085
"""Inches from one layer of the mask decoder to the next."""
TEXT = 0.32
"""Inches: the height of the text encoder."""
RISE = 0.2
"""Inches from the text encoder up to the blocks."""


def data(evaluated: Evaluated, results: Path) -> FigureData:
    """What each setting's model is made of; no run is read."""
    grid = evaluated.grid
    return FigureData(
        {
            "title": grid.title,
            "settings": list(grid.settings),
            "labels": {name: grid.label(name) for name in grid.settings},
            "models": {name: as_document(anatomy_of(config)) for name, config in grid.settings.items()},
        }
    )


def draw(figure_data: FigureData) -> list[Figure]:
    """The picture: a panel per setting, from the image at the bottom to the mask at the top."""
    document = figure_data.document
    columns, width = width_of(document)
    models = {name: from_document(document["models"][name]) for name in document["settings"]}
    parts = parts_of(list(models.values()))
    lines = -(-len(models) // ACROSS[columns])
    across = -(-len(models) // lines)
    side = min(WIDEST, (width - 2 * MARGIN - GAP * (across - 1)) / across)
    differing = len({model.text_layers for model in models.values()}) > 1
    panels = [
        _Panel(document["labels"][name], model, side, parts, differing, max(m.decoder_layers for m in models.values()))
        for name, model in models.items()
    ]
    rows = [panels[start : start + across] for start in range(0, len(panels), across)]
    foot = Foot(key_of(list(models.values())), _caption(document, models), width)
    pages: list[list[list[_Panel]]] = [[]]
    for row in rows:
        if pages[-1] and sum(map(_height, [*pages[-1], row])) + foot.height + 2 * MARGIN > PAGE:
            pages.append([])
        pages[-1].append(row)
    return [_page(page, foot, width, side) for page in pages]


def _caption(document: Any, models: Any) -> str:
    shared = any(entry.shared for model in models.values() for entry in model.entries)
    once = " What several blocks share is drawn once, before their arrows part." if shared else ""
    bar = (
        " A bar where the words' way begins: learned tokens in their place."
        if any(m.learned for m in models.values())
        else ""
    )
    what = "each setting's model as it is built, the first block lowest; below it how many weights learn."
    return f"{document['title']}: {what}{once}{bar}"


def _height(row: Sequence[_Panel]) -> float:
    return max(panel.title_height for panel in row) + max(panel.body + panel.foot_height for panel in row) + GAP


def _page(rows: Sequence[Sequence[_Panel]], foot: Foot, width: float, side: float) -> Figure:
    canvas = Canvas(width, sum(map(_height, rows)) + foot.height + 2 * MARGIN)
    top = MARGIN
    for row in rows:
        left = (width - len(row) * side - (len(row) - 1) * GAP) / 2
        for number, panel in enumerate(row):
            panel.draw(canvas, left + number * (side + GAP), top, max(one.title_height for one in row))
        top += _height(row)
    foot.draw(canvas, top)
    return canvas.figure


@dataclass(frozen=True)
class _Panel:
    """One setting.

    Attributes:
        width: in inches.
        parts: of all settings, so that each has its glyph.
        tells_layers: whether the settings differ in the text encoder's layers.
        most_layers: of a mask decoder in the figure, which all panels leave room for.
    """

    label: str
    model: Anatomy
    width: float
    parts: Sequence[str]
    tells_layers: bool
    most_layers: int

    @property
    def title(self) -> str:
        """Its label, in lines."""
        return wrapped(self.label, 0.88 * self.width, SMALL)

    @property
    def title_height(self) -> float:
        """Inches."""
        return line_height(SMALL) * (self.title.count("\n") + 1) + 0.05

    @property
    def note(self) -> str:
        """What stands below it: how much learns, and what the drawing cannot show."""
        stages = self.model.stages.values()
        trained, weights = sum(stage.trained for stage in stages), sum(stage.weights for stage in stages)
        learns = (
            f"all {short_count(weights)}" if trained == weights else f"{short_count(trained)} of {short_count(weights)}"
        )
        lines = [f"{learns} learn"]
        if self.tells_layers:
            lines.append(f"text encoder: {self.model.text_layers} layer{'s' * (self.model.text_layers != 1)}")
        lines += self.model.controls
        return "\n".join(wrapped(line, self.width, SMALL) for line in lines)

    @property
    def foot_height(self) -> float:
        """Inches."""
        return line_height(SMALL) * (self.note.count("\n") + 1) + 0.04

    @property
    def body(self) -> float:
        """Inches: of the drawing itself."""
        return 0.27 + _decoder_height(self.most_layers) + 0.3 + BLOCKS + RISE + TEXT + 0.24

    def draw(self, canvas: Canvas, left: float, top: float, title_height: float) -> None:
        """At a place, its title in so many inches."""
        middle = left + self.width / 2
        canvas.text(middle, top + title_height - 0.06, self.title, down="baseline", bold=True)
        _Drawing(canvas, self, left, top + title_height).draw()
        canvas.text(middle, top + title_height + self.body + 0.02, self.note, down="top")


def _decoder_height(layers: int) -> float:
    return 0.19 + LAYER * layers


class _Drawing:
    """A panel's drawing; `x` scales places across to the panel's width, `y` counts down from its top."""

    def __init__(self, canvas: Canvas, panel: _Panel, left: float, top: float) -> None:
        self.canvas, self.panel, self.model = canvas, panel, panel.model
        self.left, self.top, self.scale = left, top, panel.width / 1.3
        self.decoder_base = top + 0.27 + _decoder_height(panel.most_layers)
        self.neck = self.decoder_base + 0.12
        self.blocks = self.neck + 0.18
        self.text = self.blocks + BLOCKS + RISE
        self.pitch = BLOCKS / self.model.blocks
        self.entry_x, self.trunk, self.decoder_line = self.x(0.72), self.x(1.0), self.x(1.16)

    def x(self, place: float) -> float:
        """Inches from the figure's left."""
        return self.left + self.scale * place

    def row(self, layer: int) -> float:
        """The middle of a block."""
        return self.blocks + BLOCKS - (layer + 0.5) * self.pitch

    def draw(self) -> None:
        """Everything."""
        self._image_encoder()
        self._text_encoder()
        self._words()
        self._mask_decoder()

    def _look(self, role: str, stage: str) -> Look:
        return Look(role, self.model.stages[stage].is_frozen)

    def _image_encoder(self) -> None:
        left, right, words_right = self.x(0.17), self.x(0.58), self.entry_x
        middle = (left + right) / 2
        thickness = self.pitch * (0.8 if self.pitch > 0.05 else 0.72)
        fused = {entry.layer for entry in self.model.entries}
        for layer in range(self.model.blocks):
            top = self.row(layer) - thickness / 2
            self.canvas.cell(left, top, right - left, thickness, self._look("image", "blocks"))
            if layer in fused:
                self.canvas.cell(right, top, words_right - right, thickness, Look("words"))
        self.canvas.text(self.x(0.08), self.blocks + BLOCKS / 2, "image encoder", turned=True)
        self.canvas.cell(left + 0.06, self.neck, right - left - 0.12, 0.09, self._look("image", "neck"))
        self.canvas.text(right + 0.02, self.neck + 0.045, "neck", align="left")
        bottom = self.text + TEXT
        self.canvas.text(middle, bottom + 0.17, "image")
        self.canvas.arrow((middle, bottom + 0.1), (middle, self.blocks + BLOCKS))
        self.canvas.arrow((middle, self.blocks), (middle, self.neck + 0.09), head=4)
        self.canvas.arrow((middle, self.neck), (middle, self.decoder_base), head=4)

    def _text_encoder(self) -> None:
        left, right = self.x(0.72), self.x(1.28)
        self.canvas.box(left, self.text, right - left, TEXT, self._look("words", "text_encoder"))
        middle = (left + right) / 2
        backed = self.model.stages["text_encoder"].is_frozen
        self._label(middle, self.text + TEXT / 2, "text\nencoder", backed)
        self.canvas.text(middle, self.text + TEXT + 0.17, "words")
        self.canvas.arrow((middle, self.text + TEXT + 0.1), (middle, self.text + TEXT), head=4)

    def _label(self, x: float, y: float, text: str, backed: bool) -> None:
        """A text in a box; on hatching it has paper behind it."""
        if backed:
            self.canvas.backing(x, y, text)
        self.canvas.text(x, y, text)

    def _words(self) -> None:
        """From the text encoder to the mask decoder, and to the blocks."""
        size = min(0.1, max(0.035, 0.8 * self.pitch))
        top = self.decoder_base
        self.canvas.arrow((self.decoder_line, self.text), (self.decoder_line, top), head=4)
        frozen = self.model.stages["decoder_words"].is_frozen
        self.canvas.glyph(self.decoder_line, self.neck + 0.05, glyph_of("projection", self.panel.parts), 0.085, frozen)
        if self.model.entries:
            self._trunk(size)
            self._evolving(size)

    def _trunk(self, size: float) -> None:
        entries = [entry for entry in self.model.entries if "words" in entry.reads]
        if not entries:
            return
        highest, base = self.row(entries[-1].layer), self.text
        if self.model.learned:
            base = self.text - 0.025
            self.canvas.line((self.trunk - 0.09, base), (self.trunk + 0.09, base), width=1.6)
        self.canvas.line((self.trunk, base), (self.trunk, highest))
        common = [PROJECTION] * (self.model.stages[PROJECTION].weights > 0)
        common += [part for part in self.model.shared(entries[0]) if part not in UNDRAWN]
        for number, part in enumerate(common):
            marker = glyph_of("projection" if part == PROJECTION else part, self.panel.parts)
            self.canvas.glyph(self.trunk, self.text - 0.08 - 0.08 * number, marker, 0.07, self._fusion_frozen)
        for entry in entries:
            y = self.row(entry.layer)
            self.canvas.arrow((self.trunk, y), (self.entry_x, y), width=0.6, head=3 if self.pitch > 0.05 else 2)
            drawn = [part for part in self.model.own(entry) if part not in UNDRAWN]
            for number, part in enumerate(drawn):
                x = self.trunk - (self.trunk - self.entry_x) * (number + 1) / (len(drawn) + 1)
                reach = size if len(drawn) == 1 else min(size, 0.07)
                self.canvas.glyph(x, y, glyph_of(part, self.panel.parts), reach, self._fusion_frozen)

    @property
    def _fusion_frozen(self) -> bool:
        return self.model.stages["fusion"].is_frozen

    def _evolving(self, size: float) -> None:
        """Words that a fused block hands to the next one."""
        middle, previous = self.x(0.65), self.model.entries[0]
        for entry in self.model.entries[1:]:
            if "last" in entry.reads:
                start, end = self.row(previous.layer), self.row(entry.layer)
                own = [part for part in self.model.own(entry) if part not in UNDRAWN and "words" not in entry.reads]
                if own:
                    side = self.entry_x + 0.07
                    self.canvas.line((self.entry_x, start), (side, start), (side, end), width=0.6)
                    self.canvas.arrow((side, end), (self.entry_x, end), width=0.6, head=2.5)
                    for number, part in enumerate(own):
                        x = side + 0.09 * number
                        self.canvas.glyph(x, (start + end) / 2, glyph_of(part, self.panel.parts), size)
                else:
                    self._hand_on(middle, start, end, is_last=entry is self.model.entries[-1])
            previous = entry

    def _hand_on(self, x: float, start: float, end: float, is_last: bool) -> None:
        """Words that stay as they are between two blocks; only the end of their way has a tip."""
        if is_last:
            self.canvas.arrow((x, start), (x, end - 0.02), width=0.8, head=4 if self.pitch > 0.05 else 2)
        else:
            self.canvas.line((x, start), (x, end), above=True)

    def _mask_decoder(self) -> None:
        model, left, right = self.model, self.x(0.17), self.x(1.28)
        height = _decoder_height(model.decoder_layers)
        top = self.decoder_base - height
        self.canvas.box(left, top, right - left, height, Look(""))
        self.canvas.text((left + right) / 2, top + 0.085, "mask decoder")
        for layer in range(model.decoder_layers):
            role = "added" if layer >= model.decoder_layers - model.added_decoder_layers else "decoder"
            y = self.decoder_base - 0.03 - LAYER * (layer + 1) + 0.015
            self.canvas.cell(left + 0.06, y, right - left - 0.12, LAYER - 0.02, self._look(role, "mask_decoder"))
        middle = self.x(0.375)
        self.canvas.arrow((middle, top), (middle, self.top + 0.14), head=4)
        self.canvas.text(middle, self.top + 0.07, "mask")
