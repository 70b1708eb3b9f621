from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.analysis.test_trace import MakeConfig, built
from workbench.analysis import text_store
from workbench.analysis.points import TraceError
from workbench.analysis.text_store import TextStore, record_split
from workbench.analysis.trace import trace
from workbench.config import RunConfig
from workbench.data.datasets import open_dataset
from workbench.data.loading import ReferringDataset
from workbench.evaluation.evaluate import mask_logits
from workbench.models.text_encoder import load_tokenizer
from workbench.results.folders import StoreError
from workbench.results.record import ExpressionKey
from workbench.validation import DamagedFile

POINTS = ["encoder.blocks[3].attn.*", "decoder.layers[1].word_to_image"]
KEPT = {f"encoder.blocks[3].attn.{part}" for part in ("word_to_image", "image_to_word", "word_to_word")}
SOURCE = {"run": "this one"}


class Recorder:
    """Records a split of a random model, and counts the forward passes."""

    def __init__(self, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config: RunConfig = make_config(fusion__variant="l_dit", machine__evaluation_batch_size=2)
        self.model = built(make_config, "l_dit")
        self.tokenizer = load_tokenizer(self.config.text_encoder, Path())
        self.passes = 0
        monkeypatch.setattr(text_store, "mask_logits", self._counted)

    def _counted(self, *arguments: Any) -> torch.Tensor:
        self.passes += 1
        return mask_logits(*arguments)

    def dataset(self, images: int | None = None) -> ReferringDataset:
        tables = open_dataset(self.config)
        return ReferringDataset(tables, "val", self.config.backbone.image_size, self.config.data, images=images)

    def __call__(
        self, store: TextStore, images: int | None = None, step: Callable[[int, int], None] | None = None
    ) -> int:
        more = () if step is None else (step,)
        return record_split(self.model, self.tokenizer, self.dataset(images), self.config, POINTS, store, *more)


@pytest.fixture
def recorder(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(make_config, monkeypatch)


def test_what_is_stored_is_what_was_traced(recorder: Recorder, tmp_path: Path) -> None:
    store = TextStore(tmp_path / "kept", SOURCE)
    added = recorder(store)
    dataset = recorder.dataset()
    assert added == len(dataset) == len(store)
    expression = dataset.expressions[len(dataset) - 1]
    found = TextStore(tmp_path / "kept", SOURCE)[ExpressionKey("val", expression.ref_id, expression.sent_id)]
    assert found.keys() == {*KEPT, "decoder.layers[1].word_to_image", "mask"}
    ids, mask = recorder.tokenizer([expression.sentence])
    placement = dataset.placement(expression)
    content = torch.tensor([[placement.top, placement.left, placement.height, placement.width]])
    with torch.inference_mode(), trace(recorder.model, POINTS) as seen:
        recorder.model(recorder.model.normalise(dataset.square(expression)[None], content), ids, mask)
    length = int(mask.sum())
    assert int(found["mask"].sum()) == length
    for name in KEPT - {"encoder.blocks[3].attn.word_to_word"}:
        expected = seen[name].weights[0, :, :length]
        torch.testing.assert_close(found[name][:, :length].float(), expected, atol=2e-3, rtol=2e-3)


def test_it_goes_on_where_it_ended(recorder: Recorder, tmp_path: Path) -> None:
    folder = tmp_path / "kept"

    def stop(done: int, total: int) -> None:
        assert (done, total) != (total, total)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorder(TextStore(folder, SOURCE), step=stop)
    first = TextStore(folder, SOURCE)
    assert 0 < len(first) < len(recorder.dataset())
    assert recorder.passes == 1
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    kept = len(first)
    assert recorder(first, images=3) == len(first) - kept
    recorder(TextStore(folder, SOURCE))
    whole, passes = TextStore(folder, SOURCE), recorder.passes
    assert len(whole) == len(recorder.dataset())
    assert recorder(whole) == 0
    assert recorder.passes == passes, "nothing is computed twice"
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert not [file for file in folder.iterdir() if file.name.startswith(".")]


def test_other_sources_damage_and_wrong_points_are_errors(recorder: Recorder, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    store = TextStore(folder, SOURCE)
    recorder(store, images=2)
    with pytest.raises(StoreError, match="recorded from something else"):
        TextStore(folder, {"run": "another"})
    with pytest.raises(StoreError, match="nothing was recorded of val:99:99"):
        store[ExpressionKey("val", 99, 99)]
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DamagedFile, match="remove it, and its expressions are recorded again"):
        TextStore(folder, SOURCE)
    file.unlink()
    mended = TextStore(folder, SOURCE)
    assert recorder(mended, images=2) > 0
    with pytest.raises(TraceError, match="no rows or columns of words"):
        record_split(recorder.model, recorder.tokenizer, recorder.dataset(), recorder.config,
                     ["encoder.blocks[0].attn"], mended)  # fmt: skip
