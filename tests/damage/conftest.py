"""What makes thousands of commands quick: few draws for intervals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    from workbench.analysis import statistics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "SAMPLES", 20)
        statistics._weights.cache_clear()
        yield
    statistics._weights.cache_clear()
