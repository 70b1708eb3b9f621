from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.analysis.test_trace import MakeConfig, built
from workbench.analysis import blocks
from workbench.analysis.verify import EXACT, verify


@pytest.mark.parametrize("variant", ["default", "e_dit", "l_dit"])
def test_double_and_single_precision_are_exact_and_half_is_not(make_config: MakeConfig, variant: str) -> None:
    verdicts = verify(built(make_config, variant), 72)
    for verdict in verdicts:
        if variant == "default" and verdict.kind == "write":
            assert str(verdict) == "not available"
            continue
        assert verdict.error is not None
        if verdict.dtype != "bfloat16":
            assert verdict.error <= EXACT, verdict
            assert str(verdict) == "exact"
        else:
            assert EXACT < verdict.error < 0.05, verdict
            assert str(verdict).startswith("degraded by ")


def test_a_wrong_map_is_noticed(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words mistaken for their neighbours."""
    whole: Callable[..., Any] = blocks.Block.whole

    def shifted(self: blocks.Block, values: Tensor) -> Tensor:
        return torch.roll(whole(self, values), 1, dims=2)

    monkeypatch.setattr(blocks.Block, "whole", shifted)
    read = [v for v in verify(built(make_config, "l_dit"), 64) if v.kind == "read"]
    assert read
    assert all(v.error is not None and v.error > 1e-4 for v in read)


def test_it_is_a_command(workbench: Callable[..., Any]) -> None:
    done = workbench("trace", "verify")
    assert done.code == 2
    assert "name either a run or --variant" in done.err
