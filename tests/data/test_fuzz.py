"""Whatever is in a data set's files, a command ends by itself, in one line that says what is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.data.fuzzing import KINDS

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]
FEWEST = 2000
LONGEST_MESSAGE = 2000
MEMORY = 800 * 1024**2
"""That a case may take; decoding an image of the most pixels that are allowed takes 735 MiB."""
NAMED = re.compile(
    r"instances\.json|refs\(unc\)\.|refcoco\.json|\.npy|\.jpg|\.arrow|prepared|predictions\.json|statistics\.csv"
    r"|images|masks|refcoco|NAME|--name|--split-by"
)
"""What a message may name: a file, a folder or an option."""
SHOWN = 20


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What became of each case, in a process of their own; the last says how many there were."""
    scratch = tmp_path_factory.mktemp("fuzz")
    command = [sys.executable, "-m", "tests.data.fuzzing", str(scratch)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    file = Path(scratch / "outcomes.jsonl")
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    assert found, done.stderr[-3000:]
    return found


def faults_of(outcome: dict[str, Any]) -> list[str]:
    """What is wrong with how a case ended."""
    faults: list[str] = outcome["faults"]
    if outcome["code"] is None:
        return faults or ["no exit code"]
    wanted: Sequence[int] = (2,) if outcome["refused"] else (0, 1, 2) if outcome["command"] == "check" else (0, 2)
    if outcome["code"] not in wanted:
        return [*faults, f"exit code {outcome['code']}: {outcome['out']}"]
    last = outcome["err"].rstrip("\n").split("\n")[-1]
    if "Traceback" in outcome["err"]:
        return [*faults, "a traceback is printed"]
    if outcome["code"] == 2:
        if not last.startswith("error: "):
            return [*faults, f"the last line is {last[:200]!r}"]
        if len(last) > LONGEST_MESSAGE:
            return [*faults, f"{len(last):,} characters: {last[:200]}…"]
        if not NAMED.search(last):
            return [*faults, f"names no file: {last}"]
    return faults


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_ends_in_a_clear_message_and_does_nothing(kind: str, outcomes: list[dict[str, Any]]) -> None:
    cases = [outcome for outcome in outcomes if outcome.get("kind") == kind]
    assert cases
    found = [(case, fault) for case in cases for fault in faults_of(case)]
    lines = [f"{kind} {case['seed']}: {fault}" for case, fault in found[:SHOWN]]
    assert not found, f"{len(found)} of {len(cases)} cases\n" + "\n".join(lines)


def test_all_cases_ran_in_one_process(outcomes: list[dict[str, Any]]) -> None:
    ran = len(outcomes) - 1
    assert ran >= FEWEST
    assert outcomes[-1] == {"cases": ran, "processes": 1}


def test_memory_is_bounded(outcomes: list[dict[str, Any]]) -> None:
    grown = {f"{o['kind']} {o['seed']}": o["grown"] for o in outcomes[:-1]}
    assert {case: f"{taken >> 20} MiB" for case, taken in grown.items() if taken > MEMORY} == {}
