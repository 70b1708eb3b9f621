from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.models.test_released import bert_weights, weights_of
from workbench.config import RunConfig
from workbench.errors import CheckpointError
from workbench.files import digest_of
from workbench.grids import load_preset
from workbench.models import checkpoints
from workbench.models.backbones import backbones
from workbench.results.folders import RunFolder
from workbench.training.train import train

GOLDEN = Path(__file__).parent.parent / "golden"
Command = Callable[..., Any]


def as_training_saves_it(file: Path, state: dict[str, torch.Tensor]) -> Path:
    """A dictionary with the optimiser's and the epoch's entries beside the weights, under DistributedDataParallel."""
    wrapped = {f"module.{key}": value for key, value in state.items()}
    torch.save({"epoch": 39, "lr": 1e-6, "state_dict": wrapped, "optimizer": {"state": {}, "param_groups": []}}, file)
    return file


@pytest.mark.parametrize("name", ["layer_wise", "prompt_v2", "default_sam"])
def test_an_imported_model_gives_the_released_outputs(name: str, tmp_path: Path, workbench: Command) -> None:
    file = as_training_saves_it(tmp_path / "released.pth", load_file(GOLDEN / f"{name}.weights.safetensors"))
    variant = {"layer_wise": "l_dit", "prompt_v2": "e_dit", "default_sam": "default"}[name]
    done = workbench("import-released", file, "--variant", variant, "--out", tmp_path / "ours")
    assert done.code == 0, done.err
    assert f"{variant}: 3 layers of width 48 with 4 heads (no registered backbone" in done.out
    assert [p.name for p in (tmp_path / "ours").iterdir()] == ["released.safetensors"]
    model = checkpoints.load_model(tmp_path / "ours" / "released.safetensors")
    expected = load_file(GOLDEN / f"{name}.io.safetensors")
    with torch.inference_mode():
        found = model.decode(model.encode_image(expected["image"], expected["text"]), expected["text"])
    assert ((found - expected["low_res_logits"]).abs().max() / found.abs().max()).item() < 1e-4


def test_the_text_encoder_comes_along_and_what_is_unused_is_listed(tmp_path: Path, workbench: Command) -> None:
    state = weights_of("l_dit_cross_attention_ffn") | bert_weights(True)[0] | {"query_embeddings": torch.zeros(1, 4, 8)}
    file = as_training_saves_it(tmp_path / "r.pth", state)
    done = workbench("import-released", file, "--variant", "l_dit_cross_attention_ffn", "--out", tmp_path)
    assert done.code == 0, done.err
    unused = [line for line in done.out.splitlines() if line.startswith("unused: ")]
    assert "unused: module.query_embeddings" in unused
    assert len(unused) == 1 + 2 * 16 + 2
    original = checkpoints.load_released(state, "l_dit_cross_attention_ffn")
    ours = checkpoints.load_model(tmp_path / "r.safetensors")
    batch = torch.randn(1, 3, 64, 64), torch.tensor([[2, 5, 3]]), torch.ones(1, 3, dtype=torch.int64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(*batch), original(*batch), rtol=0, atol=0)


@pytest.fixture
def mini(tmp_path: Path, workbench: Command) -> Path:
    """An import in the shape of a registered backbone, and its configuration."""
    torch.manual_seed(5)
    state = {
        key.replace("image_encoder.", "visual_encoder."): v
        for key, v in backbones["vit_mini"].build().state_dict().items()
    }
    state = {key: value for key, value in state.items() if not key.startswith("pixel_")}
    for layer in range(4):
        state[f"visual_encoder.probs.{layer}.weight"] = torch.randn(64, 64) / 8
        state[f"visual_encoder.probs.{layer}.bias"] = torch.zeros(64)
    state |= {"text_proj.weight": torch.randn(64, 64) / 8, "text_proj.bias": torch.zeros(64)}
    return as_training_saves_it(tmp_path / "mini.pth", state)


def test_a_registered_backbone_gets_a_configuration_that_evaluates_it(
    mini: Path,
    tmp_path: Path,
    workbench: Command,
    make_config: Callable[..., RunConfig],
) -> None:
    done = workbench("import-released", mini, "--variant", "l_dit", "--out", tmp_path / "ours", "--decoder-heads", 4)
    assert done.code == 0, done.err
    written = load_preset(tmp_path / "ours" / "mini.yaml")
    assert (written.backbone.name, written.training.steps, written.text_encoder.layer) == ("vit_mini", 0, 1)
    assert (written.evaluation.masks, written.evaluation.threshold) == ("dilated", 0.35)
    assert (written.text_encoder.mask_padding, written.backbone.mask_upsampling) == (False, "align_corners")
    config = make_config(
        fusion__variant="l_dit", backbone__checkpoint=None, training__steps=0, text_encoder__layer=1,
        text_encoder__mask_padding=False, start_from=written.start_from.model_dump(),
        machine__checkpoint_root=str(tmp_path / "ours"),
    )  # fmt: skip
    folder = RunFolder.of(tmp_path / "results", config, 0)
    train(config, 0, folder)
    assert folder.state() == "completed"
    assert set(folder.record().metrics) == {"val"}
    assert folder.record().provenance.digests()["start_from_sha256"] == written.start_from.sha256
    place = folder.checkpoints.latest()
    assert place is not None
    kept, ours = load_file(place.model), load_file(tmp_path / "ours" / "mini.safetensors")
    assert all(torch.equal(kept[key], value) for key, value in ours.items())
    assert {key for key in kept if key not in ours} == {key for key in kept if key.startswith("text_encoder.")}


def test_weights_of_another_variant_are_one_clear_line(
    tmp_path: Path, workbench: Command, make_config: Callable[..., RunConfig]
) -> None:
    file = tmp_path / "r.pth"
    torch.save(load_file(GOLDEN / "layer_wise.weights.safetensors"), file)
    for variant, message in (
        ("e_dit", "released checkpoint: not weights of variant e_dit: 2 missing keys"),
        ("m_dit", "variant: unknown fusion variant 'm_dit'"),
    ):
        wrong = workbench("import-released", file, "--variant", variant, "--out", tmp_path / "ours")
        assert wrong.code == 2
        assert message.removeprefix("variant: ") in wrong.err
        assert len(wrong.err.strip().splitlines()) == 1
        assert not (tmp_path / "ours").exists()
    assert (
        "7 decoder heads do not divide the width 16"
        in workbench(
            "import-released", file, "--variant", "l_dit", "--out", tmp_path / "ours", "--decoder-heads", 7
        ).err
    )
    assert workbench("import-released", file, "--variant", "l_dit", "--out", tmp_path / "ours").code == 0
    again = workbench("import-released", file, "--variant", "l_dit", "--out", tmp_path / "ours")
    assert again.code == 2
    assert "r.safetensors is there already" in again.err
    ours = tmp_path / "ours" / "r.safetensors"
    start = {"file": str(ours), "sha256": digest_of(ours)}
    config = make_config(start_from=start, fusion__variant="e_dit")
    from workbench.models.build import check_weights

    with pytest.raises(
        CheckpointError, match=r"r\.safetensors: not weights of vit_mini with variant e_dit: \d+ missing"
    ):
        check_weights(config)
    with pytest.raises(CheckpointError, match=r"does not hold its sizes; only files written by import-released do"):
        checkpoints.load_model(GOLDEN / "layer_wise.weights.safetensors")


def test_nothing_to_train_needs_weights_to_evaluate(workbench: Command, grid_file: Callable[[str], Path]) -> None:
    found = workbench("plan", grid_file("settings: {a: {training.steps: 0}}\n"))
    assert found.code == 2
    assert "training.steps: 0 trains nothing, so start_from must name the weights to evaluate" in found.err
