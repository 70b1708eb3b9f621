"""What makes thousands of commands quick: few draws for intervals, and the commands built once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Few draws for the intervals, and the commands built once from their signatures: that is most of the time."""
    import typer

    from workbench import cli
    from workbench.analysis import statistics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "SAMPLES", 20)
        statistics._weights.cache_clear()
        patch.setattr(cli, "app", typer.main.get_command(cli.app))
        yield
    statistics._weights.cache_clear()
