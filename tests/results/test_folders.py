from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.config import RunConfig
from workbench.files import write_atomically
from workbench.results.folders import RunBusy, RunFolder, RunRemoved, StoreError, all_runs, seeds_of
from workbench.validation import DamagedFile


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
    folder.update(state="running", identity=identity)
    with pytest.raises(StoreError, match=r"config\.training\.steps: 7 -> 6"):
        RunFolder.of(tmp_path, make_config(), 0)


def test_a_truncated_record_names_the_file_and_the_way_out(folder: RunFolder) -> None:
    folder.update(state="completed", metrics={})
    record = folder.path / "run.json"
    record.write_bytes(record.read_bytes()[:20])
    with pytest.raises(DamagedFile, match=r"run\.json: damaged .* workbench retry GRID --class damaged"):
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
    assert folder.log().events[-1].event == "start"


def test_a_log_line_cut_short_by_a_crash_is_left_out(folder: RunFolder) -> None:
    with folder.claim() as log:
        log.write("step", step=1)
        log.write("step", step=2)
    folder.log_file.write_bytes(folder.log_file.read_bytes()[:-9])
    assert [event.step for event in folder.log().events] == [1]
    last = folder.log_tail().last("step")
    assert last is not None
    assert last.step == 1
    assert folder.log().damage == []


def test_the_line_after_a_cut_one_is_whole_and_steps_done_again_count_once(folder: RunFolder) -> None:
    with folder.claim() as log:
        for step in (1, 2, 3):
            log.write("step", step=step, part="first")
    folder.log_file.write_bytes(folder.log_file.read_bytes()[:-5])
    with folder.claim() as log:
        log.write("resume", step=1)
        log.write("step", step=2, part="second")
    steps = [(event.step, event.details()["part"]) for event in folder.log().events if event.event == "step"]
    assert steps == [(1, "first"), (2, "second")]


def test_a_run_that_died_before_its_first_checkpoint_logs_its_steps_once(folder: RunFolder) -> None:
    with folder.claim() as log:
        log.write("start", step=0)
        log.write("step", step=1, part="first")
        log.write("validate", step=1, miou=10.0)
    with folder.claim() as log:
        log.write("start", step=0)
        log.write("step", step=1, part="second")
    assert [event.details()["part"] for event in folder.log().events if event.event == "step"] == ["second"]
    assert not [event for event in folder.log().events if event.event == "validate"]
    assert sum(event.event == "step" for event in folder.log(all_lines=True).events) == 2


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


def test_a_damaged_line_of_a_log_is_named_and_the_others_are_read(folder: RunFolder) -> None:
    with folder.claim() as log:
        log.write("start", step=0)
        log.write("step", step=1)
    with folder.log_file.open("ab") as stream:
        stream.write(b'{"event": "step", "time": "noon", "step": 2}\n{"event": "st\n{"event": "end", "time": 5}\n')
    log_of_run = folder.log()
    assert [event.event for event in log_of_run.events] == ["start", "step", "end"]
    assert log_of_run.damage[0].startswith(f"{folder.log_file}: line 3 is damaged (time: 'noon' is not valid")
    assert log_of_run.damage[1].startswith(f"{folder.log_file}: line 4 is damaged (")
    assert len(log_of_run.damage) == 2


def test_the_tail_of_a_long_log_begins_with_a_whole_line(folder: RunFolder) -> None:
    with folder.claim() as log:
        for step in range(500):
            log.write("step", step=step)
    tail = folder.log_tail()
    assert tail.damage == []
    assert tail.events[-1].step == 499
    assert 0 < len(tail.events) < 500


def test_seeds_are_those_that_have_a_record(tmp_path: Path) -> None:
    for name in ("a-b/seed0", "a-b/seed10", "a-b/seed2", "a-bc/seed5", "a-b/seedX", "a-b/seed03"):
        RunFolder(tmp_path, name).update(state="failed")
    RunFolder(tmp_path, "a-b/seed7").path.mkdir()
    assert seeds_of(tmp_path, "a-b") == (0, 2, 10)
    assert seeds_of(tmp_path, "nothing") == ()
    assert "a-b/seedX" not in [run.name for run in all_runs(tmp_path)]


def test_a_record_without_a_state_is_damaged(folder: RunFolder) -> None:
    folder.update(state="completed")
    (folder.path / "run.json").write_text('{"seed": 0}')
    with pytest.raises(DamagedFile, match=r"run\.json: damaged \(state: is required\)"):
        folder.record()
    assert folder.state() == "damaged"


def test_run_json_is_plain_json_without_nan(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.update(state="running", loss=float("nan"))
    folder.update(state="running", loss=1.0)
    assert json.loads((folder.path / "run.json").read_text()) == {"state": "running", "loss": 1.0}


def test_fields_alone_make_no_record(folder: RunFolder) -> None:
    with pytest.raises(RunRemoved, match="its folder was removed"):
        folder.update(best={"step": 3, "metric": "miou", "value": 0.5})
    assert not folder.path.exists()


def test_an_analysis_of_a_joint_data_sets_split_stands_among_the_artefacts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "a-0123456789ab/seed0")
    assert folder.artefact("attention", "val", ".csv") == folder.artefacts / "attention_val.csv"
    assert folder.artefact("attention", "refcoco/val").parent == folder.artefacts
    assert folder.artefact("attention", "a/val") != folder.artefact("attention", "b/val")
