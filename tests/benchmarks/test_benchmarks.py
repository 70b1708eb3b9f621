from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.benchmarks import attention as bench
from workbench.benchmarks import explorer
from workbench.benchmarks.encoder import l_dit
from workbench.benchmarks.formulation import released_encoder
from workbench.benchmarks.race import busy_core, in_fresh_process, race
from workbench.errors import WorkbenchError
from workbench.models import attention_policy
from workbench.models.attention import attention

Command = Callable[..., Any]
CPU = torch.device("cpu")


@pytest.mark.exhaustive
@pytest.mark.slow
def test_bench_prints_one_flat_object_and_writes_a_policy(
    workbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "SHAPES", {"4096": bench.Shape(batch=1, side=16, words=0, rounds=1)})
    monkeypatch.setattr(bench, "in_fresh_process", lambda work: work())  # the two of peak_memory are real
    done = workbench("bench", "attention", "--json", "--write-policy", tmp_path / "table.json")
    assert done.code == 0, done.err
    figures = json.loads(done.out)
    assert {"forward_4096", "train_4096", "train_4096_memory", "train_4096_chunked"} <= set(figures)
    assert all(isinstance(number, float | int) and number > 0 for number in figures.values())
    policy = attention_policy.load_policy(tmp_path / "table.json")
    assert policy.rules[0].gradient is False
    assert policy.rules[1].gradient is True
    assert policy.rules[2:] == attention_policy.load_policy(attention_policy.SHIPPED).rules


def test_rules_change_between_measured_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {str(side): bench.Shape(1, side, 0, 1) for side in (8, 16, 32)}
    monkeypatch.setattr(bench, "SHAPES", shapes)
    times = {"8": {"eager": 1.0, "sdpa": 2.0}, "16": {"eager": 2.0, "sdpa": 1.0}, "32": {"eager": 3.0, "sdpa": 1.0}}
    measured = {
        (name, gradient): {"released": 0.1, **seconds} for name, seconds in times.items() for gradient in (False, True)
    }
    rules = bench.policy_of(measured, CPU).rules[:4]
    assert [(r.gradient, r.max_tokens, r.implementation) for r in rules] == [
        (False, 128, "eager"), (False, None, "sdpa"), (True, 128, "eager"), (True, None, "sdpa"),
    ]  # fmt: skip


def test_unknown_benchmarks_and_misplaced_options_are_one_line(workbench: Command, tmp_path: Path) -> None:
    unknown = workbench("bench", "attentoin")
    assert unknown.code == 2
    known = "attention, data, encoder, launch, reuse, trace"
    assert f"unknown benchmark 'attentoin' (did you mean 'attention'?); known: {known}" in unknown.err
    misplaced = workbench("bench", "encoder", "--write-policy", tmp_path / "x.json")
    assert misplaced.code == 2
    assert "--write-policy belongs to the benchmark attention" in misplaced.err


def test_contestants_take_turns_and_the_first_turn_does_not_count() -> None:
    turns: list[str] = []
    seconds = race({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, 3, CPU)
    assert "".join(turns) == "abababab"
    assert seconds.keys() == {"a", "b"}


def test_busy_figures_are_against_the_faster_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"released": 6.0, "eager": 5.0, "sdpa": 4.0, "augmented": 3.0, "chunked": 2.0}
    beside: list[int] = []

    @contextlib.contextmanager
    def busy_core() -> Iterator[int]:
        beside.append(1)
        yield 1
        beside.append(-1)

    def measured(work: object) -> dict[str, float]:
        assert sum(beside) == 1, "the busy process runs meanwhile"
        return times

    monkeypatch.setattr(bench, "busy_core", busy_core)
    monkeypatch.setattr(bench, "in_fresh_process", measured)
    lines: list[str] = []
    figures = bench.busy_figures(CPU, lines.append)
    assert figures["train_1044_busy"] == figures["windows_train_busy"] == figures["windows_train_busy_chunked"] == 2.0
    assert figures["train_1044_busy_eager"] == 0.8
    assert len(lines) == 2
    assert sum(beside) == 0
    assert bench.busy_figures(torch.device("cuda"), lines.append) == {}


def test_a_busy_process_computes_until_its_block_ends() -> None:
    with busy_core() as pid:
        stat = Path(f"/proc/{pid}/stat")
        deadline = time.monotonic() + 30
        while int(stat.read_text().rpartition(")")[2].split()[11]) < 3:  # hundredths of a second it computed for
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not stat.exists()


@pytest.mark.exhaustive
def test_a_measuring_process_that_dies_is_one_clear_error() -> None:
    with pytest.raises(WorkbenchError, match="a measuring process ended early"):
        in_fresh_process(_die)


def _die() -> None:
    import os

    os._exit(3)


@pytest.mark.parametrize("words", [0, 6])
def test_the_released_formulation_is_the_same_function(words: int) -> None:
    inputs = bench._inputs(bench.Shape(2, 6, words, 1), False, CPU)
    expected = attention(inputs, "eager")
    torch.testing.assert_close(bench.released_attention(inputs), expected, rtol=1e-5, atol=1e-5)


def test_what_the_encoder_is_raced_against_is_the_same_function() -> None:
    """Hugging Face's is compared by the benchmark itself, which takes images of 1024 px."""
    ours = l_dit(CPU, windowed=False)
    image, text = torch.randn(1, 3, 128, 128), torch.randn(1, 20, 768)
    with torch.inference_mode():
        torch.testing.assert_close(released_encoder(ours, image, text), ours(image, text), rtol=1e-4, atol=1e-4)


@pytest.mark.exhaustive
def test_the_data_benchmark_measures_what_it_says(tmp_path: Path) -> None:
    from workbench.benchmarks import data, full_size

    folder = full_size.make(tmp_path, scale=0.01)
    found = data._prepared(folder) | data._opened(folder)
    assert set(found) == {"prepare_seconds", "prepare_mib", "open_seconds", "first_batch_seconds"}
    assert min(found.values()) > 0
    assert set(data._raced(folder)) == {"ours", "straightforward"}


def test_the_data_benchmark_times_the_loader_that_training_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small batches, few of them: the figures' names and signs, and that every number of workers had its turns."""
    from workbench.benchmarks import data, full_size

    folder = full_size.make(tmp_path, scale=0.01)
    data._prepared(folder)
    for name, value in {"BATCH": 2, "SIDE": 64, "TIMED_BATCHES": 1, "BATCH_ROUNDS": 1}.items():
        monkeypatch.setattr(data, name, value)
    real, asked = data.training_loader, []

    def loader(dataset: Any, *arguments: Any, workers: int) -> Any:
        asked.append((type(dataset).__name__, workers))
        return real(dataset, *arguments, workers=workers)

    monkeypatch.setattr(data, "training_loader", loader)
    found = data._batched(folder)
    kinds = ("ReferringDataset", "FloatMasks")
    assert asked == [(kind, workers) for workers in (0, 1, 2) for kind in kinds]
    assert set(found) == {f"{name}_{w}_workers" for name in ("batches_per_second", "bytes_speedup") for w in (0, 1, 2)}
    assert min(found.values()) > 0


def test_batches_of_bytes_hold_what_batches_of_floats_hold(tmp_path: Path) -> None:
    """Bit for bit, by way of workers as well: the loss reads the same numbers, so the weights come out the same."""
    from workbench.benchmarks import data, full_size
    from workbench.data.loading import ReferringDataset, training_loader
    from workbench.data.transforms import target_of

    folder = full_size.make(tmp_path, scale=0.01)
    data._prepared(folder)
    tables = data.open_prepared(data._place(folder))
    kinds = {kind: kind(tables, "train", 64, data.CONFIG) for kind in (ReferringDataset, data.FloatMasks)}
    for workers in (0, 2):
        of_bytes, of_floats = (
            list(training_loader(kinds[kind], data.CONFIG, 4, 3, seed=5, workers=workers))
            for kind in (ReferringDataset, data.FloatMasks)
        )
        for one, other in zip(of_bytes, of_floats, strict=True):
            assert one["mask"].dtype == torch.uint8
            assert other["mask"].dtype == torch.float32
            assert other["mask"].unique().numel() > 2, "soft at the edges"
            assert torch.equal(target_of(one["mask"]), other["mask"])
            assert torch.equal(one["pixels"], other["pixels"])
            assert one["sentence"] == other["sentence"]


def test_both_loaders_of_the_data_benchmark_make_the_same_example(tmp_path: Path) -> None:
    """The same draws: the same square, mask and sentence, to the rounding of two resizers and of three changes."""
    from workbench.benchmarks import data, full_size
    from workbench.data.loading import ReferringDataset
    from workbench.data.transforms import target_of

    folder = full_size.make(tmp_path, scale=0.01)
    data._prepared(folder)
    dataset = ReferringDataset(data.open_prepared(data._place(folder)), "train", data.SIDE, data.CONFIG)
    plain = data.StraightforwardLoader(folder)
    for index in range(0, 60, 5):
        ours = dataset[index, index]
        pixels, mask, sentence = plain.example(dataset.expressions[index].sent_id, index)
        assert ours["sentence"] == sentence
        difference = (ours["pixels"].int() - pixels.int()).abs()
        assert difference.max() <= 8
        assert difference.float().mean() < 1
        assert (target_of(ours["mask"]) - mask).abs().max() <= 1.01 / 255


@pytest.mark.exhaustive
def test_the_explorer_is_measured_on_choices_that_each_draw_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[object] = []
    draw = explorer.ExplorerView._draw

    def counted(view: explorer.ExplorerView) -> None:
        drawn.append(view.state)
        draw(view)

    monkeypatch.setattr(explorer.ExplorerView, "_draw", counted)
    monkeypatch.setattr(explorer, "ROUNDS", 3)
    lines: list[str] = []
    figures = explorer.run(lines.append)
    assert list(figures) == ["explorer_choice_s", "explorer_sentence_s", "explorer_gradient_s"]
    assert all(number > 0 for number in figures.values())
    assert len(lines) == 3
    # The first picture, another method once, and four choices of each kind.
    assert len(drawn) == 1 + 1 + 3 * 4
    assert len(set(drawn)) == len(drawn)
