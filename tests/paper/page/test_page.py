"""What the report holds: the numbers of the runs, what is missing, text as text, and the same bytes twice."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup, Tag
from PIL import Image

from tests import stored
from tests.paper.page.conftest import SENTENCES, complete, made
from workbench.grids import Grid
from workbench.grids.evaluated import evaluated
from workbench.paper.layout import lay_out
from workbench.paper.page import empty_part, html, page_html, part_of
from workbench.paper.page.curves import MOST_POINTS, chart
from workbench.paper.page.gallery import gallery
from workbench.paper.page.summary import sentences
from workbench.paper.page.tables import PublishedView
from workbench.paper.page.thumbnails import SIDE, thumbnail
from workbench.paper.render import cell_marks
from workbench.paper.verdicts import Judgement
from workbench.results.folders import RunFolder
from workbench.results.frames import RunFolders
from workbench.results.scored import PredictionFile, ScoredFolder, ScoreRecord
from workbench.results.summary import Summary


def parsed(content: bytes) -> BeautifulSoup:
    return BeautifulSoup(content.decode(), "html.parser")


def cell(soup: BeautifulSoup, metric: str, row: str, column: str) -> Tag:
    """A cell by the words of its table's caption, row and column."""
    tables = [t for t in soup.select("table.results") if t.caption.get_text().split()[0] == metric]
    assert len(tables) == 1
    columns = [th.get_text(strip=True) for th in tables[0].select("thead th")]
    rows = [tr for tr in tables[0].select("tbody tr") if tr.th.get("data-value") == row]
    assert len(rows) == 1
    return rows[0].find_all(["th", "td"], recursive=False)[columns.index(column)]


def missing(soup: BeautifulSoup) -> list[str]:
    return [line.get_text(strip=True) for line in soup.select(".missing li")]


def test_the_table_shows_what_the_runs_hold(study: tuple[Grid, Path], page: bytes) -> None:
    grid, results = study
    soup = parsed(page)
    for setting in ("default", "e_dit"):
        ious = []
        for seed in grid.seeds:
            frame = RunFolder.of(results, grid.settings[setting], seed).expressions()
            ious.append(100 * stored.mean_iou(frame, "testA"))
        shown = cell(soup, "mIoU", setting, "testA")
        assert shown.select_one(".value").get_text() == f"{np.mean(ious):.1f}"
        assert shown.select_one(".spread").get_text() == f"± {np.std(ious, ddof=1):.1f}"
        assert float(shown["data-value"]) == pytest.approx(np.mean(ious), abs=1e-5)
    assert cell(soup, "mIoU", "l_dit", "Seeds").get_text() == "1"


def test_the_summary_says_what_is_ahead_and_by_how_much(page: bytes) -> None:
    soup = parsed(page)
    lines = [line.get_text() for line in soup.select(".sentences li")]
    assert lines[0].startswith(
        "3 settings (default, e_dit, l_dit) on val, testA of refshapes, 1 to 3 seeds per setting"
    )
    difference = cell(soup, "mIoU", "l_dit − default", "val").select_one(".value").get_text()
    [of_val] = [line for line in lines if line.startswith("mIoU on val: ")]
    assert f"l_dit by {difference.removeprefix('+')} points" in of_val
    # Seven half hours on one thread.
    assert lines[-1] == "The 7 completed runs took 3.5 CPU-hours (time × threads)."


def test_numbers_bear_the_marks_of_the_tests_and_say_what_these_found(study: tuple[Grid, Path], page: bytes) -> None:
    grid, results = study
    table, soup = lay_out(evaluated(grid, RunFolders(results))), parsed(page)
    seen, block = set(), table.block("miou")
    for row in block.rows:
        for column, of_row in zip(block.columns, row.cells, strict=True):
            shown = cell(soup, "mIoU", row.name if row.kind == "value" else f"{row.name} − default", column)
            assert "".join(one.get_text() for one in shown.select("abbr")) == cell_marks(of_row)
            assert all(one["title"] for one in shown.select("abbr"))
            seen |= set(cell_marks(of_row))
            said = " ".join(json.loads(shown.button["data-cell"])["tests"])
            if row.kind == "value":
                assert said == ""
            elif row.name == "e_dit":
                assert of_row.judgement is not None
                assert f"with Holm over {table.family.tests} p = {of_row.judgement.p:.2g}" in said
                assert "3 seeds × " in said
            else:
                assert "no test is made with fewer than 3" in said
    assert seen, "none has a mark, so nothing was compared"


def test_the_summary_calls_nothing_ahead_that_the_tests_do_not(study: tuple[Grid, Path]) -> None:
    grid, results = study
    found = evaluated(grid, RunFolders(results))
    table = lay_out(found)

    def of_val(**judged: float) -> str:
        """The sentence, were the difference of e_dit judged so."""
        block, *others = table.blocks
        judgement = Judgement(**judged)
        rows = [
            replace(row, cells=tuple(replace(one, low=0.01, high=0.05, judgement=judgement) for one in row.cells))
            if (row.name, row.kind) == ("e_dit", "difference") else row
            for row in block.rows if row.name != "l_dit"
        ]  # fmt: skip
        lines = sentences(found, replace(table, blocks=(replace(block, rows=tuple(rows)), *others)))
        return next(line for line in lines if line.startswith("mIoU on val: "))

    assert of_val(p=0.001, p_equivalent=1.0).startswith("mIoU on val: ahead of default: e_dit by ")
    uncertain = of_val(p=0.2, p_equivalent=1.0)
    assert uncertain.startswith(
        "mIoU on val: nothing is clearly ahead of default; the largest difference is that of e_dit"
    )
    assert uncertain.endswith("[+1.0, +5.0], which the test does not tell from zero.")
    assert of_val(p=0.2, p_equivalent=0.01).endswith("equivalent by the test.")
    assert of_val().startswith("mIoU on val: ahead of default, with too few seeds for a test: e_dit by ")


def test_published_numbers_stand_below_with_year_and_source(study: tuple[Grid, Path]) -> None:
    grid, results = study
    part = part_of(0, 1, evaluated(grid, RunFolders(results)), results, from_summary=True)
    assert parsed(page_html([part])).select("table.published") == []
    view = PublishedView(["Published", "val", "Year", "Source"], [["<b>A", "61.2", "2022", "arXiv"]], [1, 2])
    table = parsed(page_html([replace(part, published=view)])).select_one("table.published")
    assert [th.get_text() for th in table.select("thead th")] == ["Published", "val", "Year", "Source"]
    assert [one.get_text() for one in table.select("tbody th, tbody td")] == ["<b>A", "61.2", "2022", "arXiv"]
    assert [one.get_text() for one in table.select("tbody .number")] == ["61.2", "2022"]


@pytest.mark.exhaustive
def test_the_baseline_is_called_so_and_labels_are_what_settings_are_called(study: tuple[Grid, Path]) -> None:
    grid, results = study
    labelled = replace(grid, labels={"l_dit": "L-DIT"})
    part = part_of(0, 1, evaluated(labelled, RunFolders(results)), results, from_summary=True)
    soup, without = (parsed(page_html([one])) for one in (part, replace(part, baseline=None)))
    assert all("l_dit" not in one.get_text() for one in soup.select(".panels .name, .sentences li"))
    assert [one.get_text(" ", strip=True) for one in soup.select("details.setting > summary")] == [
        "default 3 of 3 runs completed, the baseline", "e_dit 3 of 3 runs completed", "L-DIT 1 of 3 runs completed",
    ]  # fmt: skip
    assert not any("baseline" in one.get_text() for one in without.select("details.setting > summary"))


def test_missing_and_failed_runs_are_named(page: bytes) -> None:
    soup = parsed(page)
    lines = missing(soup)
    assert "l_dit seed 1 (failed): CUDA out of memory <at step 3>" in lines
    assert "l_dit seed 2 (not begun)" in lines
    assert any(line.startswith("Figure attention: ") and "has no checkpoint" in line for line in lines)
    rows = [[td.get_text() for td in tr.find_all(["th", "td"])][:2] for tr in soup.select("#g0-s2 tbody tr")]
    assert rows[-3:] == [
        ["0", "completed"],
        ["1", "failed: CUDA out of memory <at step 3>"],
        ["2", "not begun"],
    ]


@pytest.mark.exhaustive
def test_a_run_more_or_less_changes_the_page(study: tuple[Grid, Path], page: bytes, tmp_path: Path) -> None:
    grid, results = study
    copy = tmp_path / "results"
    shutil.copytree(results / "runs", copy / "runs")
    shutil.rmtree(RunFolder.of(copy, grid.settings["e_dit"], 2).path)
    complete(copy, grid, "l_dit", 2, shift=1)
    soup = parsed(page_html([part_of(0, 1, evaluated(grid, RunFolders(copy)), copy, from_summary=True)]))
    assert "e_dit seed 2 (not begun)" in missing(soup)
    assert "l_dit seed 2 (not begun)" not in missing(soup)
    assert [cell(soup, "mIoU", name, "Seeds").get_text() for name in ("default", "e_dit", "l_dit")] == ["3", "2", "2"]
    before, after = (cell(s, "mIoU", "default", "val").get_text() for s in (parsed(page), soup))
    assert before == after


@pytest.mark.exhaustive
def test_the_same_runs_make_the_same_bytes(study: tuple[Grid, Path], page: bytes, tmp_path: Path) -> None:
    grid, results = study
    # Elsewhere, so that figures are drawn again; only the folder's name, in a message, differs.
    shutil.copytree(results / "runs", tmp_path / "runs")
    assert made(grid, tmp_path).replace(str(tmp_path).encode(), str(results).encode()) == page


def test_sentences_and_titles_stay_text(page: bytes) -> None:
    soup = parsed(page)
    shown = {bdi.get_text() for bdi in soup.select(".sentence bdi")}
    assert shown == {sentence.replace("\u0007", "\ufffd") for sentence in SENTENCES}
    assert all(bdi["dir"] == "auto" for bdi in soup.select(".sentence bdi"))
    assert soup.h1.get_text() == "Words & <masks>"
    assert len(soup.find_all("script")) == 1
    assert not [tag for tag in soup.find_all() if any(name.startswith("on") or name == "style" for name in tag.attrs)]


def test_the_policy_lets_in_what_is_inside_and_nothing_else(page: bytes) -> None:
    soup = parsed(page)
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert policy.startswith("default-src 'none'; ")
    for name in ("style", "script"):
        # As a browser does it: of the bytes between the tags.
        [content] = re.findall(rb"<%b>(.*?)</%b>" % (name.encode(), name.encode()), page, re.DOTALL)
        assert f"{name}-src 'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'" in policy
    assert "unsafe" not in policy
    outside = [tag[name] for tag in soup.find_all() for name in ("src", "href") if name in tag.attrs]
    assert outside
    assert all(address.startswith(("data:", "#")) for address in outside)


def test_gallery_shows_image_truth_and_predictions(study: tuple[Grid, Path], page: bytes) -> None:
    soup = parsed(page)
    cards = soup.select(".card")
    assert cards
    assert {group for card in cards for group in card["data-groups"].split()} == {"worst", "best", "disagree", "random"}
    assert {card["data-split"] for card in cards} == {"val", "testA"}
    for card in cards:
        captions = [caption.get_text(" ", strip=True) for caption in card.select("figcaption")]
        assert [caption.split()[0] for caption in captions] == ["truth", "default", "e_dit", "l_dit"]
        assert len(card.select("img[alt]")) == 4
    grid, results = study
    frame = RunFolder.of(results, grid.settings["default"], 0).expressions()
    sent_id = int(re.search(r"sent_id (\d+)", cards[0].get_text())[1])
    iou = frame[frame["sent_id"] == sent_id]["iou"].iloc[0]
    assert f"default IoU {100 * iou:.0f}" in cards[0].get_text(" ", strip=True)


@pytest.mark.exhaustive
def test_a_summary_alone_is_enough(study: tuple[Grid, Path], page: bytes, tmp_path: Path) -> None:
    grid, results = study
    evaluated(grid, RunFolders(results)).write_summary(tmp_path / "summary")
    stored_alone = evaluated(grid, Summary(tmp_path / "summary"))
    soup = parsed(page_html([part_of(0, 1, stored_alone, tmp_path / "nothing", from_summary=True)]))
    for name in ("default", "l_dit", "e_dit − default"):
        assert cell(soup, "mIoU", name, "val").get_text() == cell(parsed(page), "mIoU", name, "val").get_text()
    assert soup.select(".card")
    assert not soup.select(".card img")
    assert any("holds no images, masks, learning curves" in line for line in missing(soup))
    assert "Figure predictions: it needs the run folders." in missing(soup)
    assert len(soup.select("figure.figure")) == 5, "the two of the models, bars, breakdowns and budgets"
    assert soup.select_one(".sentences li:last-child").get_text().endswith("without a GPU took 3.5 hours.")


def test_damaged_masks_are_left_out_and_named(study: tuple[Grid, Path], tmp_path: Path) -> None:
    grid, results = study
    shutil.copytree(results / "runs", tmp_path / "runs")
    folder = RunFolder.of(tmp_path, grid.settings["e_dit"], 0)
    folder.write_expressions(folder.expressions().assign(prediction="damaged"))
    shown = gallery(evaluated(grid, RunFolders(tmp_path)), tmp_path, 1)
    assert list(shown.missing) == ["Expressions: masks of e_dit are not stored, or damaged."]
    for card in shown.cards:
        assert card.picture is not None
        assert [panel.setting for panel in card.panels if panel.picture is None] == ["e_dit"]


def test_without_images_sentences_and_scores_are_there(study: tuple[Grid, Path], tmp_path: Path) -> None:
    grid, results = study
    (tmp_path / "data").write_text("no folder")
    elsewhere = {
        name: config.model_copy(update={"machine": config.machine.model_copy(update={"data_root": tmp_path / "data"})})
        for name, config in grid.settings.items()
    }
    shown = gallery(evaluated(replace(grid, settings=elsewhere), RunFolders(results)), results, 1)
    [line] = shown.missing
    assert line.startswith("Expressions: no images: ")
    assert all(card.picture is None and card.sentence and card.panels[0].iou for card in shown.cards)


def test_pictures_stay_within_their_room(study: tuple[Grid, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    grid, results = study
    monkeypatch.setattr("workbench.paper.page.gallery.PICTURE_BYTES", 30_000)
    shown = gallery(evaluated(grid, RunFolders(results)), results, 1)
    assert 0 < sum(card.size for card in shown.cards) <= 30_000
    assert "Expressions: the page has no room for the pictures of all." in shown.missing


@pytest.mark.exhaustive
def test_predictions_made_elsewhere_have_rows_and_pictures(study: tuple[Grid, Path], tmp_path: Path) -> None:
    grid, results = study
    shutil.copytree(results / "runs", tmp_path / "runs")
    file = PredictionFile(file="theirs.json", sha256="ab" * 32)
    record = ScoreRecord(name="theirs", dataset={}, predictions=file, no_target_area=0, metrics={})
    frame = RunFolder.of(results, grid.settings["e_dit"], 0).expressions()
    ScoredFolder(tmp_path, "theirs").write(record, frame)
    grid = replace(grid, report=grid.report.model_copy(update={"models": ("theirs",)}))
    with_theirs = evaluated(grid, RunFolders(tmp_path))
    soup = parsed(page_html([part_of(0, 1, with_theirs, tmp_path, from_summary=True)]))
    shown = cell(soup, "mIoU", "theirs", "val")
    assert shown.select_one(".value").get_text() == f"{100 * stored.mean_iou(frame, 'val'):.1f}"
    details = json.loads(shown.button["data-cell"])
    assert (details["seeds"], details["setting"]) == ([], None)
    assert cell(soup, "mIoU", "theirs − default", "val").button is not None
    assert any("theirs (theirs.json, SHA-256 abab" in line.get_text() for line in soup.select(".notes li"))
    panels = [panel for card in gallery(with_theirs, tmp_path, 1).cards for panel in card.panels]
    assert [panel.spread for panel in panels if panel.setting == "theirs" and panel.picture is not None]


@pytest.mark.exhaustive
def test_values_by_seed_stand_beside_their_runs(study: tuple[Grid, Path], tmp_path: Path) -> None:
    grid, _ = study
    for seed in (2, 10, 0):
        complete(tmp_path, grid, "default", seed, shift=1 + seed)
    part = part_of(0, 1, evaluated(grid, RunFolders(tmp_path)), tmp_path, from_summary=True)
    [(_, rows), *_] = part.tables[0].groups
    seeds = rows[0].cells[0].details["seeds"]
    assert [one["seed"] for one in seeds] == [0, 2, 10]
    for one in seeds:
        frame = RunFolder(tmp_path, one["run"]).expressions()
        assert one["run"].endswith(f"/seed{one['seed']}")
        assert one["value"] == f"{100 * stored.mean_iou(frame, 'val'):.1f}"


def test_a_setting_says_how_it_differs_and_where_its_runs_come_from(page: bytes) -> None:
    body = parsed(page).select_one("#g0-s1 .setting-body")
    fields = {tr.th.get_text(): [td.get_text() for td in tr.find_all("td")] for tr in body.table.tbody.find_all("tr")}
    assert fields["fusion.variant"] == ['"default"', '"e_dit"']
    assert fields["fusion.projector.type"] == ["–", '"linear"']
    text = body.get_text(" ", strip=True)
    assert "torch 2.11.0" in text
    assert "0123456789ab" in text
    assert "recipe seed 3" in text
    charts = {chart.figcaption.get_text(): chart for chart in body.select(".chart")}
    assert set(charts) == {"Training loss by step", "mIoU of the validation by step, in per cent"}
    for points, name in ((4, "Training loss by step"), (3, "mIoU of the validation by step, in per cent")):
        lines = charts[name].select("svg[role] polyline")
        assert [len(line["points"].split()) for line in lines] == [points] * 3


@pytest.mark.exhaustive
def test_several_grids_stand_on_one_page(study: tuple[Grid, Path]) -> None:
    grid, results = study
    first = part_of(0, 2, evaluated(grid, RunFolders(results)), results, from_summary=True)
    soup = parsed(page_html([first, empty_part(1, grid, "no completed run yet")]))
    assert [link["href"] for link in soup.select("nav a")] == ["#g0", "#g1"]
    assert "no completed run yet" in soup.select_one("#g1").get_text()
    ids = [tag["id"] for tag in soup.select("[id]")]
    assert len(ids) == len(set(ids))


def test_a_page_too_large_is_refused(study: tuple[Grid, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    grid, _ = study
    monkeypatch.setattr(html, "MOST_BYTES", 5_000)
    with pytest.raises(html.PageTooLarge, match="name fewer grids"):
        page_html([empty_part(0, grid, "nothing")])


def test_a_thumbnail_shows_truth_and_prediction_where_they_are() -> None:
    image = np.full((40, 60, 3), 200, dtype=np.uint8)
    truth, predicted = np.zeros((2, 40, 60), dtype=np.uint8)
    truth[10:20, 10:20] = 1
    predicted[25:35, 40:50] = 1
    small = thumbnail(image, truth, predicted)
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(small.address.partition(",")[2]))).convert("RGB"))
    factor = SIDE // 60
    assert pixels.shape == (40 * factor, 60 * factor, 3) == (small.height, small.width, 3)
    bluer = pixels[..., 2].astype(int) - pixels[..., 0] > 40
    inside = np.zeros(bluer.shape, dtype=bool)
    inside[25 * factor : 35 * factor, 40 * factor : 50 * factor] = True
    assert np.array_equal(bluer, inside)
    assert (pixels[10 * factor, 10 * factor : 20 * factor] == 255).all()
    assert (pixels[10 * factor - 1, 10 * factor : 20 * factor] == 0).all()
    large = thumbnail(np.zeros((600, 900, 3), dtype=np.uint8), np.zeros((600, 900), dtype=np.uint8))
    assert (large.height, large.width) == (round(SIDE * 2 / 3), SIDE)


def test_curves_leave_out_what_is_not_finite_and_thin_out_long_lines() -> None:
    drawn = chart(
        "loss", {"seed 0": [(0, 1.0), (1, float("nan")), (2, 0.0)], "seed 1": [(x, 0.5) for x in range(1000)]}
    )
    assert len(drawn.lines[0].points.split()) == 2
    assert MOST_POINTS / 2 < len(drawn.lines[1].points.split()) <= MOST_POINTS + 1
    places = [tuple(map(float, point.split(","))) for line in drawn.lines for point in line.points.split()]
    assert all(0 <= x <= drawn.width and 0 <= y <= drawn.height for x, y in places)
    level = chart("one point", {"seed 0": [(6, 0.5)]})
    assert len(level.lines[0].points.split()) == 2
    assert chart("nothing", {"seed 0": [(0, float("inf"))]}) is None
