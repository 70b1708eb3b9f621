"""Opens the data set that a configuration names: its folder and files; made or prepared first where needed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.config import DataConfig, RunConfig
from workbench.data import refshapes
from workbench.data.images import check_images_are_there
from workbench.data.joined import joined
from workbench.data.prepare import prepare
from workbench.data.prepared import NotPrepared, open_prepared, prepared_digest, prepared_folder, read_record
from workbench.data.readers import Source, read, readers
from workbench.data.tables import Progress, ReferData, no_split, plain_name
from workbench.errors import ConfigError, DataError
from workbench.registry import Registry, unknown_name

Folder = Callable[[DataConfig, Path, Progress | None], Path]
"""The folder of a data set's annotations under a root; made first where it is procedural."""


def _refshapes(config: DataConfig, root: Path, progress: Progress | None) -> Path:
    assert config.recipe is not None
    return refshapes.ensure(root, config.recipe, progress)


def _folder_of_that_name(config: DataConfig, root: Path, progress: Progress | None) -> Path:
    return root / config.dataset


@dataclass(frozen=True)
class Dataset:
    """A data set that a configuration may name.

    Attributes:
        forms: those that its files may have, the preferred one first; see `readers`.
        folder: where they are.
    """

    forms: tuple[str, ...]
    folder: Folder = _folder_of_that_name


datasets: Registry[Dataset] = Registry("data set", "data.dataset")
datasets.register("refshapes")(Dataset(("refs", "grefs"), _refshapes))
datasets.register("refcoco")(Dataset(("refs", "released")))
datasets.register("refcoco+")(Dataset(("refs", "released")))
datasets.register("refcocog")(Dataset(("refs", "released")))
datasets.register("grefcoco")(Dataset(("grefs", "released")))


def dataset_of(config: DataConfig, root: Path) -> Dataset:
    """The data set of a configuration: a known one, or one of its user's, which is a folder of that name.

    Raises:
        ConfigError: neither; lists the known ones and the folders that are there.
        DataError: no plain name.
    """
    name = plain_name(config.dataset, "data.dataset")
    if name in datasets:
        return datasets[name]
    if (root / name).is_dir() or prepared_folder(root, name, config.split_by, config.sentence).is_dir():
        return Dataset(tuple(readers))
    unknown = unknown_name("data set", name, names_in(root))
    raise ConfigError("data.dataset", f"{unknown}; one of your own is a folder in {root}")


def names_in(root: Path) -> list[str]:
    """The known data sets, and the folders of others under a root."""
    return list(dict.fromkeys([*datasets, *own_folders(root)]))


def own_folders(root: Path) -> list[str]:
    """The folders under a root that hold annotations."""
    return sorted(path.parent.name for path in root.glob("*/instances.json"))


def find(folder: Path, name: str, split_by: str, sentence: str = "sent") -> Source:
    """The files of a data set, in the first of its forms that is there; for an unknown name every reader is tried.

    Args:
        sentence: see `DataConfig.sentence`.

    Raises:
        DataError: there are none; names what was looked for, and other splits' files that are there.
    """
    forms = datasets[name].forms if name in datasets else tuple(readers)
    sources = {form: readers[form].source(folder, name, split_by) for form in forms}
    for source in sources.values():
        if source.is_there:
            return replace(source, sentence=sentence)
    others = {form: readers[form].of_any_split(folder) for form in forms}
    wanted = sources[next((form for form in forms if others[form]), forms[0])]
    missing = next(file for file in wanted.files if not file.is_file())
    names = sorted(file for files in others.values() for file in files)
    also = f"; there is {', '.join(names)}, see data.split_by" if names and missing == wanted.files[-1] else ""
    raise DataError(f"missing file {missing} (annotations of {name}, split by {split_by}){also}")


def read_refer(folder: Path, name: str, split_by: str) -> ReferData:
    """Read a data set from the files in a folder, see `find` and `read`; every image must be there."""
    data = read(find(folder, name, split_by))
    check_images_are_there(data)
    return data


def open_dataset(config: RunConfig, progress: Progress | None = None) -> ReferData:
    """The data set of a run, its splits checked.

    Args:
        progress: called with (steps done, steps in all) where the data set is made or prepared first.

    Raises:
        ConfigError: unknown data set.
        DataError: files or images are missing or damaged, a split does not exist, or the data set does not
            have the digest `data.sha256`.
    """
    data = _as_pinned(config.data, config.machine.data_root, progress)
    check_images_are_there(data)
    validated = () if config.validation.every is None else (config.validation.split,)
    for split in (config.data.train_split, *validated, *config.evaluation.splits):
        if split not in data.splits:
            raise DataError(f"{data.folder}: {data.name} {no_split(split, data.splits)}")
    return data


def open_data(config: DataConfig, root: Path, progress: Progress | None = None) -> ReferData:
    """A data set's tables: the prepared ones, which are made first where they are missing; of several, joint ones.

    Where nothing can be written under the root, the original files are read, once per process.
    """
    if config.members:
        members = {member.name: _as_pinned(config.of(member), root, progress) for member in config.members}
        return joined(members, config.train_split)
    folder = dataset_of(config, root).folder(config, root, progress)
    place = prepared_folder(root, folder.name, config.split_by, config.sentence)
    try:
        source = find(folder, config.dataset, config.split_by, config.sentence)
    except DataError as error:
        try:
            return open_prepared(place)  # without the original files, the prepared tables are enough
        except NotPrepared as reason:
            # Tables of another version without the files to make them again: both reasons are given.
            raise DataError(str(error) if "not prepared" in str(reason) else f"{reason}; {error}") from None
    try:
        if read_record(place).form == source.form:
            return open_prepared(place)
    except NotPrepared:
        pass
    if os.access(next(p for p in place.parents if p.is_dir()), os.W_OK):
        return prepare(source, place, progress)
    return _read_once(source, _stamps(source), True)


def _as_pinned(config: DataConfig, root: Path, progress: Progress | None) -> ReferData:
    """See `open_data`; DataError where the data set has not the digest that the configuration says."""
    data = open_data(config, root, progress)
    if config.sha256 not in (None, data.digest):
        raise DataError(
            f"{data.folder}: data.sha256 is {config.sha256}, but {data.name} ({config.split_by}) there has "
            f"{data.digest}"
        )
    return data


@functools.lru_cache(maxsize=2)
def _read_once(source: Source, stamps: tuple[tuple[int, int], ...], images: bool) -> ReferData:
    return read(source, images=images)


def _stamps(source: Source) -> tuple[tuple[int, int], ...]:
    return tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in source.files)


def pinned(config: RunConfig, progress: Progress | None = None) -> RunConfig:
    """The configuration with the data set's digest, which is part of the run's identity.

    refshapes is identified by its recipe. A missing data set is reported by `open_dataset`, not here; one of which only
    the images are missing still has a digest.
    """
    if config.data.is_pinned:
        return config
    if config.data.members:
        alone = [pinned(config.model_copy(update={"data": part}), progress).data for part in config.data.parts]
        members = zip(config.data.members, alone, strict=True)
        digests = tuple(member.model_copy(update={"sha256": data.sha256}) for member, data in members)
        return config.model_copy(update={"data": config.data.model_copy(update={"members": digests})})
    root, name = config.machine.data_root, config.data.dataset
    place = prepared_folder(root, name, config.data.split_by, config.data.sentence)
    try:
        dataset_of(config.data, root)
    except ConfigError:
        return config
    try:
        source = find(root / name, name, config.data.split_by, config.data.sentence)
    except DataError:
        try:
            digest = prepared_digest(place)
        except NotPrepared:
            return config
    else:
        try:
            digest = _prepared_digest(source, place)
        except NotPrepared:
            try:
                digest = open_data(config.data, root, progress).digest
            except DataError:
                digest = _read_once(source, _stamps(source), False).digest
    return config.model_copy(update={"data": config.data.model_copy(update={"sha256": digest})})


def _prepared_digest(source: Source, place: Path) -> str:
    if read_record(place).form != source.form:
        raise NotPrepared(f"{place}: prepared from other files than those in {source.folder}")
    return prepared_digest(place)
