"""The report as a reader meets it: from disk, in a real browser, with a mouse, with keys alone, and on a phone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import CHROMIUM
from tests.paper.page.conftest import SENTENCES
from workbench.results.provenance import code_digest

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Page

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    assert CHROMIUM, "chromium is missing"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=CHROMIUM, headless=True, args=FLAGS
        )
        yield context
        context.close()


@pytest.fixture
def opened(browser: BrowserContext, page: bytes, tmp_path: Path) -> Iterator[Page]:
    """The report, opened from disk; at its end nothing was complained of or asked of a network."""
    file = tmp_path / "report.html"
    file.write_bytes(page)
    told: list[str] = []
    tab = browser.new_page()
    tab.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("request", lambda request: request.url.startswith("data:") or told.append(request.url))
    tab.goto(file.as_uri())
    yield tab
    tab.close()
    assert told == [file.as_uri()]


def names(rows: Locator) -> list[str]:
    return [text.split()[0] for text in rows.all_inner_texts()]


def test_a_click_on_a_column_sorts_each_group_of_rows(opened: Page) -> None:
    table = opened.locator("table.results").first
    own = table.locator("tbody").first.locator("tr:not(.group)")
    differences = table.locator("tbody").nth(1).locator("tr:not(.group)")
    assert names(own) == ["default", "e_dit", "l_dit"]
    button = table.get_by_role("button", name="val", exact=True)
    button.click()
    # The predictions of l_dit are the least moved.
    assert names(own) == ["l_dit", "e_dit", "default"]
    assert names(differences) == ["l_dit", "e_dit"]
    assert table.locator("th[aria-sort=descending]").inner_text().startswith("val")
    button.click()
    assert names(own) == ["default", "e_dit", "l_dit"]
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("val")
    table.get_by_role("button", name="Setting").click()
    table.get_by_role("button", name="Setting").click()
    assert names(own) == ["l_dit", "e_dit", "default"]
    table.get_by_role("button", name="Setting").click()
    assert names(own) == ["default", "e_dit", "l_dit"]
    assert table.locator("th:not([aria-sort=none])[aria-sort]").count() == 0


def test_keys_alone_sort_open_a_cell_and_close_it(opened: Page) -> None:
    opened.locator("table.results button.cell").nth(2).focus()
    opened.keyboard.press("Enter")
    dialog = opened.get_by_role("dialog", name="e_dit, val, mIoU")
    assert dialog.is_visible()
    seeds = dialog.get_by_role("table", name="By seed").locator("tbody tr")
    assert [row.split()[0] for row in seeds.all_inner_texts()] == ["0", "1", "2"]
    text = dialog.inner_text()
    for expected in ("95 % interval", "fusion.variant", "0123456789ab", code_digest(), "torch 2.11.0", "seed 2"):
        assert expected in text
    assert dialog.locator("svg polyline").first.is_visible()
    opened.keyboard.press("Escape")
    assert not dialog.is_visible()
    # The focus is back where it was.
    assert opened.evaluate("document.activeElement.className").startswith("cell")


def test_the_gallery_filters_and_says_how_many_are_left(opened: Page) -> None:
    cards = opened.locator(".card:visible")
    for group in ("", "worst", "best", "disagree", "random"):
        opened.get_by_label("Show").select_option(group)
        expected = f".card[data-groups~={group}]" if group else ".card"
        assert cards.count() == opened.locator(expected).count() > 0
    opened.get_by_label("Show").select_option("worst")
    opened.get_by_label("Split").select_option("testA")
    kind = cards.first.get_attribute("data-kind")
    opened.get_by_label("Kind").select_option(kind)
    left = opened.locator(f".card[data-groups~=worst][data-split=testA][data-kind={kind}]").count()
    assert cards.count() == left > 0
    assert opened.locator("output").inner_text().startswith(f"{left} of ")


def test_sentences_stay_text_and_the_policy_holds(opened: Page) -> None:
    opened.get_by_label("Show").select_option("")
    shown = set(opened.locator(".sentence").all_text_contents())
    assert {sentence.replace("\u0007", "\ufffd") for sentence in SENTENCES} == shown
    assert opened.title().startswith("Words & <masks>")
    assert opened.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert opened.evaluate("getComputedStyle(document.querySelector('.bar')).position") == "sticky"
    right_to_left = opened.locator("bdi").filter(has_text=SENTENCES[3]).first
    assert right_to_left.evaluate("(element) => getComputedStyle(element).direction") == "rtl"


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_does_not_scroll_sideways(opened: Page, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 740})
    opened.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    opened.get_by_label("Show").select_option("")
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    opened.locator("button.cell").first.click()
    assert opened.evaluate("(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)(opened)") == 0


UNNAMED = """() => [...document.querySelectorAll("button, select, img, svg[role], [role=region], dialog, summary, a")]
  .filter((e) => !(e.innerText?.trim() || e.alt || e.ariaLabel || e.labels?.length
    || document.getElementById(e.getAttribute("aria-labelledby") ?? "")))
  .map((e) => e.outerHTML.slice(0, 200))"""
HEADINGS = "() => [...document.querySelectorAll('main h2, main h3, h1')].map((e) => Number(e.tagName[1]))"
TABLES = """() => [...document.querySelectorAll("table")].filter((t) => !t.caption?.innerText.trim()
  || [...t.querySelectorAll("th")].some((th) => !th.scope)).length"""
FAINT = """() => {
  const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  const faint = [], seen = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (seen.nextNode()) {
    const e = seen.currentNode.parentElement;
    if (!seen.currentNode.data.trim() || !e.checkVisibility()) continue;
    const style = getComputedStyle(e), ink = e.closest("svg") ? style.fill : style.color;
    const [high, low] = [light(parts(ink)), light(ground(e))].sort((a, b) => b - a);
    if ((high + 0.05) / (low + 0.05) < 4.5) faint.push(`${seen.currentNode.data.trim()} ${ink}`);
  }
  return faint; }"""
SMALL = """() => [...document.querySelectorAll("button, select, summary")].filter((e) => e.checkVisibility())
  .filter((e) => Math.min(e.getBoundingClientRect().height, e.getBoundingClientRect().width) < 24)
  .map((e) => e.outerHTML.slice(0, 200))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_main_rules_of_accessibility_hold(opened: Page, scheme: str) -> None:
    """Names, headings in order, captions and scopes, unique ids, contrast of AA, sizes of targets (WCAG 2.2)."""
    opened.emulate_media(color_scheme=scheme)
    dark = opened.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    opened.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    for look in ("the page", "a cell"):
        if look == "a cell":
            opened.locator("button.cell").nth(2).click()
        assert opened.evaluate(UNNAMED) == []
        assert opened.evaluate(TABLES) == 0
        assert opened.evaluate(FAINT) == []
        assert opened.evaluate(SMALL) == []
    levels = opened.evaluate(HEADINGS)
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = opened.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    assert opened.evaluate("document.documentElement.lang") == "en"
    assert opened.locator("main").count() == 1
