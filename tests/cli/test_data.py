"""The data commands as they are typed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.data import fixtures
from workbench.paper import style

Workbench = Callable[..., Any]


def test_prepare_counts_and_names_each_difference(workbench: Workbench, tmp_path: Path) -> None:
    fixtures.write_refcoco(tmp_path, "refcocog", "umd")
    found = workbench("data", "prepare", "refcocog", "--root", tmp_path, "--results", ROOT / "results")
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert lines[0] == f"refcocog (umd), read from its refs form in {tmp_path / 'refcocog'}"
    assert lines[1].split() == ["split", "refs", "images", "expressions", "objects"]
    assert lines[2].split() == ["train", "9", "3", "18", "9"]
    assert lines[5].split() == ["all", "24", "8", "48", "24"]
    assert "0 of 8 published counts are met" in found.out
    assert "differs: train: 9 refs, published 42,226 (-42,217); source: TFDS" in found.out
    assert found.out.count("differs: ") == 8
    record = json.loads((tmp_path / "prepared" / "refcocog-umd" / "prepared.json").read_text())
    assert f"sha256 {record['digest']}" in lines
    assert [source["file"] for source in record["sources"]] == [
        "../../refcocog/instances.json",
        "../../refcocog/refs(umd).p",
    ]


def test_check_exits_by_what_it_finds(workbench: Workbench, tmp_path: Path) -> None:
    fixtures.write_refcoco(tmp_path, "refcocog", "google")
    good = workbench("data", "check", "refcocog", "--root", tmp_path, "--split-by", "google")
    assert good.code == 0, good.err
    assert "48 expressions, 0 problems" in good.out
    assert "not checked: sentences over 20 tokens, for there is no checkpoints/bert-base-uncased" in good.out
    image = tmp_path / "images" / "train2014" / fixtures.file_name(5)
    image.write_bytes(image.read_bytes()[:400])
    bad = workbench(
        "data", "check", "refcocog", "--root", tmp_path, "--split-by", "google",
        "--text-encoder", "bert_mini", "--max-tokens", 8,
    )  # fmt: skip
    assert bad.code == 1
    assert "wrong: broken or missing images: 1 (" in bad.out
    assert "note: sentences of more than 8 tokens, which are cut: 24 (" in bad.out
    assert bad.out.splitlines()[-1].endswith(", 1 problem")


@pytest.mark.parametrize("name", ["refcoco", "grefcoco"])
def test_show_draws_a_referent(workbench: Workbench, tmp_path: Path, name: str) -> None:
    fixtures.write_refcoco(tmp_path)
    fixtures.write_grefcoco(tmp_path)
    last = {"refcoco": 23, "grefcoco": 39}[name]
    results = tmp_path / "results"
    for index in (0, last):
        shown = workbench("data", "show", name, "--index", index, "--root", tmp_path, "--results", results)
        assert shown.code == 0, shown.err
        with Image.open(results / "data" / f"{name}-{index}.png") as picture:
            assert picture.width == 2062
            assert len(set(picture.convert("L").tobytes())) > 20
    source = json.loads((results / "data" / f"{name}-{last}.json").read_text())
    expected = [["left one", "café on the right", "the red thing above the chair"], ["the green dog"]][name[0] == "g"]
    assert source["sentences"] == expected
    beyond = workbench("data", "show", name, "--index", last + 1, "--root", tmp_path, "--results", results)
    assert beyond.code == 2
    assert beyond.err.endswith(f"error: --index {last + 1}: {name} has referents 0 to {last}\n")


@pytest.mark.parametrize("sentence", ["the $5 bill next to the $10 bill", r"the $\frac{$ sign"])
def test_dollars_in_a_sentence_are_dollars(
    workbench: Workbench, tmp_path: Path, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture is that of a sentence whose dollars are escaped, drawn by a matplotlib that reads mathematics."""
    fixtures.write_refcoco(tmp_path)
    refs = tmp_path / "refcoco" / "refs(unc).p"
    arguments = ("data", "show", "refcoco", "--index", "0", "--root", tmp_path, "--results")

    def shown(text: str, name: str) -> Image.Image:
        changed = fixtures.refs(8, fixtures.SPLITS["unc"])
        changed[0]["sentences"] = [{**changed[0]["sentences"][0], "sent": text}]
        refs.write_bytes(pickle.dumps(changed, 2))
        done = workbench(*arguments, tmp_path / name)
        assert done.code == 0, done.err
        return Image.open(tmp_path / name / "data" / "refcoco-0.png")

    found = shown(sentence, "found")
    monkeypatch.setitem(style.RC, "text.parse_math", True)
    expected = shown(sentence.replace("$", r"\$"), "expected")
    assert found.size == expected.size
    assert found.tobytes() == expected.tobytes()


def test_an_image_of_another_size_than_annotated_is_one_line(workbench: Workbench, tmp_path: Path) -> None:
    fixtures.write_refcoco(tmp_path)
    for file in (tmp_path / "images" / "train2014").iterdir():
        Image.new("RGB", (7, 5)).save(file)
    done = workbench("data", "show", "refcoco", "--index", "0", "--root", tmp_path, "--results", tmp_path / "results")
    assert done.code == 2
    assert "the image is 5×7, its annotation says" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["prepare", "refcocoo"],
            ["unknown data set 'refcocoo' (did you mean 'refcoco'?)", "known: refcoco, refcoco+"],
        ),
        (["prepare", "refcoco+"], ["missing file", "refcoco+/instances.json"]),
        (["prepare", "../refcoco"], ["a name without folders"]),
        (["prepare", "refcoco", "--split-by", "google"], ["refs(google).p", "there is refs(unc).p"]),
        (["check", "refcoco", "--split-by", "../x"], ["a name without folders"]),
        (
            ["show", "refcoco", "--index", "0", "--split", "test"],
            ["no split 'test' (did you mean 'test", "it has train, val, testA, testB"],
        ),
    ],
)
def test_bad_input_is_one_line(workbench: Workbench, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    fixtures.write_refcoco(tmp_path)
    found = workbench("data", *arguments, "--root", tmp_path)
    assert found.code == 2
    assert found.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in found.err
    assert all(part in found.err for part in parts), found.err


def test_a_grid_on_files_that_nobody_prepared_just_works(workbench: Workbench, tmp_path: Path) -> None:
    fixtures.write_refcoco(tmp_path, images=8)
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "title: small\nbase:\n  data: {dataset: refcoco}\n  training: {steps: 2, batch_size: 2}\n"
        "  evaluation: {splits: [val, testA, testB]}\n  machine: {trackers: [], threads: 1}\nsettings: {a: {}}\n"
    )
    options = ("--data-root", tmp_path, "--results", tmp_path / "results")
    missing = workbench("plan", grid, "--results", tmp_path / "results", "--data-root", tmp_path / "nowhere")
    assert "the ids of its runs are not known; name its folder with --data-root, or pin data.sha256" in missing.err
    trained = workbench("train", grid, "--setting", "a", *options)
    assert trained.code == 0, trained.err
    (record,) = (tmp_path / "results" / "runs").glob("*/seed0/run.json")
    digest = json.loads((tmp_path / "prepared" / "refcoco-unc" / "prepared.json").read_text())["digest"]
    assert json.loads(record.read_text())["identity"]["config"]["data"]["sha256"] == digest
    assert "1 run: 1 completed" in workbench("status", grid, *options).out
    table = workbench("table", grid, "--by", "distractors", *options)
    assert table.code == 0, table.err
    assert "mIoU by other objects of its class" in table.out
    # Other annotations are another run.
    refs = fixtures.refs(8, fixtures.SPLITS["unc"])
    refs[0]["sentences"][0]["sent"] = "another one"
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs))
    (line,) = [line for line in workbench("plan", grid, *options).out.splitlines() if line.startswith("a ")]
    assert line.split()[2] == "new"
    assert record.parent.parent.name not in line
    grid.write_text(grid.read_text().replace("dataset: refcoco", f"dataset: refcoco, sha256: {digest}"))
    refused = workbench("train", grid, "--setting", "a", "--seed", 1, *options)
    assert refused.code == 2
    assert f"data.sha256 is {digest}, but refcoco (unc) there has" in refused.err
