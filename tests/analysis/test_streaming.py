"""Statistics over many images take no more memory than over few, and measure what their names say."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.analysis.test_trace import IDS, MASK, MakeConfig, built, images
from workbench.analysis import alignment
from workbench.analysis.alignment import MASSES, collect, default_points, masses, measured_points, statistics_of, table
from workbench.analysis.points import TraceError
from workbench.analysis.trace import trace
from workbench.data.datasets import open_dataset
from workbench.data.loading import ReferringDataset, evaluation_batches
from workbench.models.text_encoder import load_tokenizer


def live_bytes() -> int:
    """Of all tensors that anybody holds, each storage once."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


@pytest.mark.exhaustive
def test_no_tensor_stays_from_one_image_to_the_next(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    def counted(*arguments: Any) -> Iterator[Any]:
        for number, batch in enumerate(evaluation_batches(*arguments)):
            yield batch
            if number in (4, 49):
                own = sum(one.untyped_storage().nbytes() for one in vars(batch).values() if torch.is_tensor(one))
                held.append(live_bytes() - own)

    monkeypatch.setattr(alignment, "evaluation_batches", counted)
    config = make_config(
        fusion__variant="l_dit",
        machine__evaluation_batch_size=1,
        data__recipe={"seed": 5, "train_images": 2, "eval_images": 50},
    )
    # The data set's own cache of decoded images is bounded, but not to so few.
    dataset = ReferringDataset(open_dataset(config), "val", config.backbone.image_size, config.data, cache=False)
    tokenizer = load_tokenizer(config.text_encoder, Path())
    points = ["encoder.blocks[3].attn", "encoder.blocks[3].attn.image_to_word"]
    found = collect(built(make_config, "l_dit"), tokenizer, dataset, config, points)
    assert found["image_id"].nunique() == 50
    assert held[0] == held[1]


@pytest.mark.parametrize("variant", ["default", "e_dit", "l_dit"])
def test_default_points_have_the_numbers_that_their_kind_has(make_config: MakeConfig, variant: str) -> None:
    config = make_config(fusion__variant=variant)
    dataset = ReferringDataset(open_dataset(config), "val", config.backbone.image_size, config.data)
    model, tokenizer = built(make_config, variant), load_tokenizer(config.text_encoder, Path())
    found = collect(model, tokenizer, dataset, config)
    encoder = [f"encoder.blocks[{i}].attn" for i in range(4)]
    of_words = [f"decoder.layers[{i}].image_to_word" for i in range(2)]
    if variant != "default":
        of_words += [f"{name}.image_to_word" for name in encoder]
    assert set(found["point"]) == {*encoder, *of_words} == set(default_points(model))
    own = found[found["source"] == "own"]
    assert (own.groupby(["point", "head"]).size() == len(dataset)).all()
    rows = table(found[found["head"] == 0]).set_index(["point", "head", "statistic"]).sort_index()
    for name in of_words:
        parts = sum(rows.loc[(name, 0, part), "value"] for part in MASSES[1:])
        assert rows.loc[(name, 0, "mass_text"), "value"] == pytest.approx(parts)
        assert 0 < parts < 1
    for name in encoder:
        assert 0 < rows.loc[(name, 0, "entropy"), "value"] < 1
        assert 0 < rows.loc[(name, 0, "distance"), "value"] < 8 * 2**0.5
    assert set(rows.loc[(encoder[0], 0)].index) == set(statistics_of(encoder[0])) == {"entropy", "distance"}
    if variant == "default":
        assert rows.loc[(encoder[3], 0, "distance"), "shuffled: difference"] == 0
        assert rows.loc[(encoder[3], 0, "distance"), "shuffled: verdict"] == "does not separate"


def test_the_shares_of_text_are_those_of_its_tokens(make_config: MakeConfig) -> None:
    model, name = built(make_config, "l_dit"), "encoder.blocks[1].attn.image_to_word"
    with torch.inference_mode(), trace(model, [name]) as seen:
        model(images(), IDS, MASK)
    weights = seen[name].weights
    found = masses(weights, MASK)
    by_token = weights.double().mean(dim=(3, 4))
    torch.testing.assert_close(found["mass_cls"], by_token[:, :, 0])
    torch.testing.assert_close(found["mass_words"], torch.stack([by_token[0, :, 1:4].sum(1), by_token[1, :, 1]]))
    torch.testing.assert_close(found["mass_sep"], torch.stack([by_token[0, :, 4], by_token[1, :, 2]]))
    assert found["mass_padding"].abs().max() == 0, "padding is hidden in the image encoder"


def test_points_without_maps_of_words_are_refused_and_left_out_of_patterns(make_config: MakeConfig) -> None:
    model = built(make_config, "l_dit")
    with pytest.raises(TraceError, match="it has no maps of words; measured are"):
        measured_points(model, ["decoder.layers[*].word_to_word"])
    with pytest.raises(TraceError, match="no point"):
        measured_points(model, ["encoder.blocks[9].attn"])
    assert measured_points(model, ["decoder.layers[1].*"]) == [
        "decoder.layers[1].word_to_image", "decoder.layers[1].image_to_word",
    ]  # fmt: skip
