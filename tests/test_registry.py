from __future__ import annotations

import pytest

from workbench.errors import ConfigError
from workbench.registry import Registry, nearest


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    registry: Registry[int] = Registry("fusion variant", "fusion.variant")
    registry.register("l_dit")(1)
    registry.register("e_dit")(2)
    with pytest.raises(
        ConfigError,
        match=r"^fusion\.variant: unknown fusion variant 'l_dti' \(did you mean 'l_dit'\?\); known: l_dit, e_dit$",
    ):
        registry["l_dti"]


def test_of_names_that_are_equally_near_the_first_is_meant_whatever_its_case() -> None:
    assert nearest("TEST", ["train", "val", "testA", "testB"]) == "testA"
    assert nearest("testb", ["testA", "testB"]) == "testB"
    assert nearest("elsewhere", ["testA", "testB"]) is None


def test_a_name_is_taken_once() -> None:
    registry: Registry[int] = Registry("thing", "thing")
    registry.register("a")(1)
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("a")
    assert dict(registry) == {"a": 1}
