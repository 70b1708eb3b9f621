"""The worked example of the documentation, run as a reader would."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from workbench.config import RunConfig
from workbench.models.build import build_model
from workbench.models.fusion import variants
from workbench.results.folders import RunFolder
from workbench.training.checkpointing import load_trained
from workbench.training.train import train

PAGE = ROOT / "docs" / "new-variant.md"


@pytest.fixture
def example(tmp_path: Path) -> Iterator[str]:
    """The page's code as a file of its own, imported; the registration is taken back afterwards."""
    file = page_file(tmp_path)
    assert len(file.read_text().splitlines()) < 40
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


@pytest.mark.exhaustive
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


def test_padding_changes_nothing(example: str, make_config: Callable[..., RunConfig]) -> None:
    """The image's features are those of the words, whatever stands behind them."""
    config = make_config(fusion__variant=example, fusion__projector__init="default", fusion__dropout=0.0)
    model = build_model(config).eval()
    torch.nn.init.normal_(model.fusion.get_parameter("weight"))
    image, text = torch.randn(2, 3, 64, 64), torch.randn(2, 6, 64)
    mask = torch.arange(6)[None] < torch.tensor([[6], [3]])
    other = torch.where(mask[..., None], text, torch.randn(2, 6, 64))
    with torch.inference_mode():
        expected, found = (model.encode_image(image, words, mask) for words in (text, other))
        torch.testing.assert_close(found, expected)
        unmasked, changed = (model.encode_image(image, words) for words in (text, other))
        assert torch.equal(unmasked[0], changed[0])
        assert not torch.allclose(unmasked[1], changed[1]), "where padding counts as words, it is read"
        alone = model.encode_image(image[1:], text[1:, :3])
        torch.testing.assert_close(expected[1:], alone, rtol=1e-4, atol=1e-5)


def page_file(folder: Path) -> Path:
    """The page's code, in a file as the page says."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    file = folder / "l_dit_mean.py"
    file.write_text(code)
    return file


def checked(*command: object) -> None:
    tool, *arguments = map(str, command)
    program = Path(sys.executable).parent / tool
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_passes_ruff(tmp_path: Path) -> None:
    settings = ("--config", ROOT / "pyproject.toml")
    checked("ruff", "check", "--no-cache", *settings, page_file(tmp_path))
    checked("ruff", "format", "--no-cache", "--check", *settings, page_file(tmp_path))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_example_passes_mypy(tmp_path: Path) -> None:
    """Of the whole package's imports, which takes a minute where nothing is cached."""
    checked("mypy", page_file(tmp_path))


def test_every_file_of_the_package_is_registered_by_itself() -> None:
    import workbench.models.fusion as package

    files = {file.stem for file in Path(package.__file__).parent.glob("*.py")} - {"__init__", "base"}
    assert files == set(variants)
