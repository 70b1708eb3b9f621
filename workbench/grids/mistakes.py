"""The mistakes in the settings of one grid, collected into one message."""

from __future__ import annotations

from pathlib import Path

from workbench.errors import WorkbenchError, lines_of, with_more
from workbench.grids.file import GridError


def place_of(file: Path, setting: str) -> str:
    """The beginning of a message about a setting."""
    return f"{file}: setting {setting!r}"


class Mistakes:
    """The mistakes in a grid's settings, each once, with the settings that have it.

    Args:
        settings: how many the grid has.
    """

    def __init__(self, file: Path, settings: int) -> None:
        self.lines: list[str] = []
        """Those of no setting, or of several together."""
        self._file, self._settings = file, settings
        self._owners: dict[str, list[str]] = {}

    def add(self, name: str, error: WorkbenchError) -> None:
        """The mistakes of one setting, which may or may not begin with its name."""
        for line in lines_of(error):
            own = line.removeprefix(f"{place_of(self._file, name)}: ")
            if own == line and line.startswith(f"{self._file}: "):
                self.lines.append(line)
            else:
                self._owners.setdefault(own, []).append(name)

    def raise_any(self) -> None:
        """GridError with all of them, a line each, if there are any."""
        lines = [f"{self._file}: {self._named(names)}: {line}" for line, names in self._owners.items()]
        if mistakes := list(dict.fromkeys(lines + self.lines)):
            raise with_more(GridError(mistakes[0]), mistakes[1:])

    def _named(self, names: list[str]) -> str:
        if len(names) == 1:
            return f"setting {names[0]!r}"
        if len(names) == self._settings:
            return f"all {len(names):,} settings"
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        return f"settings {', '.join(map(repr, names[:3]))}{more}"
