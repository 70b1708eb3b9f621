from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workbench.models.catalog import VariantRow, as_markdown, catalog, count
from workbench.models.fusion import variants

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def of_vit_b() -> list[VariantRow]:
    return catalog("vit_b")


def test_the_page_in_the_docs_is_up_to_date(of_vit_b: list[VariantRow]) -> None:
    page = (ROOT / "docs" / "variants.md").read_text()
    assert page == as_markdown("vit_b", of_vit_b), "run: workbench variants --markdown > docs/variants.md"


def test_the_command_prints_a_table_json_and_the_page(workbench: Callable[..., Any]) -> None:
    page = workbench("variants", "--backbone", "vit_mini", "--markdown").out
    rows = json.loads(workbench("variants", "--backbone", "vit_mini", "--json").out)
    table = workbench("variants", "--backbone", "vit_mini").out.splitlines()
    assert len(table) == 1 + len(rows) == 1 + sum(line.startswith("| `") for line in page.splitlines())
    assert table[0].split("  ")[0] == "setting"
    assert f"{rows[-1]['fusion_parameters']:,}" in table[-1]


def test_every_variant_is_counted_from_its_model(of_vit_b: list[VariantRow]) -> None:
    rows = [row.as_dict() for row in of_vit_b]
    by_name = {row["name"]: row for row in rows}
    assert set(variants) <= set(by_name)
    assert by_name["l_dit"]["fusion_parameters"] == by_name["e_dit_reprojected"]["fusion_parameters"] == 7_087_104
    assert by_name["e_dit"]["fusion_parameters"] == 768 * 768 + 768
    assert by_name["e_dit_tokens"]["fusion_parameters"] == 768 * 768 + 768 + 11 * 20 * 768
    assert by_name["l_dit_tokens"]["fusion_parameters"] == 12 * 20 * 768
    attention = 4 * 768 * 512 + 3 * 512 + 768
    assert by_name["l_dit_cross_attention, fusion.cross_attention.keys: text"]["fusion_parameters"] == (
        7_087_104 + 11 * (attention + 2 * 768)
    )
    assert by_name["l_dit_cross_attention_ffn"]["fusion_parameters"] == 12 * (
        attention + 2 * 768 * 2048 + 2048 + 768 + 3 * 2 * 768
    )
    grown = by_name["default, backbone.decoder_depth: 4"]["trainable_parameters"]
    assert by_name["default"]["fusion_parameters"] == 0 < grown - by_name["default"]["trainable_parameters"]
    tokens, width = 1024, 768
    blocks = 12 * (24 * width**2 * tokens + 4 * tokens**2 * width)
    assert by_name["default"]["gflops"] == pytest.approx(blocks / 1e9, rel=0.05)
    for row in rows:
        assert row["rule"]
        assert row["source"]
        assert row["gflops"] >= by_name["default"]["gflops"]


def test_widths_that_differ_get_a_text_projection() -> None:
    projection = 768 * 1280 + 1280
    row = count("vit_h", {"fusion.variant": "l_dit"})
    assert row.fusion_parameters == projection + 32 * (1280 * 1280 + 1280)


def test_an_unknown_backbone_is_one_line(workbench: Callable[..., Any]) -> None:
    found = workbench("variants", "--backbone", "vit_x")
    assert found.code == 2
    assert found.err.startswith("error: backbone.name: unknown backbone 'vit_x'")
