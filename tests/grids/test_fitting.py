from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from workbench.config import SHIPPED_BERTS, RunConfig, StartConfig, TextEncoderConfig
from workbench.errors import WorkbenchError
from workbench.grids import load_grid
from workbench.grids.fitting import stand_in_of, surely_fits
from workbench.models.build import check_config, check_weights
from workbench.models.text_encoder import TextEncoder, build_from_shape

Make = Callable[..., RunConfig]

WRONG: list[dict[str, Any]] = [
    {"backbone__image_size": 60},
    {"text_encoder__layer": 3},
    {"text_encoder__max_tokens": 65},
    {"text_encoder__name": "/nowhere/bert"},
    {"fusion__variant": "l_dit", "fusion__layers": [0, 9]},
    {"fusion__variant": "l_dit", "training__freeze__fusion": True, "fusion__projector__init": "zero"},
    {"training__steps": 0},
    {"training__cache_features": True},
]


def _sizes(encoder: TextEncoder) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in encoder.state_dict().items()}


def _passes(config: RunConfig) -> bool:
    try:
        check_config(config)
        check_weights(config)
    except WorkbenchError:
        return False
    return True


@pytest.mark.parametrize("changed", WRONG, ids=lambda changed: list(changed)[-1])
def test_what_is_wrong_is_not_said_to_fit(make_config: Make, changed: dict[str, Any]) -> None:
    config = make_config(**changed)
    assert not _passes(config)
    assert not surely_fits(config, weights=True)


@pytest.mark.parametrize(
    "name",
    ["text_encoders", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("fusion_schemes", "freezing"))],
)
def test_what_fits_surely_passes(name: str) -> None:
    settings = load_grid(ROOT / "ablations" / f"{name}.yaml", preset="refshapes-mini").settings.values()
    fresh = [config.model_copy(update={"start_from": StartConfig()}) for config in settings]
    for config in (*settings, *fresh):
        assert surely_fits(config, weights=True) == (_passes(config) and not config.training.freeze.fusion)


@pytest.mark.parametrize("name", SHIPPED_BERTS)
def test_a_shipped_text_encoder_has_the_weights_of_its_library(name: str) -> None:
    config = TextEncoderConfig(name=name)
    assert _sizes(stand_in_of(config)) == _sizes(build_from_shape(config, Path()))


def test_a_shipped_text_encoder_is_checked_without_its_library(grid_file: Callable[[str], Path]) -> None:
    started = "{start_from.file: relating_mini_early, text_encoder.name: bert_mini2}"
    grid = grid_file(f"settings: {{a: {started}, b: {{fusion.variant: l_dit}}}}\n")
    program = (
        "import sys; from pathlib import Path; from workbench.grids import check_grid, load_grid\n"
        "check_grid(load_grid(Path(sys.argv[1])))\nprint({'torch', 'transformers', 'accelerate'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program, grid], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "{'torch'}\n"), done.stderr
