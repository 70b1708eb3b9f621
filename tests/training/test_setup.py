from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from workbench.config import RunConfig
from workbench.results.folders import RunFolder
from workbench.training.setup import build_parts


@pytest.fixture(autouse=True)
def _flags() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_used_only_where_a_run_asks_for_it(
    tmp_path: Path, make_config: Callable[..., RunConfig], allowed: bool
) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not allowed
    config = make_config(training__tf32=allowed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_parts(config, 0, RunFolder.of(tmp_path, config, 0), torch.device("cpu"))
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == allowed
