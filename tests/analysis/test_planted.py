"""One head is known to look at the referent: alignment and interventions single it out, and shuffled words do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import pytest

from tests.analysis.planted import HEAD, LAYER, pictures, planted_config, planted_dataset, planted_model
from workbench.analysis.alignment import ALIGNED, NULLS, collect, table
from workbench.analysis.causal_map import measure, other_sentences, places
from workbench.analysis.kept_maps import ALL
from workbench.analysis.kept_maps import table as table_of_map
from workbench.analysis.predictor import Predictor
from workbench.config import RunConfig
from workbench.evaluation.evaluate import evaluate
from workbench.models.text_encoder import load_tokenizer

POINTS = ["encoder.blocks[*].attn.word_to_image"]
PLANTED = (f"encoder.blocks[{LAYER}].attn.word_to_image", HEAD)


@dataclass
class Planted:
    predictor: Predictor

    @property
    def config(self) -> RunConfig:
        return self.predictor.config

    def aligned(self, shuffled: bool) -> pd.DataFrame:
        dataset = planted_dataset(self.config)
        if shuffled:
            others = other_sentences(dataset.expressions)
            words = [others[e.ref_id, e.sent_id] for e in dataset.expressions]
            dataset.expressions = dataset.expressions.with_sentences(words)
        model, tokenizer = self.predictor.model, self.predictor.tokenizer
        return table(collect(model, tokenizer, dataset, self.config, POINTS)).set_index(["point", "head", "statistic"])


@pytest.fixture(scope="module")
def planted(make_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Planted:
    root = tmp_path_factory.mktemp("planted")
    pictures(root, images=13)
    config = planted_config(make_config, root)
    tokenizer = load_tokenizer(config.text_encoder, config.machine.checkpoint_root)
    return Planted(Predictor(planted_model(config, tokenizer), tokenizer, config, "planted"))


def test_alignment_finds_the_head(planted: Planted) -> None:
    rows = planted.aligned(shuffled=False)
    for statistic in ALIGNED:
        values = rows.xs(statistic, level="statistic")["value"]
        assert values.idxmax() == PLANTED
        found = rows.loc[(*PLANTED, statistic)]
        assert found["value"] == pytest.approx({"inside": 1 - 1 / 16, "auc": 1.0, "pointing": 1.0}[statistic], abs=0.02)
        assert [found[f"{null}: verdict"].split(" by ")[0] for null in NULLS] == ["separates: above"] * 3
    others = [key for key in rows.index.droplevel("statistic").unique() if key != PLANTED]
    assert len(others) == 7
    for other in others:
        for statistic in ALIGNED:
            apart = rows.loc[(*other, statistic), "shuffled: difference"]
            assert abs(apart) < 0.01


def test_with_words_of_other_images_nothing_is_left_of_it(planted: Planted) -> None:
    rows = planted.aligned(shuffled=True)
    for statistic, no_preference in (("inside", 0.0), ("auc", 0.5), ("pointing", 1 / 16)):
        found = rows.loc[(*PLANTED, statistic)]
        assert found["low"] <= no_preference
        assert found["value"] < (1 + no_preference) / 2
        assert not found["smooth: verdict"].startswith("separates: above")


def test_interventions_find_the_layer_and_the_head(planted: Planted) -> None:
    dataset = planted_dataset(planted.config)
    model = planted.predictor.model
    wanted = places(model, ("hide_words", "mean_words", "swap_words"), ["encoder.blocks[*].attn"], by_head=True)
    found = measure(planted.predictor, dataset, wanted, other_sentences(dataset.expressions))
    undisturbed = found.rows[found.rows["intervention"] == "none"]
    assert undisturbed["iou"].mean() > 0.95
    evaluated = evaluate(model, planted.predictor.tokenizer, dataset, planted.config, planted.predictor.device)
    assert undisturbed["iou"].tolist() == evaluated["iou"].tolist()
    assert undisturbed["delta"].abs().max() == 0
    rows = table_of_map(found.rows, found.changes).set_index(["intervention", "layer", "head"])
    acting = {("hide_words", LAYER, HEAD), *((kind, layer, ALL) for kind in ("hide_words", "mean_words", "swap_words")
              for layer in (LAYER, ALL))}  # fmt: skip
    assert len(rows) == 3 * 5 + 2 * 4
    for key, row in rows.iterrows():
        assert row["change_at_point"] > 1e-3, "each of them changes what it acts on"
        if key in acting:
            assert row["delta"] < -0.9
            assert row["verdict"] == "falls"
        else:
            assert (row["delta"], row["low"], row["high"]) == (0, 0, 0)
            assert row["verdict"] == "no difference shown"
