"""What a drawing of a model says is what the model has: weights, shapes, and which block reads what through what."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from workbench.config import FusionConfig
from workbench.models.build import check_config
from workbench.models.catalog import config_of
from workbench.models.fusion import BlockInput, Fusion, Sizes, variants
from workbench.models.referring_sam import UNUSED
from workbench.paper.anatomy import Anatomy, anatomy_of, as_document, from_document


def mini(variant: str, **changes: Any) -> Anatomy:
    return anatomy_of(config_of("vit_mini", {"fusion.variant": variant, **changes}))


@pytest.mark.parametrize("variant", list(variants))
def test_every_weight_that_is_reached_belongs_to_one_stage(variant: str) -> None:
    setting = {"fusion.variant": variant, "fusion.text_projection": variant != "default"}
    model = check_config(config_of("vit_mini", setting))
    anatomy = anatomy_of(config_of("vit_mini", setting))
    reached = sum(p.numel() for name, p in model.named_parameters() if not name.startswith(UNUSED))
    assert sum(stage.weights for stage in anatomy.stages.values()) == reached
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(stage.trained for stage in anatomy.stages.values()) == trained
    drawn = sum(sum(entry.own.values()) for entry in anatomy.entries)
    shared = {part: size for entry in anatomy.entries for part, size in entry.shared.items()}
    assert drawn + sum(shared.values()) == anatomy.stages["fusion"].weights


def test_l_dit_on_the_last_blocks_reads_words_there_through_projectors_of_their_own() -> None:
    anatomy = anatomy_of(config_of("vit_b", {"fusion.variant": "l_dit", "fusion.layers": list(range(6, 12))}))
    assert [entry.layer for entry in anatomy.entries] == [6, 7, 8, 9, 10, 11]
    assert {entry.reads for entry in anatomy.entries} == {("words",)}
    assert [dict(entry.own) for entry in anatomy.entries] == [{"projection": 768 * 768 + 768}] * 6
    assert all(not entry.shared for entry in anatomy.entries)
    shapes = {name: stage.shape for name, stage in anatomy.stages.items()}
    assert shapes == {
        "patches": (32, 32, 768), "blocks": (32, 32, 768), "neck": (256, 32, 32), "text_encoder": (20, 768),
        "text_projection": (20, 768), "fusion": (20, 768), "decoder_words": (20, 256), "mask_decoder": (128, 128),
    }  # fmt: skip
    assert (anatomy.blocks, anatomy.text_layers, anatomy.decoder_layers, anatomy.added_decoder_layers) == (12, 12, 2, 0)


@pytest.mark.parametrize(
    ("variant", "changes", "reads", "own", "shared"),
    [
        ("e_dit", {}, [("words",), ("last",)], [["projection"], []], [[], []]),
        ("e_dit_reprojected", {}, [("words",), ("last",)], [["projection"]] * 2, [[], []]),
        ("e_dit_tokens", {}, [("words",), ("last",)], [["projection"], ["learned tokens"]], [[], []]),
        ("l_dit", {"fusion.projector.type": "shared"}, [("words",)] * 2, [[], []], [["projection"]] * 2),
        ("l_dit_tokens", {"fusion.text_projection": True}, [("words",)] * 2, [["learned tokens"]] * 2, [[], []]),
        (
            "l_dit_cross_attention", {}, [("words", "image")] * 2,
            [["projection", "cross-attention", "norm"]] * 2, [[], []],
        ),
        (
            "l_dit_cross_attention", {"fusion.cross_attention.keys": "text"}, [("words",), ("words", "last")],
            [["projection"], ["projection", "cross-attention", "norm"]], [[], []],
        ),
    ],
)  # fmt: skip
def test_what_a_block_reads_and_through_what(
    variant: str, changes: dict[str, Any], reads: list[Any], own: list[Any], shared: list[Any]
) -> None:
    anatomy = mini(variant, **{"fusion.layers": [1, 3], **changes})
    assert [entry.layer for entry in anatomy.entries] == [1, 3]
    assert [entry.reads for entry in anatomy.entries] == reads
    assert [list(entry.own) for entry in anatomy.entries] == own
    assert [list(entry.shared) for entry in anatomy.entries] == shared


def test_what_is_frozen_is_counted_as_such_and_its_wiring_is_still_found() -> None:
    frozen = mini("l_dit", **{
        "training.freeze": {"image_encoder": True, "fusion": True, "text_encoder": True},
        "fusion.projector.init": "default",
    })  # fmt: skip
    assert {name for name, stage in frozen.stages.items() if stage.is_frozen} == {
        "patches", "blocks", "text_encoder", "fusion",
    }  # fmt: skip
    assert all(list(entry.own) == ["projection"] for entry in frozen.entries)
    deeper = mini("default", **{"backbone.decoder_depth": 6})
    assert (deeper.decoder_layers, deeper.added_decoder_layers, deeper.entries) == (6, 4, ())


def test_controls_are_told_though_no_weight_shows_them() -> None:
    assert mini("l_dit", **{"evaluation.words": "dropped"}).controls == ("asked without words",)
    assert mini("l_dit", **{"data.words": "shuffled"}).controls == ("trained on other images' words",)
    assert mini("l_dit", **{"fusion.text": "learned"}).learned


def test_a_new_variant_is_read_without_a_line_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "_things", dict(variants))

    class Shifted(Fusion):
        rule = "t = y + shift"
        reads = frozenset()

        def __init__(self, config: FusionConfig, layers: tuple[int, ...], sizes: Sizes) -> None:
            super().__init__(config, layers, sizes)
            self.my_shift = torch.nn.Parameter(torch.zeros(self.needs_equal_widths("it adds to the text")))

        def tokens(self, block: BlockInput) -> Tensor:
            return block.text + self.my_shift

    variants.register("shifted")(Shifted)
    anatomy = mini("shifted", **{"fusion.text_projection": True})
    assert anatomy.parts == ("my shift",)
    assert [dict(entry.shared) for entry in anatomy.entries] == [{"my shift": 64}] * 4


def test_a_document_holds_all_of_it() -> None:
    anatomy = mini("l_dit_cross_attention", **{"fusion.layers": {"last": 2}})
    again = from_document(json.loads(json.dumps(as_document(anatomy), sort_keys=True)))
    assert again == anatomy
    assert again.own(again.entries[0]) == anatomy.own(anatomy.entries[0]) == ["projection", "cross-attention", "norm"]
