from __future__ import annotations

import json

import pytest

from workbench.results.record import Attempts, ExpressionKey, LogEvent, RunId, RunRecord
from workbench.validation import Damage, parse_record


def test_a_run_id_is_a_setting_and_a_seed() -> None:
    assert str(RunId("refshapes-vit_mini-l_dit-0123456789ab", 3)) == "refshapes-vit_mini-l_dit-0123456789ab/seed3"
    assert RunId.parse("a-b/seed12") == RunId("a-b", 12)


@pytest.mark.parametrize(
    "text", ["", "a", "a/seed", "a/seed-1", "a/seed01", "a/b/seed1", "/seed1", "a/seed1\n", "a/seed1" + "0" * 30]
)
def test_other_texts_are_no_run_ids(text: str) -> None:
    with pytest.raises(ValueError, match="is no run id"):
        RunId.parse(text)


def test_an_expression_is_known_by_split_referent_and_sentence() -> None:
    assert ExpressionKey("val", 3, 7) != ExpressionKey("testA", 3, 7) != ExpressionKey("testA", 4, 7)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"state": 3}, "state"),
        ({"state": "queued"}, "state"),
        ({"state": "running", "steps": "many"}, "steps"),
        ({"state": "completed", "metrics": []}, "metrics"),
        ({"state": "completed", "metrics": {"val": 0.5}}, "metrics.val"),
        ({"state": "completed", "metrics": {"val": {"miou": "high"}}}, "metrics.val.miou"),
        ({"state": "failed", "error": "boom"}, "error"),
        ({"state": "failed", "error": {"class": 4}}, "error.class"),
        ({"state": "failed", "tries": {"timeout": "x"}}, "tries.timeout"),
        ({"state": "failed", "tries": {"progress": [1]}}, "tries.progress.1"),
        ({"state": "running", "codes": "abc"}, "codes"),
        ({"state": "running", "identity": {"schema": 1}}, "identity.config"),
        ({"state": "running", "provenance": ["abc"]}, "provenance"),
        ({"state": "running", "started": "yesterday"}, "started"),
    ],
)
def test_a_wrong_field_of_a_record_is_named(document: dict[str, object], field: str) -> None:
    with pytest.raises(Damage) as raised:
        parse_record(json.dumps(document).encode(), RunRecord)
    assert raised.value.mistake.key == field


def test_attempts_count_each_class_of_failure() -> None:
    tries = parse_record(b'{"submission": 4, "timeout": 2, "progress": [100, 0], "without_progress": 1}', Attempts)
    assert (tries.of("timeout"), tries.of("killed"), tries.progress) == (2, 0, (100, 0))


def test_the_threads_of_a_begun_run_are_a_sound_number_or_not_known() -> None:
    assert RunRecord(machine={"threads": 2}).threads == 2
    assert RunRecord(machine={"threads": "two"}).threads is None
    assert RunRecord(machine={"threads": -1}).threads is None


def test_the_details_of_an_event_are_what_was_written() -> None:
    event = parse_record(b'{"event": "step", "time": 5.0, "step": 3, "loss": 0.25, "note": "x"}', LogEvent)
    assert event.details() == {"step": 3, "loss": 0.25, "note": "x"}
