"""The causal map of trained runs: what the command measures, keeps, prints and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.conftest import Outcome
from workbench.analysis.causal_map import measure, other_sentences, places
from workbench.analysis.comparison import compare
from workbench.analysis.interventions import InterventionError
from workbench.analysis.kept_maps import UNDISTURBED, file_of, read_map
from workbench.analysis.points import TraceError
from workbench.analysis.predictor import Predictor
from workbench.config import RunConfig
from workbench.data.datasets import open_dataset
from workbench.data.loading import Expressions, ReferringDataset
from workbench.evaluation.evaluate import evaluate
from workbench.models.build import build_model
from workbench.models.text_encoder import load_tokenizer
from workbench.results.folders import RunFolder
from workbench.training.checkpointing import load_trained
from workbench.training.train import train
from workbench.validation import DamagedFile

Command = Callable[..., Outcome]
MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def runs(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Two runs of six steps; the default variant reads no words in its image encoder."""
    results, found = tmp_path_factory.mktemp("results"), {}
    for variant, more in (("l_dit", {"fusion__projector__init": "default"}), ("default", {})):
        config = make_config(fusion__variant=variant, **more)
        found[variant] = RunFolder.of(results, config, 0)
        train(config, 0, found[variant])
    return found


def test_a_map_is_measured_kept_and_printed(runs: dict[str, RunFolder], workbench: Command) -> None:
    run = runs["l_dit"]
    done = workbench("interventions", run.name, "--results", run.results, "--json")
    assert done.code == 0, done.err
    (document,) = json.loads(done.out)
    stored = run.expressions()
    stored = stored[stored["split"] == "val"].reset_index(drop=True)
    assert document["expressions"] == document["of"] == len(stored)
    assert document["undisturbed"] == pytest.approx(stored["iou"].mean())
    assert [(row["intervention"], row["layer"]) for row in document["rows"]] == [
        (kind, layer) for kind in ("hide_words", "mean_words", "swap_words") for layer in (0, 1, 2, 3, -1, -2)
    ]
    assert [row["point"] for row in document["rows"][4:6]] == ["encoder.blocks[0-3].attn", "decoder"]
    assert [Path(file).name for file in document["files"]] == ["interventions_val.parquet", "interventions_val.csv"]
    kept = read_map(run, "val")
    assert kept is not None
    whole = kept.rows[kept.rows["intervention"] == UNDISTURBED].sort_values(["image_id", "ref_id", "sent_id"])
    np.testing.assert_array_equal(whole["iou"], stored.sort_values(["image_id", "ref_id", "sent_id"])["iou"])
    assert len(kept.rows) == 19 * len(stored)
    first = document["rows"][0]
    here = kept.rows[(kept.rows["intervention"] == "hide_words") & (kept.rows["layer"] == 0)]
    assert first["delta"] == pytest.approx(here["delta"].mean())
    undisturbed = kept.rows[kept.rows["intervention"] == UNDISTURBED]
    interval = compare(here.reset_index(drop=True), undisturbed.reset_index(drop=True), "miou").interval
    assert (first["low"], first["high"]) == pytest.approx((interval.low, interval.high))
    assert first["images"] == 6
    printed = pd.read_csv(file_of(run, "val").with_suffix(".csv"))
    np.testing.assert_allclose(printed["delta"], [row["delta"] for row in document["rows"]])


def test_heads_points_kinds_and_a_limit_are_chosen(runs: dict[str, RunFolder], workbench: Command) -> None:
    run = runs["l_dit"]
    kinds = ("--kind", "hide_words", "--kind", "heads_off", "--heads")
    asked = (*kinds, "--points", "encoder.blocks[2].attn", "--limit", 9)
    done = workbench("interventions", run.name, "--results", run.results, *asked)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{run.name}: 9 expressions of val (of 24: those whose split:ref_id:sent_id has the")
    assert [line.split()[:3] for line in lines[2:8]] == [
        [kind, "2", head] for kind in ("hide_words", "heads_off") for head in ("all", "0", "1")
    ]
    assert "masks" in done.err
    kept = read_map(run, "val")
    assert kept is not None
    assert len(kept.rows) == 9 * 7


def test_without_words_in_the_encoder_the_points_are_listed(runs: dict[str, RunFolder], workbench: Command) -> None:
    run = runs["default"]
    both = (runs["l_dit"].name, run.name, "--results", run.results)
    file_of(runs["l_dit"], "val").unlink(missing_ok=True)
    refused = workbench("interventions", *both, "--points", "encoder.blocks[*].attn")
    assert refused.code == 2
    assert refused.out == ""
    assert f"{run.name}: hide_words: this model (Default) reads no words in its image encoder" in refused.err
    assert "it has the points encoder.blocks[0-3].attn, encoder.blocks[0-3].attn.image_to_image" in refused.err
    assert not file_of(runs["l_dit"], "val").exists(), "nothing is computed where one of the runs cannot be"
    heads = workbench("interventions", run.name, "--results", run.results, "--kind", "heads_off")
    assert heads.code == 0, heads.err
    assert [line.split()[1] for line in heads.out.splitlines()[2:7]] == ["0", "1", "2", "3", "together"]
    for wrong, message in (
        (("--points", "encoder.blocks[9].attn"), "has no point 'encoder.blocks[9].attn'; it has encoder.blocks[0-3]"),
        (("--points", "decoder.*"), "interventions act on whole blocks of the image encoder"),
        (("--limit", 2, "--split", "nothing"), "nothing"),
        (("--limit", 1), "greater than or equal to 2"),
    ):
        refused = workbench("interventions", runs["l_dit"].name, "--results", run.results, *wrong)
        assert refused.code == 2
        assert message in refused.err


def test_in_default_sam_words_act_in_the_mask_decoder(runs: dict[str, RunFolder], workbench: Command) -> None:
    """Swapped there, they are the other sentence altogether."""
    run = runs["default"]
    done = workbench("interventions", run.name, "--results", run.results)
    assert done.code == 0, done.err
    assert [line.split()[:2] for line in done.out.splitlines()[2:5]] == [
        [kind, "decoder"] for kind in ("hide_words", "mean_words", "swap_words")
    ]
    kept = read_map(run, "val")
    assert kept is not None
    config = RunConfig.parse(run.record().config)
    dataset, model = dataset_of(config), load_trained(config, run)
    dataset.asked = other_sentences(dataset.expressions)
    tokenizer = load_tokenizer(config.text_encoder, config.machine.checkpoint_root)
    other = evaluate(model, tokenizer, dataset, config, torch.device("cpu"))
    swapped = kept.rows[kept.rows["intervention"] == "swap_words"].sort_values(["image_id", "ref_id", "sent_id"])
    np.testing.assert_allclose(swapped["iou"], other["iou"], atol=0.01)
    assert swapped["delta"].abs().max() > 0


def test_kept_maps_of_other_weights_are_not_used_nor_damaged_ones(
    runs: dict[str, RunFolder], workbench: Command
) -> None:
    run = runs["default"]
    asked = ("--kind", "heads_mean", "--points", "encoder.blocks[1].attn", "--limit", 8)
    assert workbench("interventions", run.name, "--results", run.results, *asked).code == 0
    assert read_map(run, "val") is not None
    finished = run.record().finished
    assert finished is not None
    run.update(finished=finished + 1)
    assert read_map(run, "val") is None
    assert read_map(run, "testA") is None
    file_of(run, "val").write_bytes(b"damaged")
    with pytest.raises(DamagedFile, match="make it again: workbench interventions"):
        read_map(run, "val")
    run.update(finished=finished)


def dataset_of(config: RunConfig) -> ReferringDataset:
    return ReferringDataset(open_dataset(config), "val", 64, config.data)


def test_what_changes_nothing_is_an_error_and_no_row_of_zeros(make_config: MakeConfig) -> None:
    config = make_config(fusion__variant="l_dit")  # its projectors begin with zeros: all words are alike
    tokenizer = load_tokenizer(config.text_encoder, config.machine.checkpoint_root)
    torch.manual_seed(0)
    predictor = Predictor(build_model(config), tokenizer, config, "new")
    dataset = dataset_of(config)
    wanted = places(predictor.model, ("mean_words",), ["encoder.blocks[1].attn"])
    with pytest.raises(InterventionError, match="mean_words at layers 1: it changed nothing at block 1"):
        measure(predictor, dataset, wanted, {})


def test_places_are_blocks_that_read_words(make_config: MakeConfig) -> None:
    model = build_model(make_config(fusion__variant="e_dit", fusion__layers={"last": 2}))
    found = places(model, ("hide_words", "heads_mean"), ["encoder.blocks[*].attn"], by_head=True)
    assert [(place.intervention.kind, place.layer, place.head) for place in found] == [
        *(("hide_words", layer, head) for layer in (2, 3) for head in (-1, 0, 1)), ("hide_words", -1, -1),
        *(("heads_mean", layer, head) for layer in range(4) for head in (-1, 0, 1)), ("heads_mean", -1, -1),
    ]  # fmt: skip
    assert found[-1].intervention.layers == (0, 1, 2, 3)
    nowhere = r"no block of encoder.blocks\[0\].attn reads words; .* these do: encoder.blocks\[2-3\].attn"
    with pytest.raises(InterventionError, match=nowhere):
        places(model, ("swap_words",), ["encoder.blocks[0].attn"])
    with pytest.raises(TraceError, match="no point"):
        places(model, ("swap_words",), ["encoder.blocks[4].attn"])
    in_decoder = places(model, ("swap_words", "heads_off"), ["decoder", "encoder.blocks[2].attn"])
    assert [(str(place.intervention), place.point) for place in in_decoder] == [
        ("swap_words at layers 2", "encoder.blocks[2].attn"), ("swap_words in the mask decoder", "decoder"),
        ("heads_off at layers 2", "encoder.blocks[2].attn"),
    ]  # fmt: skip
    with pytest.raises(InterventionError, match="heads_off: of the mask decoder, only words can be changed"):
        places(model, ("heads_off",), ["decoder"])


def test_other_sentences_are_of_other_images_and_say_something_else(make_config: MakeConfig) -> None:
    expressions = dataset_of(make_config()).expressions
    others = other_sentences(expressions)
    images: dict[str, set[int]] = {}
    for expression in expressions:
        images.setdefault(expression.sentence, set()).add(expression.image_id)
    for expression in expressions:
        other = others[expression.ref_id, expression.sent_id]
        assert other != expression.sentence
        assert images[other] - {expression.image_id}
    assert others == other_sentences(expressions)


def test_a_sample_is_spread_over_the_split_and_grows(make_config: MakeConfig) -> None:
    config = make_config()
    train_split = Expressions(open_dataset(config), "train")
    keys = [{(e.ref_id, e.sent_id) for e in train_split.sample(count)} for count in (10, 20)]
    assert [len(one) for one in keys] == [10, 20]
    assert keys[0] < keys[1]
    assert len({e.image_id for e in train_split.sample(20)}) > 10
    places_in_split = [i for i, e in enumerate(train_split) if (e.ref_id, e.sent_id) in keys[1]]
    assert max(places_in_split) > 0.7 * len(train_split)
    assert len(train_split.sample(10_000)) == len(train_split)
