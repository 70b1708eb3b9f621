from __future__ import annotations

from pathlib import Path

from workbench.launch.snapshot import snapshot


def test_a_snapshot_is_the_package_and_is_shared(tmp_path: Path) -> None:
    first = snapshot(tmp_path)
    assert snapshot(tmp_path) == first
    assert (first / "workbench" / "assets" / "vit_mini.safetensors").is_file()
    assert not list(first.rglob("__pycache__"))
