from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from workbench.config import RefshapesRecipe, RunConfig
from workbench.data import refshapes
from workbench.data.datasets import find
from workbench.data.readers import read
from workbench.data.tables import ReferData
from workbench.errors import CheckpointError, DivergedError, InterruptedRun
from workbench.files import digest_of
from workbench.models.build import build_model
from workbench.results.folders import RunFolder
from workbench.training.checkpointing import load_trained
from workbench.training.train import train


def run(tmp_path: Path, config: RunConfig, seed: int = 0, **options: Any) -> RunFolder:
    folder = RunFolder.of(tmp_path, config, seed)
    train(config, seed, folder, **options)
    return folder


def weights(folder: RunFolder, name: str = "model") -> dict[str, torch.Tensor]:
    place = folder.checkpoints.latest()
    assert place is not None
    return load_file(place.folder / f"{name}.safetensors")


def identical(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_finished_run_leaves_what_the_design_promises(tmp_path: Path, make_config: Callable[..., RunConfig]) -> None:
    config = make_config(evaluation__splits=["val", "testB"])
    folder = run(tmp_path, config)
    record = folder.record()
    assert record.state == folder.state() == "completed"
    assert record.identity.model_dump(by_alias=True) == config.identity_document()
    assert record.provenance.digests().keys() >= {
        "code",
        "commit",
        "dirty",
        "packages",
        "host",
        "device",
        "checkpoint_sha256",
    }
    assert {p.name for p in folder.path.iterdir()} == {"run.json", "log.jsonl", "expressions.parquet", "checkpoint"}
    events = folder.log().events
    assert [e.step for e in events if e.event == "step"] == [1, 2, 3, 4, 5, 6]
    assert (events[0].event, events[-1].event) == ("start", "end")
    frame = folder.expressions()
    assert set(frame["split"]) == {"val", "testB"}
    assert not frame.duplicated(["split", "sent_id"]).any()
    for split, metrics in record.metrics.items():
        here = frame[frame["split"] == split]
        assert metrics["expressions"] == len(here)
        assert metrics["oiou"] == pytest.approx(here["intersection"].sum() / here["union"].sum(), abs=1e-12)
        assert metrics["miou"] == pytest.approx(here["iou"].mean(), abs=1e-12)


def test_the_same_seed_repeats_and_another_does_not(tmp_path: Path, make_config: Callable[..., RunConfig]) -> None:
    config = make_config(fusion__variant="l_dit")
    one, two, other = (run(tmp_path / name, config, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert identical(weights(one), weights(two))
    assert not identical(weights(one), weights(other))


@pytest.mark.parametrize("stop_at", [1, pytest.param(3, marks=pytest.mark.exhaustive), 5])
def test_a_stopped_run_resumes_to_the_same_weights(
    tmp_path: Path, make_config: Callable[..., RunConfig], stop_at: int
) -> None:
    config = make_config(fusion__variant="e_dit", training__ema__decay=0.9)
    whole = run(tmp_path / "whole", config)
    folder = RunFolder.of(tmp_path / "parts", config, 0)
    asked = iter([False] * (stop_at - 1) + [True])
    with pytest.raises(InterruptedRun, match=f"stopped at step {stop_at} of 6"):
        train(config, 0, folder, stop=lambda: next(asked))
    assert folder.state() == "interrupted"
    train(config, 0, folder)
    assert folder.state() == "completed"
    assert identical(weights(folder), weights(whole))
    assert identical(weights(folder, "ema"), weights(whole, "ema"))
    assert not identical(weights(folder, "ema"), weights(folder))
    steps = [e.step for e in folder.log().events if e.event == "step"]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert folder.record().metrics == whole.record().metrics


RUN = """
import json, sys
from pathlib import Path
from workbench.config import RunConfig
from workbench.results.folders import RunFolder
from workbench.training.train import train
config = RunConfig.parse(json.loads(sys.argv[1]))
train(config, 0, RunFolder.of(Path(sys.argv[2]), config, 0))
"""


@pytest.mark.slow
@pytest.mark.exhaustive
def test_sigkill_at_a_random_step_costs_nothing(tmp_path: Path, make_config: Callable[..., RunConfig]) -> None:
    config = make_config(fusion__variant="l_dit", training__steps=30, machine__checkpoint_minutes=0.0)
    whole = run(tmp_path / "whole", config)
    folder = RunFolder.of(tmp_path / "killed", config, 0)
    command = [sys.executable, "-c", RUN, json.dumps(config.model_dump(mode="json")), str(tmp_path / "killed")]
    for _ in range(2):
        process = subprocess.Popen(command)
        seen = len([e for e in folder.log().events if e.event == "step"])
        target = seen + random.randint(2, 12)
        while len([e for e in folder.log().events if e.event == "step"]) < target:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert folder.state() == "killed"
    assert subprocess.run(command, check=False).returncode == 0
    assert any(e.event == "resume" for e in folder.log().events)
    assert identical(weights(folder), weights(whole))
    assert folder.record().metrics == whole.record().metrics


@pytest.mark.exhaustive
@pytest.mark.slow
def test_loader_workers_do_not_hold_a_dead_run(tmp_path: Path, make_config: Callable[..., RunConfig]) -> None:
    config = make_config(training__steps=5000, machine__loader_workers=2)
    folder = RunFolder.of(tmp_path, config, 0)
    command = [sys.executable, "-c", RUN, json.dumps(config.model_dump(mode="json")), str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while folder.log_tail().last("step") is None:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert folder.state() == "killed"


LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def run_by_two(folder: Path, config: RunConfig) -> RunFolder:
    """The same as `run`, in two processes."""
    folder.mkdir(exist_ok=True)
    script = folder / "run.py"
    script.write_text(RUN)
    command = [*LAUNCHER, str(script), json.dumps(config.model_dump(mode="json")), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = RunFolder.of(folder, config, 0)
    assert made.record().processes == 2
    return made


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_processes_train_to_the_metrics_of_one(
    tmp_path: Path, make_config: Callable[..., RunConfig], still_bert: Path
) -> None:
    config = make_config(
        fusion__variant="l_dit", fusion__dropout=0.0, text_encoder__max_tokens=12, machine__device="cpu",
        text_encoder__name=str(still_bert),
        training__ema__decay=0.9, evaluation__splits=["val", "testB"],
    )  # fmt: skip
    config = config.model_copy(update={"machine": config.machine.model_copy(update={"log_steps": 2})})
    alone, folder = run(tmp_path / "one", config), run_by_two(tmp_path / "two", config)
    frame = folder.expressions()
    assert not frame.duplicated(["split", "sent_id"]).any()
    assert list(frame["sent_id"]) == list(alone.expressions()["sent_id"])
    for split, metrics in alone.record().metrics.items():
        for name, value in metrics.items():
            assert folder.record().metrics[split][name] == pytest.approx(value, abs=0.02), (split, name)
    assert [e.event for e in folder.log().events].count("start") == 1
    here, there = (load_file(f.checkpoints.latest().model) for f in (folder, alone))  # type: ignore[operator]
    # Not the largest difference: Adam turns rounding into whole steps where a gradient is all but zero.
    assert torch.cat([(here[key] - there[key]).abs().flatten() for key in there]).mean() < 1e-6


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_processes_evaluate_the_same_weights_to_the_same_bits(
    tmp_path: Path, make_config: Callable[..., RunConfig], still_bert: Path
) -> None:
    reads = {"text_encoder__max_tokens": 12, "text_encoder__name": str(still_bert), "machine__device": "cpu"}
    trained = run(tmp_path / "one", make_config(fusion__variant="l_dit", evaluation__splits=["val"], **reads))
    weights_file = trained.checkpoints.latest().model  # type: ignore[operator]
    config = make_config(
        fusion__variant="l_dit", training__steps=0, evaluation__splits=["val", "testB"], evaluation__no_target_area=50,
        start_from__file=str(weights_file), start_from__sha256=digest_of(weights_file),
        data__recipe={"seed": 3, "train_images": 40, "eval_images": 6, "targets": "any"},
        machine__evaluation_batch_size=5, **reads,
    )  # fmt: skip
    alone, by_two = run(tmp_path / "one", config), run_by_two(tmp_path / "two", config)
    assert by_two.record().metrics == alone.record().metrics
    assert "n_acc" in by_two.record().metrics["val"]
    pd.testing.assert_frame_equal(by_two.expressions(), alone.expressions())


def test_training_on_prepared_tables_is_training_on_the_original_files(
    tmp_path: Path, make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(fusion__variant="l_dit", data__augmentation={"scales": [1.0, 0.75], "color_jitter": 0.4})
    prepared = run(tmp_path / "prepared", config)
    folder = config.machine.data_root / refshapes.folder_name(config.data.recipe or RefshapesRecipe())
    opened: list[ReferData] = []

    def original(config: RunConfig) -> ReferData:
        opened.append(read(find(folder, "refshapes", "unc")))
        return opened[-1]

    monkeypatch.setattr("workbench.training.setup.open_dataset", original)
    plain = run(tmp_path / "plain", config)
    assert [data.place for data in opened] == [None]
    assert identical(weights(prepared), weights(plain))
    pd.testing.assert_frame_equal(prepared.expressions(), plain.expressions())
    assert prepared.record().metrics == plain.record().metrics


def test_a_begun_run_keeps_its_number_of_threads(tmp_path: Path, make_config: Callable[..., RunConfig]) -> None:
    folder = RunFolder.of(tmp_path, make_config(), 0)
    with pytest.raises(InterruptedRun):
        train(make_config(), 0, folder, stop=lambda: True)
    train(make_config(machine__threads=2), 0, folder)
    assert folder.record().machine["threads"] == torch.get_num_threads() == 1


def test_a_warning_becomes_a_line_of_the_log(tmp_path: Path, make_config: Callable[..., RunConfig]) -> None:
    folder = RunFolder.of(tmp_path, make_config(), 0)

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            warnings.warn("slow\nand long", RuntimeWarning, stacklevel=1)

    with pytest.warns(RuntimeWarning, match="slow"):
        train(make_config(), 0, folder, report=report)
    found = [(e.details()["category"], e.details()["message"]) for e in folder.log().events if e.event == "warning"]
    assert found.count(("RuntimeWarning", "slow")) == 1


def test_the_codes_of_every_session_are_kept(
    tmp_path: Path, make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.of(tmp_path, make_config(), 0)
    monkeypatch.setattr("workbench.results.provenance.code_digest", lambda: "aaa")
    with pytest.raises(InterruptedRun):
        train(make_config(), 0, folder, stop=lambda: True)
    monkeypatch.setattr("workbench.results.provenance.code_digest", lambda: "bbb")
    train(make_config(), 0, folder)
    assert folder.record().codes == ("aaa", "bbb")


def test_a_stop_in_the_evaluation_resumes_there(tmp_path: Path, make_config: Callable[..., RunConfig]) -> None:
    folder = RunFolder.of(tmp_path, make_config(), 0)
    asked = iter([False] * 6 + [True])
    with pytest.raises(InterruptedRun, match="before the evaluation of val"):
        train(make_config(), 0, folder, stop=lambda: next(asked))
    train(make_config(), 0, folder)
    assert folder.state() == "completed"
    assert [e.step for e in folder.log().events if e.event == "step"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("damage", ["cut", "fewer rows"])
def test_a_scored_split_that_is_damaged_is_scored_again(
    tmp_path: Path, make_config: Callable[..., RunConfig], damage: str
) -> None:
    config = make_config(evaluation__splits=["val", "testB"])
    folder = RunFolder.of(tmp_path, config, 0)
    with pytest.raises(InterruptedRun, match="before the evaluation of testB"):
        train(config, 0, folder, stop=lambda: bool(folder.checkpoints.scored()))
    (file,) = folder.checkpoints.scored()
    scored = pd.read_parquet(file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:300])
    else:
        scored.iloc[:-2].to_parquet(file)
    train(config, 0, folder)
    kept = folder.expressions()
    pd.testing.assert_frame_equal(kept[kept["split"] == "val"].reset_index(drop=True), scored)


def test_an_exploding_loss_ends_as_diverged_with_its_step(
    tmp_path: Path, make_config: Callable[..., RunConfig]
) -> None:
    config = make_config(
        training__steps=30, training__optimizer__learning_rate=1e6, training__optimizer__clip_norm=None,
        training__schedule__name="constant", training__schedule__warmup=0.1, training__schedule__start=0.0,
        training__explosion_factor=10,
    )  # fmt: skip
    folder = RunFolder.of(tmp_path, config, 0)
    with pytest.raises(DivergedError, match=r"at step \d+; try a lower learning rate") as raised:
        train(config, 0, folder)
    record = folder.record()
    assert record.state == "diverged"
    assert f"at step {raised.value.step}" in record.error.message
    assert raised.value.step > 0
    assert folder.checkpoints.latest() is None, "a diverged state must not be resumed"


def test_a_nan_is_found_at_its_step(tmp_path: Path, make_config: Callable[..., RunConfig], monkeypatch: Any) -> None:
    from workbench.training import loop as module

    real, calls = module.mask_loss, iter(range(100))
    monkeypatch.setattr(module, "mask_loss", lambda *a: real(*a) * (float("nan") if next(calls) >= 3 else 1.0))
    config = make_config(machine__log_steps=4)
    with pytest.raises(DivergedError) as raised:
        run(tmp_path, config)
    assert raised.value.step == 3


@pytest.mark.parametrize("variant", ["default", "e_dit", "l_dit"])
def test_what_is_frozen_stays_and_the_rest_moves(
    tmp_path: Path, make_config: Callable[..., RunConfig], variant: str
) -> None:
    config = make_config(fusion__variant=variant, training__freeze__image_encoder=True, training__freeze__neck=True)
    torch.manual_seed(0)
    before = build_model(config).state_dict()
    after = weights(run(tmp_path, config))
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert not any(key.startswith(("image_encoder.vit", "prompt_encoder.point")) for key in moved)
    assert any(key.startswith("mask_decoder") for key in moved)
    assert any(key.startswith("text_encoder") for key in moved)
    assert any(key.startswith("image_encoder.fusion") for key in moved) == (variant != "default")


def test_a_trained_model_loads_as_it_was_evaluated(tmp_path: Path, make_config: Callable[..., RunConfig]) -> None:
    from workbench.data.datasets import open_dataset
    from workbench.data.loading import ReferringDataset
    from workbench.evaluation.evaluate import evaluate
    from workbench.models.text_encoder import load_tokenizer

    config = make_config(fusion__variant="l_dit", training__ema__decay=0.5)
    folder = RunFolder.of(tmp_path, config, 0)
    with pytest.raises(CheckpointError, match=r"has no checkpoint yet \(state: new\)"):
        load_trained(config, folder)
    train(config, 0, folder)
    dataset = ReferringDataset(open_dataset(config), "val", 64, config.data)
    tokenizer = load_tokenizer(config.text_encoder, Path())
    again = evaluate(load_trained(config, folder), tokenizer, dataset, config, torch.device("cpu"))
    assert again.equals(folder.expressions())


def test_other_weights_under_a_begun_run_are_refused(tmp_path: Path, make_config: Callable[..., RunConfig]) -> None:
    from workbench.models.backbones import backbones

    file = tmp_path / "sam.pth"
    torch.save(backbones["vit_mini"].build().state_dict(), file)
    config = make_config(backbone__checkpoint=str(file))
    folder = RunFolder.of(tmp_path, config, 0)
    with pytest.raises(InterruptedRun):
        train(config, 0, folder, stop=lambda: True)
    torch.save(backbones["vit_mini"].build().state_dict(), file)
    with pytest.raises(CheckpointError, match="not the weights this run began with"):
        train(config, 0, folder)


def test_tensorboard_gets_the_loss(tmp_path: Path, make_config: Callable[..., RunConfig]) -> None:
    folder = run(tmp_path, make_config(machine__trackers=["tensorboard"]))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = folder.tracker_folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file.parent)).Reload()
    logged = [e.loss for e in folder.log().events if e.event == "step"]
    assert [round(s.value, 4) for s in events.Scalars("loss")] == [round(v, 4) for v in logged]
