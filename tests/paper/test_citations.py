"""Tables as text that others cite: formats, what is found when a number no longer agrees, and explanations."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests import stored
from tests.conftest import ROOT, Outcome
from workbench.grids import Grid, load_grid

Command = Callable[..., Outcome]
ODD = "a_b & <script>alert('x')</script> | 50% #1 {x} ~ ^ \\\\ \\\""
SETTINGS = f'settings: {{base: {{}}, "{ODD}": {{fusion.variant: l_dit}}}}\nbaseline: base\n'
NAME = ODD.replace('\\"', '"').replace("\\\\", "\\")


@pytest.fixture
def grid(grid_file: Callable[[str], Path]) -> Grid:
    return load_grid(grid_file(SETTINGS + "report: {metrics: [miou, oiou]}\n"))


@pytest.fixture
def results(grid: Grid, tmp_path: Path) -> Path:
    for seed in range(4):
        stored.complete(tmp_path / "r", grid.settings["base"], seed)
        stored.complete(tmp_path / "r", grid.settings[NAME], seed, draw=2000 + seed)
    return tmp_path / "r"


def mean(split: str, draw: int = 2000) -> float:
    return 25 * sum(stored.mean_iou(stored.expressions(["val", "testA"], draw + seed), split) for seed in range(4))


@pytest.mark.parametrize(("form", "ending"), [("md", "md"), ("latex", "tex")])
def test_a_number_that_changed_is_named_with_what_it_should_be(
    workbench: Command, grid: Grid, results: Path, tmp_path: Path, form: str, ending: str
) -> None:
    paper = tmp_path / f"paper.{ending}"
    paper.write_text(workbench("table", grid.file, "--results", results, "--format", form).out)
    right = workbench("check", paper, "--results", results)
    assert (right.code, right.out) == (0, f"{paper}: 18 numbers checked, 0 wrong\n"), right.err
    value = f"{mean('val'):.1f}"
    assert value in paper.read_text()
    paper.write_text(paper.read_text().replace(value, f"{mean('val') + 0.1:.1f}", 1))
    wrong = workbench("check", paper, "--results", results)
    assert wrong.code == 1
    assert f"on val is cited as {mean('val') + 0.1:.1f}" in wrong.out
    assert f"and is {value} ±" in wrong.out


@pytest.mark.parametrize("form", ["md", pytest.param("latex", marks=pytest.mark.exhaustive)])
def test_rows_whose_names_differ_in_punctuation_alone_are_told_apart(
    workbench: Command, grid_file: Callable[[str], Path], tmp_path: Path, form: str
) -> None:
    names = {"x=-1": 2, "x=1": 3, "x=1.1": 4, "x=11": 5, "α": 6, "β": 7}
    settings = ", ".join(f"'{name}': {{training.steps: {steps}}}" for name, steps in names.items())
    grid = load_grid(grid_file(f"settings: {{{settings}}}\nreport: {{metrics: [miou], splits: [val]}}\n"))
    results, paper = tmp_path / "r", tmp_path / f"paper.{form}"
    for draw, config in enumerate(grid.settings.values()):
        for seed in range(2):
            stored.complete(results, config, seed, draw=100 * draw + seed)
    paper.write_text(workbench("table", grid.file, "--results", results, "--format", form).out)
    right = workbench("check", paper, "--results", results)
    assert (right.code, right.out) == (0, f"{paper}: 12 numbers checked, 0 wrong\n"), right.out + right.err
    sound = paper.read_text()
    swapped = sound.replace("x=-1 ", "x=? ").replace("x=1 ", "x=-1 ").replace("x=? ", "x=1 ")
    paper.write_text(swapped)
    wrong = workbench("check", paper, "--results", results)
    assert wrong.code == 1
    assert wrong.out.count("is cited as") == 2
    paper.write_text(sound.replace("x=11 ", "x=12 "))
    assert (
        "the grid's table has no row 'x=12' (did you mean 'x=1" in workbench("check", paper, "--results", results).out
    )
    paper.write_text(sound.replace("x=1.1 ", "**`x=1.1`** "))
    assert workbench("check", paper, "--results", results).code == 0, "set in another way, and still told from x=11"


def test_a_table_of_another_preset_or_of_fewer_seeds_says_so_for_the_check(
    workbench: Command, tmp_path: Path, data_root: Path
) -> None:
    (tmp_path / "presets").mkdir()
    recipe = "data.recipe: {seed: 3, train_images: 40, eval_images: 6}\n"
    for name, steps in (("long", 9), ("short", 2)):
        text = f"{recipe}training: {{steps: {steps}, batch_size: 4}}\nevaluation.splits: [val]\n"
        (tmp_path / "presets" / f"{name}.yaml").write_text(f"{text}machine.data_root: '{data_root}'\n")
    file, results = tmp_path / "g.yaml", tmp_path / "r"
    file.write_text("title: t\nbase: {preset: long}\nsettings: {a: {}}\nseeds: [0, 1, 2]\nreport: {metrics: [miou]}\n")
    for preset, draw in (("long", 100), ("short", 200)):
        for seed in range(3):
            stored.complete(results, load_grid(file, preset=preset).settings["a"], seed, draw=draw + seed)
    options = ("--preset", "short", "--seeds", "0-1", "--results", results)
    for form in ("md", "latex"):
        paper = tmp_path / f"paper.{form}"
        paper.write_text(workbench("table", file, *options, "--format", form).out)
        assert "preset=short seeds=0-1 metric=miou" in paper.read_text()
        checked = workbench("check", paper, results / "g-short" / "table.md", "--results", results)
        assert checked.code == 0, checked.out + checked.err
        paper.write_text(paper.read_text().replace(" preset=short", ""))
        assert workbench("check", paper, "--results", results).code == 1


def test_numbers_in_sentences_are_checked_where_they_stand(
    workbench: Command, grid: Grid, results: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    marker = f"<!-- workbench: grid={grid.file} metric=miou setting=base split=val -->"
    page.write_text(f"Ten runs of 99.9 gave {mean('val', 1000):.2f} %{marker} on val.\n")
    assert workbench("check", page, "--results", results).code == 0
    page.write_text(f"They gave {mean('val', 1000) + 1:.0f}{marker}.\n")
    assert workbench("check", page, "--results", results).code == 1
    shutil.rmtree(results / "runs" / grid.settings["base"].setting_id / "seed3")
    page.write_text(f"They gave {mean('val', 1000):.2f}{marker}.\n")
    gone = workbench("check", page, "--results", results)
    assert gone.code == 1
    assert f"{page}:1: mIoU of base on val is cited as {mean('val', 1000):.2f}, and is " in gone.out


def test_what_markdown_shows_as_code_cites_nothing(
    workbench: Command, grid: Grid, results: Path, tmp_path: Path
) -> None:
    page, marker = tmp_path / "page.md", f"<!-- workbench: grid={grid.file} metric=miou setting=base split=val -->"
    shown = f"Write `1.0{marker}`, or\n\n```html\n1.0{marker}\n~~~\n```python\n2.0{marker}\n````\n\n"
    page.write_text(f"{shown}`val`: {mean('val', 1000):.2f}{marker}\n")
    checked = workbench("check", page, "--results", results)
    assert (checked.code, checked.err) == (0, "")
    assert "1 number" in checked.out
    page.write_text(f"{shown}`val`: {mean('val', 1000) + 1:.2f}{marker}\n")
    assert f"{page}:10: " in workbench("check", page, "--results", results).out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("No numbers.", "cites no numbers"),
        (
            "1.0 <!-- workbench: grid=GRID metric=miou setting=base split=test9 -->",
            "no value of setting 'base' on",
        ),
        ("1.0 <!-- workbench: grid=GRID metric=moiu setting=base split=val -->", "metric=moiu is none of miou"),
        ("1.0 <!-- workbench: grid=GRID setting=base split=val -->", "metric=… is missing"),
        ("1.0 <!-- workbench: grid=nowhere.yaml metric=miou setting=base split=val -->", "no such file"),
        ("word <!-- workbench: grid=GRID metric=miou setting=base split=val -->", "no number stands before"),
        ("<!-- workbench: grid=GRID metric=miou -->\nno table", "nor a table below it"),
        ("1.0 <!-- workbench: grid=GRID metric=miou colour=red -->", "'colour=red' is none of"),
    ],
)
def test_a_comment_that_means_nothing_is_an_error(
    workbench: Command, grid: Grid, results: Path, tmp_path: Path, text: str, message: str
) -> None:
    page = tmp_path / "page.md"
    page.write_text(text.replace("GRID", str(grid.file)))
    shown = workbench("check", page, "--results", results)
    assert shown.code == 2
    assert message in shown.err


def test_the_pages_of_this_project_cite_what_its_runs_say(workbench: Command, tmp_path: Path) -> None:
    pages = [ROOT / "README.md", ROOT / "docs" / "demo.md"]
    right = workbench("check", *pages)
    assert right.code == 0, right.out
    edited = tmp_path / "README.md"
    (row,) = re.findall(r"\| default +\| \d \| \d", pages[0].read_text())
    edited.write_text(pages[0].read_text().replace(row, f"{row[:-1]}{(int(row[-1]) + 1) % 10}"))
    for name in ("ablations", "results"):
        (tmp_path / name).symlink_to(ROOT / name)
    assert workbench("check", edited).code == 1


def test_latex_has_as_many_cells_in_each_line_and_no_command_from_a_name(
    workbench: Command, grid: Grid, results: Path
) -> None:
    text = workbench("table", grid.file, "--results", results, "--format", "latex").out
    assert text == (results / "grid" / "table.tex").read_text()
    tables = re.findall(r"\\begin\{tabular\}\{([^\n]*)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tables) == 2
    for columns, body in tables:
        wanted = len(re.sub(r"@\{.*?\}", "", columns))
        assert wanted == 6
        lines = [line.removesuffix(r" \\") for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) == 4
        for line in lines:
            spanned = sum(int(number) - 1 for number in re.findall(r"\\multicolumn\{(\d)\}", line))
            assert len(re.split(r"(?<!\\)&", line)) + spanned == wanted
    commented = re.sub(r"(?<!\\)%.*", "", text)
    assert commented.count("{") == commented.count("}")
    assert r"a\_b \& \textless{}script\textgreater{}alert" in commented
    assert r"50\% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}" in commented
    assert text.isascii()


class Page(HTMLParser):
    """The names of elements and the texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_names_stay_text_in_html_and_markdown(workbench: Command, grid: Grid, results: Path) -> None:
    page = Page(workbench("table", grid.file, "--results", results, "--format", "html").out)
    assert "script" not in page.elements
    assert any(text.startswith(NAME) for text in page.texts)
    assert f"{mean('val'):.1f} ± " in " ".join(page.texts)
    markdown = workbench("table", grid.file, "--results", results, "--format", "md").out
    assert "<script>" not in markdown
    row = next(line for line in markdown.splitlines() if "script" in line)
    assert len(re.split(r"(?<!\\)\|", row)) == 6


def test_published_numbers_stand_in_rows_of_their_own(
    workbench: Command, grid: Grid, results: Path, grid_file: Callable[[str], Path]
) -> None:
    table = workbench("table", grid.file, "--results", results, "--format", "csv").out
    assert "LAVT" not in table
    unknown = grid_file(SETTINGS + "report: {published: [LAVTT]}\n", "unknown")
    assert "report.published: " in workbench("table", unknown, "--results", results).err
    rows = list(csv.DictReader(io.StringIO(table)))
    [difference] = [r for r in rows if (r["setting"], r["split"], r["metric"]) == (NAME, "val", "miou")]
    assert difference["verdict"] in ("different", "inconclusive")
    assert float(difference["detectable"]) > 0
    assert float(difference["images_seen"]) == 24


def test_an_explanation_names_runs_values_and_what_is_set_otherwise(
    workbench: Command, grid: Grid, results: Path
) -> None:
    shown = workbench("table", grid.file, "--results", results, "--explain", NAME, "val", "miou")
    assert shown.code == 0, shown.err
    for seed in range(4):
        value = 100 * stored.mean_iou(stored.expressions(["val", "testA"], 2000 + seed), "val")
        assert f"{value:.1f}  {grid.settings[NAME].setting_id}/seed{seed}" in shown.out
    assert "fusion.variant: 'default' -> 'l_dit'" in shown.out
    assert "4 seeds × 5 images" in shown.out
    assert not (results / "grid").exists()
    wrong = workbench("table", grid.file, "--results", results, "--explain", "base", "val", "moiu")
    assert (wrong.code, "--explain: unknown metric" in wrong.err) == (2, True)
