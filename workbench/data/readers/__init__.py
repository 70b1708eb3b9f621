"""Readers of data sets, one file per form; a new one is listed below.

Which forms a known data set may have, and in which order, is listed beside its name in `workbench.data.datasets`.
"""

from workbench.data.images import IMAGE_FOLDERS, find_image_folder
from workbench.data.readers.base import Reader, Source
from workbench.data.readers.grefs import GrefsReader
from workbench.data.readers.items import in_words
from workbench.data.readers.refs import RefsReader
from workbench.data.readers.released import ReleasedReader
from workbench.data.tables import Progress, ReferData, assemble
from workbench.errors import DataError
from workbench.registry import Registry

readers: Registry[Reader] = Registry("form of data set", "data.dataset")
"""In the order in which they are tried on a folder whose form is not known."""
for _reader in (RefsReader(), GrefsReader(), ReleasedReader()):
    readers.register(_reader.form)(_reader)


def read(source: Source, progress: Progress | None = None, images: bool = True) -> ReferData:
    """Read a data set from its files.

    Args:
        images: False if the images are not needed; their folder may then be missing.
        progress: called with (objects done, objects and images in all).

    Raises:
        DataError: a file is missing, damaged, not what its name says, or a reference points nowhere.
    """
    try:
        raw = readers[source.form].read(source)
    except (TypeError, ValueError, OverflowError) as error:  # for example, a list where an id is expected
        raise DataError(f"{source.files[-1]}: not in the form of {source.name}: {in_words(error)}") from None
    except MemoryError:
        raise DataError(f"{source.files[-1]}: there is not enough memory to read it") from None
    image_folder = find_image_folder(source.folder) if images else source.folder / IMAGE_FOLDERS[0]
    return assemble(raw, source.name, source.folder, image_folder, progress)


__all__ = ["Reader", "Source", "read", "readers"]
