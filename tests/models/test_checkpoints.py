from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from workbench.config import BackboneConfig, RunConfig
from workbench.errors import CheckpointError, ConfigError
from workbench.models import checkpoints
from workbench.models.backbones import backbones
from workbench.models.build import build_model, check_config

GOLDEN = Path(__file__).parent.parent / "golden"
RELEASED = [("default_sam", "default"), ("prompt_v2", "e_dit"), ("layer_wise", "l_dit")]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(("name", "variant"), RELEASED)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_released_encoders_outputs_are_met(name: str, variant: str, prefix: str) -> None:
    weights = {prefix + key: value for key, value in load_file(GOLDEN / f"{name}.weights.safetensors").items()}
    expected = load_file(GOLDEN / f"{name}.io.safetensors")
    model = checkpoints.load_released(weights, variant)
    with torch.inference_mode():
        embedding = model.encode_image(expected["image"], expected["text"])
        logits = model.decode(embedding, expected["text"])
    assert relative(embedding, expected["image_embedding"]) < 1e-4
    assert relative(logits, expected["low_res_logits"]) < 1e-4
    enlarged = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=True)
    assert relative(enlarged, expected["logits"]) < 1e-4


def test_released_weights_of_another_variant_are_refused_by_key() -> None:
    weights = load_file(GOLDEN / "layer_wise.weights.safetensors")
    with pytest.raises(CheckpointError, match=r"variant default: no missing keys; 6 unexpected keys \(.*probs"):
        checkpoints.load_released(weights, "default")
    with pytest.raises(CheckpointError, match=r"variant e_dit: 2 missing keys \(image_encoder\.fusion\.projector"):
        checkpoints.load_released(weights, "e_dit")
    with pytest.raises(ConfigError, match="unknown fusion variant 'm_dit'"):
        checkpoints.load_released(weights, "m_dit")
    with pytest.raises(CheckpointError, match="not a released checkpoint"):
        checkpoints.load_released({"a": torch.zeros(1)}, "default")


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the form of SAM's own: a plain state dict saved by torch."""
    torch.manual_seed(7)
    sam = backbones["vit_mini"].build()
    file = tmp_path_factory.mktemp("weights") / "sam_vit_mini.pth"
    torch.save(sam.state_dict(), file)
    return file


def backbone(file: Path, **other: Any) -> BackboneConfig:
    return BackboneConfig(checkpoint=str(file), **other)


def test_an_official_file_loads_with_its_values(official: Path) -> None:
    sam = checkpoints.load_backbone(backbone(official), Path("nowhere"))
    for key, value in torch.load(official, weights_only=True).items():
        torch.testing.assert_close(sam.state_dict()[key], value, rtol=0, atol=0)


def test_a_file_is_found_by_name_under_the_checkpoint_root(official: Path) -> None:
    found = checkpoints.locate(BackboneConfig(checkpoint=official.name), official.parent)
    assert found == official


def test_a_deeper_decoder_takes_sam_s_layers_and_keeps_its_own(official: Path) -> None:
    sam = checkpoints.load_backbone(backbone(official, decoder_depth=4), Path())
    state = torch.load(official, weights_only=True)
    key = "mask_decoder.transformer.layers.{}.self_attn.q_proj.weight"
    torch.testing.assert_close(sam.state_dict()[key.format(1)], state[key.format(1)])
    assert key.format(3) in sam.state_dict()


def test_wrong_truncated_missing_and_hostile_files_are_told_apart(official: Path, tmp_path: Path) -> None:
    def load(file: Path) -> None:
        checkpoints.check_backbone(backbone(file), tmp_path)

    with pytest.raises(CheckpointError, match=r"missing checkpoint of vit_mini: no file .*sam\.pth"):
        load(tmp_path / "sam.pth")
    state = torch.load(official, weights_only=True)
    wrong = tmp_path / "wrong.pth"
    torch.save({k: v for k, v in state.items() if "neck" not in k} | {"extra.weight": torch.zeros(1)}, wrong)
    with pytest.raises(
        CheckpointError,
        match=r"6 missing keys \(image_encoder\.neck.* and 3 more\); 1 unexpected key \(extra\.weight\)",
    ):
        load(wrong)
    torch.save(state | {"image_encoder.pos_embed": torch.zeros(1, 9, 9, 64)}, wrong)
    with pytest.raises(CheckpointError, match=r"pos_embed is 1×9×9×64, the model's is 1×8×8×64"):
        load(wrong)
    for share in (0.1, 0.5, 0.99):
        cut = tmp_path / "cut.pth"
        cut.write_bytes(official.read_bytes()[: int(share * official.stat().st_size)])
        with pytest.raises(CheckpointError, match=r"cut\.pth: truncated or damaged"):
            load(cut)
    mark = tmp_path / "harm"
    hostile = tmp_path / "hostile.pth"

    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (mark,)

    torch.save({"a": Hostile()}, hostile)
    with pytest.raises(CheckpointError, match=r"hostile\.pth: refused, only tensors are loaded"):
        load(hostile)
    hostile.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(CheckpointError, match=r"hostile\.pth: "):
        load(hostile)
    assert not mark.exists()
    empty = tmp_path / "empty.pth"
    empty.touch()
    with pytest.raises(CheckpointError, match=r"empty\.pth: truncated"):
        load(empty)


def test_a_pinned_file_with_other_content_is_refused(official: Path) -> None:
    with pytest.raises(CheckpointError, match=r"its SHA-256 is [0-9a-f]{64}, the configuration pins 0{64}"):
        checkpoints.load_backbone(backbone(official, checkpoint_sha256="0" * 64), Path())


def test_l_dit_on_vit_b_adds_exactly_the_published_parameters() -> None:
    config = RunConfig.parse(
        {
            "backbone": {"name": "vit_b", "checkpoint": None, "image_size": 512},
            "fusion": {"variant": "l_dit"},
            "text_encoder": {"name": "bert-base-uncased"},
            "training": {"steps": 1},
        }
    )
    model = check_config(config)
    assert sum(p.numel() for p in model.fusion.parameters()) == 7_087_104


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"fusion__variant": "m_dit"}, r"fusion\.variant: unknown fusion variant 'm_dit'"),
        ({"backbone__name": "vit_x", "backbone__checkpoint": None}, r"backbone\.name: unknown backbone 'vit_x'"),
        ({"fusion__variant": "l_dit", "fusion__layers": [0, 4]}, r"fusion\.layers: no layer 4; .* 0 to 3"),
        ({"fusion__variant": "l_dit", "fusion__layers": [-1]}, r"fusion\.layers: no layer -1"),
        (
            {"fusion__variant": "l_dit", "fusion__layers": {"last": 5}},
            r"fusion\.layers\.last: 5 is more than .* 4 layers",
        ),
        ({"fusion__variant": "l_dit", "fusion__projector__type": "conv"}, r"unknown projector type 'conv'"),
        ({"fusion__variant": "l_dit", "training__freeze__fusion": True}, r"freezes a projector whose init is zero"),
        ({"backbone__image_size": 60}, r"image_size: 60 is not a multiple of the patch size, 8"),
        ({"text_encoder__layer": 3}, r"text_encoder\.layer: 3 is past the text encoder's 2 layers"),
    ],
)
def test_what_shows_only_when_built_names_its_field(
    make_config: Callable[..., RunConfig], overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(make_config(**overrides))


def test_freezing_takes_each_part_alone(make_config: Callable[..., RunConfig]) -> None:
    for part in ("image_encoder", "neck", "text_encoder", "mask_decoder", "fusion"):
        key = f"training__freeze__{part}"
        model = build_model(
            make_config(**{key: True, "fusion__variant": "l_dit", "fusion__projector__init": "default"})
        )
        frozen = {name for name, group in model.parts().items() if not any(p.requires_grad for p in group)}
        assert frozen == {part}


def test_the_shipped_weights_segment_from_a_click(data_folder: Path) -> None:
    import json

    from workbench.config import ASSETS, FusionConfig
    from workbench.data.datasets import read_refer
    from workbench.models.fusion import Sizes, build_fusion
    from workbench.models.image_encoder import FusedImageEncoder
    from workbench.training.pretrain import _Objects, _prompt_miou

    sam = checkpoints.load_backbone(BackboneConfig(), Path()).eval()
    encoder = FusedImageEncoder(sam.image_encoder, build_fusion(FusionConfig(), Sizes(1, (), 1)), windowed=True)
    data = read_refer(data_folder, "refshapes", "unc")
    for split in ("val", "testC"):
        assert _prompt_miou(sam, encoder, _Objects(data, split), clicks=True) > 0.95
    assert json.loads((ASSETS / "vit_mini.json").read_text())["recipe"]["steps"] > 0
    assert (ASSETS / "vit_mini.safetensors").stat().st_size < 3_000_000
