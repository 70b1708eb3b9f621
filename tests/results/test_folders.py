from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from workbench.config import RunConfig
from workbench.files import write_atomically
from workbench.results.folders import RunBusy, RunFolder, StoreError, all_runs, results_frame


@pytest.fixture
def folder(tmp_path: Path, make_config: Callable[..., RunConfig]) -> RunFolder:
    return RunFolder.of(tmp_path, make_config(), 0)


def test_a_run_lies_under_its_id(folder: RunFolder, tmp_path: Path, make_config: Callable[..., RunConfig]) -> None:
    folder.update(state="completed")
    assert (tmp_path / "runs" / make_config().setting_id / "seed0" / "run.json").is_file()
    assert [run.name for run in all_runs(tmp_path)] == [folder.name]


def test_another_configuration_under_the_same_id_is_refused(
    folder: RunFolder, tmp_path: Path, make_config: Callable[..., RunConfig]
) -> None:
    identity = make_config().identity_document()
    identity["config"]["training"]["steps"] = 7
    folder.update(identity=identity)
    with pytest.raises(StoreError, match=r"config\.training\.steps: 7 -> 6"):
        RunFolder.of(tmp_path, make_config(), 0)


def test_a_truncated_record_names_the_file_and_the_way_out(folder: RunFolder) -> None:
    folder.update(state="completed", metrics={})
    record = folder.path / "run.json"
    record.write_bytes(record.read_bytes()[:20])
    with pytest.raises(StoreError, match=r"run\.json: damaged .* workbench retry GRID --class damaged"):
        folder.record()


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.json"
    write_atomically(file, b"old")
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_claim_is_exclusive_between_processes_and_dies_with_its_holder(folder: RunFolder) -> None:
    code = (
        "import sys, time; from pathlib import Path; from workbench.results.folders import RunFolder\n"
        f"with RunFolder(Path({str(folder.results)!r}), {folder.name!r}).claim():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    folder.update(state="running")
    assert folder.state() == "running"
    with pytest.raises(RunBusy, match="another process"), folder.claim():
        pass
    holder.kill()
    holder.wait()
    assert folder.state() == "killed"
    with folder.claim() as log:
        log.write("start", step=0)
    assert folder.events()[-1]["event"] == "start"


def test_a_log_line_cut_short_by_a_crash_is_left_out(folder: RunFolder) -> None:
    with folder.claim() as log:
        log.write("step", step=1)
        log.write("step", step=2)
    folder.log_file.write_bytes(folder.log_file.read_bytes()[:-9])
    assert [event["step"] for event in folder.events()] == [1]
    assert folder.last_event("step") is not None
    assert folder.last_event("step")["step"] == 1  # type: ignore[index]


def test_the_line_after_a_cut_one_is_whole_and_steps_done_again_count_once(folder: RunFolder) -> None:
    with folder.claim() as log:
        for step in (1, 2, 3):
            log.write("step", step=step, part="first")
    folder.log_file.write_bytes(folder.log_file.read_bytes()[:-5])
    with folder.claim() as log:
        log.write("resume", step=1)
        log.write("step", step=2, part="second")
    steps = [(e["step"], e["part"]) for e in folder.events() if e["event"] == "step"]
    assert steps == [(1, "first"), (2, "second")]


def test_asking_for_the_state_never_refuses_a_claim(folder: RunFolder) -> None:
    folder.update(state="running")
    code = (
        "from pathlib import Path; from workbench.results.folders import RunFolder\n"
        f"folder = RunFolder(Path({str(folder.results)!r}), {folder.name!r}); print('asking', flush=True)\n"
        "while True: folder.state()"
    )
    asker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert asker.stdout is not None
    asker.stdout.readline()
    try:
        for _ in range(300):
            with folder.claim():
                pass
    finally:
        asker.kill()
        asker.wait()


def test_a_checkpoint_counts_only_when_it_is_whole(folder: RunFolder) -> None:
    with folder.new_checkpoint(5) as place:
        (place / "a").write_text("5")
    with contextlib.suppress(RuntimeError), folder.new_checkpoint(9) as place:
        (place / "a").write_text("9")
        raise RuntimeError("power cut")
    latest = folder.latest_checkpoint()
    assert latest is not None
    assert (latest / "a").read_text() == "5"
    with folder.new_checkpoint(12) as place:
        (place / "a").write_text("12")
    assert [p.name for p in folder.checkpoints.iterdir()] == ["step-00000012"]


def test_the_results_frame_has_a_row_a_run_and_split_of_completed_runs(folder: RunFolder, tmp_path: Path) -> None:
    metrics = {"val": {"miou": 0.5}, "testA": {"miou": 0.25}}
    folder.update(state="completed", metrics=metrics, provenance={"code": "abc"})
    RunFolder(tmp_path, "other-000000000000/seed1").update(state="failed")
    frame = results_frame(all_runs(tmp_path))
    expected = pd.DataFrame({"split": ["val", "testA"], "seed": [0, 0], "miou": [0.5, 0.25], "code": ["abc", "abc"]})
    pd.testing.assert_frame_equal(frame[["split", "seed", "miou", "code"]], expected)


def test_run_json_is_plain_json_without_nan(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.update(loss=float("nan"))
    folder.update(loss=1.0)
    assert json.loads((folder.path / "run.json").read_text()) == {"loss": 1.0}
