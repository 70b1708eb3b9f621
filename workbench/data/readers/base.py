"""The base class of readers: each knows which files one form of data set has, and what is in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from workbench.data.tables import Raw


@dataclass(frozen=True)
class Source:
    """Where a data set's files are, or would be.

    Attributes:
        form: the reader's name.
        files: the annotations, without masks.
        mask_folder: of a form that keeps masks in files of their own.
        sentence: the field that sentences are read from; see `DataConfig.sentence`.
    """

    name: str
    split_by: str
    form: str
    folder: Path
    files: tuple[Path, ...]
    mask_folder: Path | None = None
    sentence: str = "sent"

    @property
    def is_there(self) -> bool:
        """Whether all annotation files exist."""
        return all(file.is_file() for file in self.files)


class Reader(ABC):
    """Reads one form of data set.

    Attributes:
        form: its name.
    """

    form: ClassVar[str]

    @abstractmethod
    def source(self, folder: Path, name: str, split_by: str) -> Source:
        """Which files a data set of this form needs, whether they exist or not."""

    def of_any_split(self, folder: Path) -> list[str]:
        """Names of files there that hold expressions in this form, whatever their split; for messages."""
        return []

    @abstractmethod
    def read(self, source: Source) -> Raw:
        """What is in the files; DataError where they are damaged. Nothing is executed from any of them."""
