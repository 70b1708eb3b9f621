"""The data of a figure: a document and arrays, kept as files beside the picture, from which it can be drawn again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from workbench.files import check_file, read_file, replacing, write_text
from workbench.paper.style import WIDTHS
from workbench.validation import DamagedFile


@dataclass(frozen=True)
class FigureData:
    """All that a drawing needs.

    Attributes:
        document: plain JSON: texts, numbers, names, and where they come from.
        arrays: images, masks and maps, by name.
    """

    document: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def save(self, folder: Path, name: str) -> list[Path]:
        """Write NAME.json and, where there are arrays, NAME.safetensors; the same data writes the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{name}.json"]
        text = json.dumps(self.document, indent=1, sort_keys=True, allow_nan=False)
        if self.arrays:
            files.append(folder / f"{name}.safetensors")
            with replacing(files[-1]) as partial:
                save_file({key: np.ascontiguousarray(array) for key, array in self.arrays.items()}, partial)
        write_text(files[0], text + "\n")
        return files

    @classmethod
    def load(cls, folder: Path, name: str) -> FigureData:
        """What `save` wrote; DamagedFile where it cannot be read."""
        file, arrays = folder / f"{name}.json", folder / f"{name}.safetensors"
        try:
            document = json.loads(read_file(file))
        except (OSError, ValueError, RecursionError) as error:
            raise DamagedFile(file, _why(error), "draw the figure again") from None
        if not isinstance(document, dict):
            raise DamagedFile(file, "an object is expected", "draw the figure again")
        try:
            if not arrays.exists():
                return cls(document)
            check_file(arrays)
            return cls(document, load_file(arrays))
        except (OSError, ValueError, SafetensorError) as error:
            raise DamagedFile(arrays, _why(error), "draw the figure again") from None


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)[:200]


def label_of(document: Mapping[str, Any], setting: str) -> str:
    """What a figure calls a setting; documents of earlier versions have no labels."""
    return str(document.get("labels", {}).get(setting, setting))


def width_of(document: Mapping[str, Any]) -> tuple[int, float]:
    """How many columns of a page the figure takes, and its width in inches."""
    columns = 1 if document.get("columns_of_page") == 1 else 2
    return columns, WIDTHS[columns]
