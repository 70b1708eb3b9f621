"""From a run's configuration to its data set: which folder, which reader, made first where it is procedural."""

from __future__ import annotations

from collections.abc import Callable

from workbench.config import RunConfig
from workbench.data import refshapes
from workbench.data.refer import ReferData, read_refer
from workbench.errors import DataError
from workbench.registry import Registry

Progress = Callable[[int, int], None]
Opener = Callable[[RunConfig, Progress | None], ReferData]
datasets: Registry[Opener] = Registry("data set", "data.dataset")


@datasets.register("refshapes")
def _refshapes(config: RunConfig, progress: Progress | None) -> ReferData:
    recipe = config.data.recipe
    assert recipe is not None
    return read_refer(refshapes.ensure(config.machine.data_root, recipe, progress), "refshapes", config.data.split_by)


def _refcoco_family(name: str) -> Opener:
    def open_it(config: RunConfig, progress: Progress | None) -> ReferData:
        return read_refer(config.machine.data_root / name, name, config.data.split_by)

    return open_it


for _name in ("refcoco", "refcoco+", "refcocog"):
    datasets.register(_name)(_refcoco_family(_name))


def open_dataset(config: RunConfig, progress: Progress | None = None) -> ReferData:
    """The data set of a run, its splits checked.

    Args:
        progress: called with (images done, images in all) where the data set is made first.

    Raises:
        ConfigError: unknown data set.
        DataError: files or images are missing or damaged, or a split does not exist.
    """
    data = datasets[config.data.dataset](config, progress)
    for split in (config.data.train_split, *config.evaluation.splits):
        if split not in data.splits:
            raise DataError(f"{data.folder}: {data.name} has no split {split!r}; it has {', '.join(data.splits)}")
    return data
