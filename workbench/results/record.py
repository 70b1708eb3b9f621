"""What identifies a run: `RunId`, the one place where `<setting id>/seed<N>` is put together and taken apart."""

from __future__ import annotations

import re
from typing import NamedTuple

from workbench.errors import shown

_TEXT = re.compile(r"([A-Za-z0-9_+-]{1,255})/seed(0|[1-9][0-9]{0,14})")


class RunId(NamedTuple):
    """A setting and a seed; as text `<setting id>/seed<N>`."""

    setting_id: str
    seed: int

    def __str__(self) -> str:
        return f"{self.setting_id}/seed{self.seed}"

    @classmethod
    def parse(cls, text: str) -> RunId:
        """The id that a text is.

        Raises:
            ValueError: it is none.
        """
        parts = _TEXT.fullmatch(text)
        if parts is None:
            raise ValueError(f"{shown(text)} is no run id, which is <setting id>/seed<N>")
        return cls(parts[1], int(parts[2]))
