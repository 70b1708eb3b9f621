"""Whether tracing says the truth of a model: against attention written out in fp64, for every layout and precision.

The reference is made from the same queries, keys and values as the kernel got, so what is measured is the tracing, not
how the model's precision changes what flows through it.
"""

from __future__ import annotations

import contextlib
import copy
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from workbench.analysis.points import TraceError, reads_words
from workbench.analysis.trace import Recording, trace
from workbench.errors import WorkbenchError
from workbench.files import write_atomically
from workbench.models.referring_sam import ReferringSam
from workbench.models.watching import Call, Watcher, watch

EXACT = 1e-6
"""The largest error that counts as none: of weights absolutely, of outputs and gradients relative to their largest."""
Kind = Literal["read", "write", "gradient"]
KINDS: tuple[Kind, ...] = ("read", "write", "gradient")
LAYOUTS = ("global", "windowed")
DTYPES = ("float64", "float32", "bfloat16")
"""bfloat16 is autocast, as a run with `training.precision: bf16` evaluates."""


@dataclass(frozen=True)
class Verdict:
    """One cell of the matrix; `error` is None where there is nothing to check."""

    layout: str
    dtype: str
    kind: Kind
    error: float | None

    def __str__(self) -> str:
        if self.error is None:
            return "not available"
        return "exact" if self.error <= EXACT else f"degraded by {self.error:.0e}"


def verify(model: ReferringSam, side: int, tokens: int = 6) -> list[Verdict]:
    """The verdicts of a model, on random pixels of side×side and random words; the model is left as it was.

    read: every weight of every block and both text blocks. write: words hidden in every fused block, seen in its
    output. gradient: those by both text blocks, or by the image's own weights where no block reads words.
    """
    was = model.image_encoder.windowed
    verdicts = []
    try:
        for layout in LAYOUTS:
            for dtype in DTYPES:
                model.image_encoder.windowed = layout == "windowed"
                cast = copy.deepcopy(model).double() if dtype == "float64" else model
                for kind in KINDS:
                    verdicts.append(Verdict(layout, dtype, kind, _error(cast.eval(), side, tokens, dtype, kind)))
    finally:
        model.image_encoder.windowed = was
    return verdicts


def as_markdown(rows: dict[str, list[Verdict]]) -> str:
    """A table of several models, by name."""
    columns = [(dtype, kind) for dtype in DTYPES for kind in KINDS]
    lines = [
        "| variant | layout | " + " | ".join(f"{dtype}, {kind}" for dtype, kind in columns) + " |",
        "|" + "---|" * (2 + len(columns)),
    ]
    for name, verdicts in rows.items():
        for layout in LAYOUTS:
            cells = {(v.dtype, v.kind): str(v) for v in verdicts if v.layout == layout}
            lines.append(f"| {name} | {layout} | " + " | ".join(cells[column] for column in columns) + " |")
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- trace verify: begin -->", "<!-- trace verify: end -->"
"""What a table stands between in a text."""


def put_into(file: Path, table: str) -> None:
    """Put a table between the two marks of a text file, in place of what is there.

    Raises:
        WorkbenchError: the file cannot be read, or has not just one of each mark.
    """
    try:
        text = file.read_text()
    except (OSError, ValueError) as error:
        raise WorkbenchError(f"{file}: cannot be read: {error}") from None
    parts = re.split(f"{re.escape(BEGIN)}|{re.escape(END)}", text)
    if len(parts) != 3 or text.count(BEGIN) != 1 or text.index(BEGIN) > text.index(END):
        raise WorkbenchError(f"{file}: a table goes between one line {BEGIN} and, below it, one line {END}")
    before, _, after = parts
    write_atomically(file, f"{before}{BEGIN}\n\n{table}\n{END}{after}".encode())


class _Keeper(Watcher):
    """Keeps a block's call, output, and the output's gradient; hides all words where asked."""

    def __init__(self, hide: bool) -> None:
        self.hide = hide
        self.call: Call | None = None
        self.out = torch.empty(0)
        self.d_out: Tensor | None = None

    def before(self, call: Call) -> Call:
        if self.hide:
            shape = (len(call.inputs.k), call.inputs.text_length)
            hidden = torch.zeros(shape, dtype=torch.bool, device=call.inputs.k.device)
            call = replace(call, inputs=replace(call.inputs, text_mask=hidden))
        self.call = call
        return call

    def after(self, call: Call, out: Tensor) -> Tensor:
        self.out = out.detach()
        if out.requires_grad:
            out.register_hook(self._arrived)
        return out

    def _arrived(self, gradient: Tensor) -> None:
        self.d_out = gradient.detach()


def _error(model: ReferringSam, side: int, tokens: int, dtype: str, kind: Kind) -> float | None:
    fused = model.fusion.layers
    if kind == "write" and not fused:
        return None
    layers = [layer for layer in range(model.image_encoder.depth) if model.image_encoder.vit.attention_of(layer)]
    reading = fused if reads_words(model) else ()
    names = {
        layer: [f"encoder.blocks[{layer}].attn.{part}" for part in _parts(kind, layer in reading, bool(reading))]
        for layer in layers
    }
    keepers = {layer: _Keeper(kind == "write" and layer in fused) for layer in layers}
    with contextlib.ExitStack() as ends:
        for layer, keeper in keepers.items():
            module = model.image_encoder.vit.attention_of(layer)
            assert module is not None
            ends.callback(watch(module, keeper))
        seen = ends.enter_context(trace(model, [n for each in names.values() for n in each], kind == "gradient"))
        _run(model, side, tokens, dtype, kind == "gradient")
    errors = []
    for layer, keeper in keepers.items():
        assert keeper.call is not None
        reference = _weights(keeper.call)
        if kind == "write":
            if layer in fused:
                errors.append(_relative(keeper.out, reference @ keeper.call.inputs.v.detach().double()))
            continue
        for name in names[layer]:
            errors += _of_recording(seen[name], keeper, reference, kind)
    return max(errors)


def _parts(kind: Kind, fused: bool, any_fused: bool) -> list[str]:
    if kind == "write":
        return []
    if kind == "gradient" and any_fused:
        return ["word_to_image", "image_to_word"] if fused else []
    return ["image_to_image", *(["word_to_image", "image_to_word"] if fused else [])]


def _run(model: ReferringSam, side: int, tokens: int, dtype: str, gradient: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = next(model.parameters())
    image = torch.randn(2, 3, side, side, generator=generator).to(parameter)
    text = torch.randn(2, tokens, model.text_proj.in_features, generator=generator).to(parameter)
    mask = torch.arange(tokens, device=parameter.device)[None] < torch.tensor([[tokens], [tokens - 2]])
    narrow = torch.autocast(parameter.device.type, torch.bfloat16, enabled=dtype == "bfloat16")
    with torch.set_grad_enabled(gradient), narrow:
        image.requires_grad_(gradient)
        logits = model.decode(model.encode_image(image, text, mask), text, mask)
    if gradient:
        torch.autograd.grad(logits.double().square().mean(), image)


def _weights(call: Call) -> Tensor:
    """The softmax after SAM's formula, in fp64, made without the package's own masks."""
    inputs = call.inputs
    q, k = inputs.q.detach().double(), inputs.k.detach().double()
    height, width = inputs.grid
    size = height * width
    logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    if inputs.relative_h is not None and inputs.relative_w is not None:
        # As the kernel gets them: under autocast in the queries' precision.
        table_h, table_w = (t.detach().to(inputs.q.dtype).double() for t in (inputs.relative_h, inputs.relative_w))
        query = q[:, :, -size:].unflatten(2, (height, width))
        rows = torch.einsum("bnhwc,hkc->bnhwk", query, table_h)
        columns = torch.einsum("bnhwc,wkc->bnhwk", query, table_w)
        logits[:, :, -size:, -size:] += (rows[..., :, None] + columns[..., None, :]).flatten(4, 5).flatten(2, 3)
    if inputs.text_mask is not None:
        logits[..., :-size].masked_fill_(~inputs.text_mask[:, None, None], float("-inf"))
    expected: Tensor = logits.softmax(dim=-1)
    return expected


def _of_recording(recording: Recording, keeper: _Keeper, reference: Tensor, kind: Kind) -> list[float]:
    """The error of one point, of images whose windows are taken apart again."""
    assert keeper.call is not None
    call, part = keeper.call, recording.point.part
    if kind == "gradient":
        if not recording.point.read:
            return []
        assert keeper.d_out is not None
        expected = keeper.d_out.double() @ call.inputs.v.detach().double().transpose(-2, -1)
        found = recording.gradient
    else:
        expected, found = reference, recording.weights
    words, text = call.inputs.text_length, call.inputs.text_queries
    if part == "word_to_image":
        if not text:
            return []  # nothing reads these rows, so the kernel has none to compare with
        expected = expected[:, :, :words, words:]
    elif part == "image_to_word":
        expected = expected[:, :, text:, :words].transpose(2, 3)
    else:
        expected = expected[:, :, text:, words:]
    shown = _whole(expected, call, part)
    return [_relative(found, shown) if kind == "gradient" else float((found.double() - shown).abs().max())]


def _whole(values: Tensor, call: Call, part: str) -> Tensor:
    """Rows of windows over the whole image, by loops over the windows; padding is left out."""
    assert call.grid is not None
    if call.windows is None:
        apart: Tensor = values.unflatten(3, call.grid)
        return apart
    (down, across), side, (height, width) = call.windows.padded, call.windows.side, call.windows.grid
    tiles: Any = values.unflatten(0, (-1, down // side, across // side)).unflatten(-1, (side, side))
    count = down * across if part == "image_to_image" else values.shape[2]
    out = values.new_zeros(len(tiles), values.shape[1], count, down, across)
    for i in range(down // side):
        for j in range(across // side):
            rows: Any = slice(None)
            if part == "image_to_image":
                ys, xs = torch.arange(i * side, (i + 1) * side), torch.arange(j * side, (j + 1) * side)
                rows = (ys[:, None] * across + xs[None]).flatten()
            out[:, :, rows, i * side : (i + 1) * side, j * side : (j + 1) * side] = tiles[:, i, j]
    if part == "image_to_image":
        out = out.unflatten(2, (down, across))[:, :, :height, :width].flatten(2, 3)
    cut: Tensor = out[..., :height, :width]
    return cut


def _relative(found: Tensor, expected: Tensor) -> float:
    largest = float(expected.abs().max())
    if largest == 0:
        raise TraceError("nothing to compare: the reference is zero everywhere")
    return float((found.double() - expected).abs().max()) / largest
