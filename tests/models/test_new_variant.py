"""The worked example of the documentation, run as a reader would."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.config import RunConfig
from workbench.models.fusion import variants
from workbench.results.folders import RunFolder
from workbench.training.checkpointing import load_trained
from workbench.training.train import train

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "new-variant.md"


@pytest.fixture
def example(tmp_path: Path) -> Iterator[str]:
    """The page's code as a file of its own, imported; the registration is taken back afterwards."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(code.splitlines()) < 30
    file = tmp_path / "l_dit_mean.py"
    file.write_text(code)
    name = "workbench.models.fusion.l_dit_mean"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield "l_dit_mean"
    del sys.modules[name]
    del variants._things["l_dit_mean"]


def test_the_worked_example_trains_and_is_listed(
    example: str, tmp_path: Path, make_config: Callable[..., RunConfig], workbench: Callable[..., Any]
) -> None:
    config = make_config(fusion__variant=example, fusion__layers={"last": 2}, fusion__projector__init="default")
    folder = RunFolder.of(tmp_path, config, 0)
    train(config, 0, folder)
    assert folder.state() == "completed"
    model = load_trained(config, folder)
    assert model.fusion.layers == (2, 3)
    weight = model.fusion.get_parameter("weight")
    assert (weight != 0).any(), "it has learned"
    image, text = torch.randn(1, 3, 64, 64), torch.randn(1, 5, 64)
    with torch.inference_mode():
        assert not torch.equal(model.encode_image(image, text), model.encode_image(image, text.flip(2)))
    rows = json.loads(workbench("variants", "--backbone", "vit_mini", "--json").out)
    (row,) = [row for row in rows if row["name"] == example]
    assert row["fusion_parameters"] == 4 * (64 * 64 + 64) + 64


def test_every_file_of_the_package_is_registered_by_itself() -> None:
    import workbench.models.fusion as package

    files = {file.stem for file in Path(package.__file__).parent.glob("*.py")} - {"__init__", "base"}
    assert files == set(variants)
