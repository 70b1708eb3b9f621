from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workbench.models import variant_table
from workbench.models.catalog import as_markdown, catalog, count
from workbench.models.fusion import variants
from workbench.models.variant_table import VariantRow

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def of_vit_b() -> list[VariantRow]:
    return catalog("vit_b")


@pytest.mark.exhaustive
def test_the_page_in_the_docs_is_up_to_date(of_vit_b: list[VariantRow]) -> None:
    page = (ROOT / "docs" / "variants.md").read_text()
    assert page == as_markdown("vit_b", of_vit_b), "run: workbench variants --markdown > docs/variants.md"


def test_the_shipped_counts_are_those_of_the_models() -> None:
    counts_are_of_the_models("vit_mini", catalog("vit_mini"))


@pytest.mark.exhaustive
def test_so_are_those_of_vit_b(of_vit_b: list[VariantRow]) -> None:
    counts_are_of_the_models("vit_b", of_vit_b)


@pytest.mark.exhaustive
@pytest.mark.parametrize("backbone", ["vit_l", "vit_h"])
def test_so_are_those_of_the_large_backbones(backbone: str) -> None:
    counts_are_of_the_models(backbone, catalog(backbone))


def counts_are_of_the_models(backbone: str, counted: list[VariantRow]) -> None:
    table = variant_table.shipped(backbone)
    assert table is not None, "a variant was added or changed: run workbench variants --recount"
    assert list(table.rows) == counted
    assert variant_table.page(table) == as_markdown(backbone, counted)


def test_the_list_comes_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['workbench', 'variants', '--backbone', 'vit_h']\n"
        "from workbench import cli\n"
        "cli.main()\n"
        "sys.exit(str({'torch', 'pandas', 'numpy'} & set(sys.modules)) if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "l_dit_tokens" in done.stdout


def test_a_changed_variant_is_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is shown of other variants than are here; and what was counted again is shipped for the next."""
    folder = tmp_path / "fusion"
    shutil.copytree(variant_table.FUSION, folder)
    monkeypatch.setattr(variant_table, "FUSION", folder)
    table = variant_table.shipped("vit_mini")
    assert table is not None
    assert variant_table.shipped("vit_x") is None
    (folder / "l_dit.py").write_text("# changed\n")
    assert variant_table.shipped("vit_mini") is None
    monkeypatch.setattr(variant_table, "SHIPPED", tmp_path / "variants.json")
    assert variant_table.shipped("vit_mini") is None
    variant_table.ship([table])
    assert variant_table.shipped("vit_mini") == table


@pytest.mark.parametrize("columns", [80, 100])
def test_the_list_breaks_no_word(workbench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = workbench("variants").out
    assert max(map(len, text.splitlines())) <= columns
    words = text.split()
    for row in json.loads(workbench("variants", "--json").out):
        for part in (row["name"], f"rule: {row['rule']}", f"released as: {row['source']}"):
            assert set(part.split()) <= set(words)
        assert f"{row['fusion_parameters']:,}" in words
    assert " ".join(words).count("released as: ") == text.count("    rule: ")


def test_the_command_prints_a_table_json_and_the_page(workbench: Callable[..., Any]) -> None:
    page = workbench("variants", "--backbone", "vit_mini", "--markdown").out
    rows = json.loads(workbench("variants", "--backbone", "vit_mini", "--json").out)
    table = workbench("variants", "--backbone", "vit_mini").out.splitlines()
    assert table[0].split() == ["setting", "new", "parameters", "trainable", "GFLOPs"]
    assert len(rows) == sum(line.startswith("| `") for line in page.splitlines())
    (last,) = [line.split() for line in table if line.startswith(f"{rows[-1]['name']} ")]
    assert last[1] == f"{rows[-1]['fusion_parameters']:,}"
    assert last[-1] == f"{rows[-1]['gflops']:.1f}"


@pytest.mark.exhaustive
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
