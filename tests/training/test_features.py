from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.config import RunConfig
from workbench.data.datasets import open_dataset
from workbench.data.features import CHUNK, FeatureStore
from workbench.data.loading import ReferringDataset
from workbench.errors import ConfigError, DataError
from workbench.models.build import build_model, check_config
from workbench.results.folders import RunFolder
from workbench.training.features import cached_features
from workbench.training.train import train

FROZEN = {"image_encoder": True, "neck": True}
Make = Callable[..., RunConfig]


@pytest.fixture
def own_root(tmp_path: Path, data_root: Path) -> Path:
    """A data root whose features belong to this test alone."""
    root = tmp_path / "data"
    root.mkdir()
    for folder in data_root.glob("refshapes-*"):
        (root / folder.name).symlink_to(folder)
    return root


def make(make_config: Make, root: Path, **overrides: Any) -> RunConfig:
    return make_config(**{"machine__data_root": str(root), "training__cache_features": True, **overrides})


def fill(config: RunConfig, **options: Any) -> FeatureStore:
    torch.manual_seed(0)
    dataset = ReferringDataset(open_dataset(config), "train", config.backbone.image_size, config.data)
    return cached_features(build_model(config), dataset, config, torch.device("cpu"), **options)


@pytest.mark.parametrize(
    "fusion",
    [{}, {"fusion__variant": "l_dit", "fusion__layers": {"last": 1}}, {"training__freeze": {"image_encoder": True}}],
    ids=["embedding", "tokens before the last block", "tokens before a neck that learns"],
)
def test_training_from_the_cache_gives_the_losses_and_metrics_of_pixels(
    fusion: dict[str, Any], tmp_path: Path, own_root: Path, make_config: Make
) -> None:
    settings = {"training__freeze": FROZEN, "training__steps": 8, **fusion}
    losses, frames = {}, {}
    for cached in (True, False):
        config = make(make_config, own_root, **settings, training__cache_features=cached)
        folder = RunFolder.of(tmp_path, config, 0)
        train(config, 0, folder)
        losses[cached] = [event.loss for event in folder.log().events if event.event == "step"]
        frames[cached] = folder.expressions()
    np.testing.assert_allclose(losses[True], losses[False], rtol=2e-3)
    pd.testing.assert_series_equal(frames[True]["iou"], frames[False]["iou"], atol=0.03, rtol=0)
    (store,) = (own_root / "features").iterdir()
    assert sorted(p.name for p in store.iterdir()) == ["done.npy", "features.json", "features.npy"]
    assert np.load(store / "features.npy", mmap_mode="r").dtype == np.float16


def test_a_row_is_what_the_encoder_makes_of_that_image_and_its_mirror_image(own_root: Path, make_config: Make) -> None:
    config = make(make_config, own_root, training__freeze=FROZEN)
    store = fill(config)
    assert len(store) == 80
    torch.manual_seed(0)
    model = build_model(config).eval()
    dataset = ReferringDataset(open_dataset(config), "train", 64, config.data)
    for expression in dataset.expressions[:3]:
        for flipped in (False, True):
            pixels = dataset.square(expression)
            with torch.inference_mode():
                image = model.normalise(pixels.flip(-1)[None] if flipped else pixels[None])
                expected = model.image_encoder(image)[0]
            found = store.read(expression.image_id, flipped)
            torch.testing.assert_close(found.float(), expected, rtol=2e-3, atol=2e-3)


def test_an_interrupted_filling_goes_on_and_what_is_there_is_not_computed_again(
    own_root: Path, make_config: Make
) -> None:
    config = make(make_config, own_root, training__freeze=FROZEN)
    seen: list[int] = []

    def stop(done: int, rows: int) -> bool:
        seen.append(done)
        return len(seen) == 2

    fill(config, progress=stop)
    assert seen == [CHUNK, 2 * CHUNK]
    whole = fill(config, progress=lambda done, rows: seen.append(done))
    assert seen == [CHUNK * n for n in range(1, 6)]
    counted: list[int] = []
    fill(config, progress=lambda done, rows: counted.append(done))
    assert counted == []
    first = np.load(whole.folder / "features.npy")
    shutil.rmtree(whole.folder)
    np.testing.assert_array_equal(np.load(fill(config).folder / "features.npy"), first)


@pytest.mark.exhaustive
def test_two_processes_fill_one_store(own_root: Path, make_config: Make) -> None:
    config = make(make_config, own_root, training__freeze=FROZEN)
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=fill, args=(config,)) for _ in range(2)]
    for process in others:
        process.start()
    for process in others:
        process.join()
    assert [process.exitcode for process in others] == [0, 0]
    counted: list[int] = []
    both = fill(config, progress=lambda done, rows: counted.append(done))
    assert counted == []
    together = np.load(both.folder / "features.npy")
    shutil.rmtree(both.folder)
    np.testing.assert_allclose(np.load(fill(config).folder / "features.npy"), together, atol=2e-3)
    assert len(list((own_root / "features").iterdir())) == 1


def test_other_weights_images_or_sizes_have_another_store(own_root: Path, make_config: Make) -> None:
    base = make(make_config, own_root, training__freeze=FROZEN)
    others = [
        make(make_config, own_root, training__freeze=FROZEN, backbone__image_size=48),
        make(make_config, own_root, training__freeze=FROZEN, backbone__checkpoint=None),
        make(make_config, own_root, training__freeze=FROZEN, backbone__attention="windowed"),
        make(make_config, own_root, training__freeze={"image_encoder": True}),
        make(make_config, own_root, training__freeze=FROZEN, data__horizontal_flip=0.0),
    ]
    stores = [fill(config) for config in [base, *others]]
    assert len({store.folder for store in stores}) == len(stores)
    assert len(stores[-1]) == 40
    assert json.loads((stores[0].folder / "features.json").read_text())["image_size"] == 64
    assert fill(make(make_config, own_root, training__freeze=FROZEN, training__batch_size=2)).folder == stores[0].folder


def test_what_cannot_be_cached_says_so(own_root: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"cache_features: true needs a frozen image encoder"):
        check_config(make(make_config, own_root))
    with pytest.raises(
        ConfigError, match=r"cache_features: true has nothing to cache, because the first block is fused"
    ):
        check_config(make(make_config, own_root, training__freeze=FROZEN, fusion__variant="l_dit"))
    config = make(make_config, own_root, training__freeze=FROZEN)
    usage = shutil._ntuple_diskusage(10, 9, 1)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: usage)
        with pytest.raises(DataError, match=r"features: cached features would take 0\.0 GiB, 0\.0 GiB are free"):
            fill(config)
    store = fill(config)
    with pytest.raises(DataError, match="do not fit fp16"):
        store.write(range(2), torch.full((2, 64, 8, 8), 1e6))
    (store.folder / "features.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"features\.npy: not readable .* remove the folder"):
        FeatureStore(store.folder, store.image_ids, True).read(store.image_ids[0], False)
