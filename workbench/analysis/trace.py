"""Recording attention at named points while the model runs as always: `with trace(model, points=[...]) as t:`.

The weights come out of the kernel that runs, where it makes them, and beside it otherwise, in chunks of rows; the
kernel and the output stay the same to the last bit. Everything else is in `points` (names), `blocks` and `reductions`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from workbench.analysis.blocks import Block, show, words_call
from workbench.analysis.points import Point, TraceError, select
from workbench.analysis.reductions import Reducer
from workbench.models.attention import AttentionInput
from workbench.models.referring_sam import ReferringSam
from workbench.models.watching import Call, Watcher, watch


@dataclass
class Recording:
    """What was recorded at one point in the latest forward pass.

    Shape suffixes: B images or expressions, h heads, L words, H×W the image's tokens with windows put together.

    Attributes:
        values: attention weights, word_to_image and mask_to_image B×h×L×H×W; image_to_word B×h×L×H×W (for each word
            what each place gives it); image_to_image B×h×rows×H×W, where in windows all outside of the row's is zero;
            word_to_word B×h×L×L; cross_attention B×h×L×H×W, or B×h×L×L where its keys are words. In windows each
            holds its own rows of the words, so a word's map sums to the number of windows, less what is outside.
            None for a whole attention.
        reduced: of a whole attention, see `Reducer.result`.
        call: of a whole attention that is not reduced, its factors.
        keys: how many keys the softmax ran over, B, masked padding left out; so 1/keys is uniform attention.
    """

    point: Point
    keys: Tensor
    values: Tensor | None = None
    reduced: dict[str, Tensor] = field(default_factory=dict)
    call: Call | None = None
    d_out: Tensor | None = None
    _gradient: Tensor | None = None

    @property
    def weights(self) -> Tensor:
        """`values`, of a point that has them."""
        if self.values is None:
            raise TraceError(f"{self.point.name}: a whole attention is kept as its factors or reductions, not as a map")
        return self.values

    @property
    def gradient(self) -> Tensor:
        """The gradient of whatever was differentiated by `weights`, in the same shape.

        Raises:
            TraceError: no backward pass has come here.
        """
        if self._gradient is None:
            why = "no backward pass has reached it inside of `with trace(..., gradient=True)`"
            if not self.point.read:
                why = "nothing in this variant reads the words' output there, so nothing depends on it"
            raise TraceError(f"{self.point.name}: no gradient: {why}")
        return self._gradient


class Trace:
    """The recordings of the latest forward pass, by the name of the point; see `trace`."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = tuple(point.name for point in points)
        self._recordings: dict[str, Recording] = {}

    def __getitem__(self, name: str) -> Recording:
        if name not in self.points:
            raise TraceError(f"{name!r} is not traced; these points are: {', '.join(self.points)}")
        if name not in self._recordings:
            raise TraceError(f"{name}: no forward pass has come here (a compiled model is not traced)")
        return self._recordings[name]

    def __iter__(self) -> Iterator[Recording]:
        return iter([self[name] for name in self.points])

    def _put(self, recording: Recording) -> None:
        self._recordings[recording.point.name] = recording


@contextlib.contextmanager
def trace(
    model: ReferringSam,
    points: Sequence[str],
    gradient: bool = False,
    reductions: Sequence[str] = (),
    mask: Tensor | None = None,
) -> Iterator[Trace]:
    """Record while the model runs, for any batch and as often as wanted; only the latest forward pass is kept.

    Args:
        points: names or patterns, see `points`.
        gradient: record gradients by the weights too, at the backward pass inside of the block. The forward pass must
            then keep gradients; it uses the kernels that training uses.
        reductions: of whole attentions (`encoder.blocks[*].attn`), instead of their factors; see `REDUCTIONS`.
        mask: for the reduction `mask_mass`, B×H×W.

    Raises:
        TraceError: the model lacks a point.
    """
    chosen = select(model, points)
    recorded = Trace(chosen)
    by_module: dict[nn.Module, list[Point]] = {}
    for point in chosen:
        by_module.setdefault(point.module, []).append(point)
    with contextlib.ExitStack() as ends:
        for module, here in by_module.items():
            recorder = _Recorder(here, recorded._put, gradient, reductions, mask, ends)
            if here[0].place == "text":
                ends.enter_context(_bert_watched(module, recorder))
            else:
                ends.callback(watch(module, recorder))
        yield recorded


class _Recorder(Watcher):
    """Records the points of one module."""

    def __init__(
        self,
        points: Sequence[Point],
        put: Callable[[Recording], None],
        gradient: bool,
        reductions: Sequence[str],
        mask: Tensor | None,
        ends: contextlib.ExitStack,
    ) -> None:
        self._points, self._put, self._gradient, self._ends = points, put, gradient, ends
        self._reductions, self._mask = reductions, mask
        self._sinks: list[Any] = []
        self._was_shown = False

    def before(self, call: Call) -> Call:
        """Ask the kernel to show its weights."""
        self._was_shown = False
        self._sinks = [Block(point, call) for point in self._points if point.part != "all"]
        if self._reductions and any(point.part == "all" for point in self._points):
            self._sinks.append(Reducer(self._reductions, call, self._mask))
        wanting = [sink for sink in self._sinks if not isinstance(sink, Block) or sink.spans.has_rows]
        if not wanting:
            return call
        others = call.inputs.see

        def see(groups: slice, queries: slice, seen: Tensor) -> None:
            self._was_shown = True
            if others is not None:
                others(groups, queries, seen)
            for sink in wanting:
                sink.see(groups, queries, seen)

        return replace(call, inputs=replace(call.inputs, see=see))

    def after(self, call: Call, out: Tensor) -> Tensor:
        """Compute what the kernel did not show, and keep all of it."""
        blocks = [sink for sink in self._sinks if isinstance(sink, Block)]
        absent = [block for block in blocks if not block.spans.has_rows]
        call = _without_graph(call)
        if not self._was_shown:
            show(call.inputs, [sink for sink in self._sinks if sink not in absent])
        if absent:
            show(words_call(call).inputs, absent)
        for sink in self._sinks:
            sink.call = call
        recordings = self._recordings(call)
        self._sinks = []
        for recording in recordings:
            self._put(recording)
        return self._with_gradients(out, blocks, recordings) if self._gradient else out

    def _recordings(self, call: Call) -> list[Recording]:
        keys, recordings = _keys(call), []
        for sink in self._sinks:
            if isinstance(sink, Block):
                recordings.append(Recording(sink.point, keys, sink.whole(sink.values)))
                sink.values = sink.values[:0]
        for point in self._points:
            if point.part == "all":
                reducers = [sink for sink in self._sinks if isinstance(sink, Reducer)]
                reduced = reducers[0].result() if reducers else {}
                recordings.append(Recording(point, keys, None, reduced, None if reduced else call))
        return recordings

    def _with_gradients(self, out: Tensor, blocks: list[Block], recordings: list[Recording]) -> Tensor:
        if not torch.is_grad_enabled():
            name = self._points[0].name
            raise TraceError(f"{name}: gradients need a forward pass that keeps them, not one under no_grad")
        if not out.requires_grad:
            out = out.detach().requires_grad_()
        by_name = {recording.point.name: recording for recording in recordings}

        def arrived(d_out: Tensor) -> None:
            with torch.no_grad():
                for block in blocks:
                    if block.spans.has_rows:
                        by_name[block.point.name]._gradient = block.gradient(d_out)
                for recording in recordings:
                    if recording.point.part == "all":
                        recording.d_out = d_out.detach()

        self._ends.callback(out.register_hook(arrived).remove)
        return out


def _keys(call: Call) -> Tensor:
    """How many keys each image's softmax runs over."""
    inputs, windows = call.inputs, call.windows.count if call.windows else 1
    keys = torch.full((len(inputs.q) // windows,), inputs.k.shape[2])
    if inputs.text_mask is not None:
        keys -= (~inputs.text_mask[::windows]).sum(dim=1).cpu()
    return keys


def _without_graph(call: Call) -> Call:
    inputs = call.inputs
    detached: Any = {name: x.detach() for name, x in vars(inputs).items() if isinstance(x, Tensor)}
    words = call.word_queries
    if words is not None:
        with torch.no_grad():
            made = words()
        words = lambda: made  # noqa: E731 - the module's weights may change later
    return replace(call, inputs=replace(inputs, **detached, see=None), word_queries=words)


@contextlib.contextmanager
def _bert_watched(module: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """The same for the self-attention of `transformers`' BERT, from what its own projections gave."""
    own: Any = module
    made: dict[str, Tensor] = {}

    def heads(x: Tensor) -> Tensor:
        separate: Tensor = x.unflatten(-1, (-1, own.attention_head_size))
        return separate.transpose(1, 2)

    def attended(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        given = named.get("attention_mask", arguments[1] if len(arguments) > 1 else None)
        q, k, v = (heads(made[name]) for name in ("query", "key", "value"))
        inputs = AttentionInput(q, k, v, (0, 0), text_mask=_bert_mask(given))
        call = recorder.before(Call(inputs))
        call = replace(call, inputs=replace(call.inputs, see=None))
        out = heads(output[0])
        seen = recorder.after(call, out)
        return output if seen is out and not recorder._gradient else (seen.transpose(1, 2).flatten(2), *output[1:])

    handles = [own.register_forward_hook(attended, with_kwargs=True)]
    for name in ("query", "key", "value"):
        keep = lambda _, __, out, name=name: made.__setitem__(name, out)  # noqa: E731
        handles.append(getattr(own, name).register_forward_hook(keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _bert_mask(given: Tensor | None) -> Tensor | None:
    """B×L, True at words, of the mask B×1×(1 or L)×L that BERT's layers get."""
    if given is None:
        return None
    last = given[:, 0, -1]
    return last if last.dtype == torch.bool else last >= 0
