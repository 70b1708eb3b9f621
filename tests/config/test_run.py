from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from workbench.config import RunConfig, difference, run_id
from workbench.errors import ConfigError

OTHER: dict[str, Any] = {
    "data.sentence": "raw",
    "data.words": "shuffled",
    "data.members": [{"name": "a", "dataset": "refcoco"}, {"name": "b", "dataset": "refcoco+"}],
    "evaluation.words": "dropped",
    "fusion.text": "learned",
    "start_from.run": "refshapes-vit_mini-l_dit-111111111111",
    "start_from.seed": 3,
    "backbone.name": "vit_b",
    "backbone.checkpoint": None,
    "backbone.attention": "windowed",
    "fusion.layers": {"first": 2},
    "fusion.projector.init": "default",
    "fusion.projector.rank": 8,
    "fusion.cross_attention.keys": "text",
    "fusion.cross_attention.width": 64,
    "fusion.cross_attention.heads": 4,
    "backbone.mask_upsampling": "align_corners",
    "evaluation.masks": "dilated",
    "start_from.file": "ours.safetensors",
    "start_from.sha256": "0" * 64,
    "text_encoder.name": "other-bert",
    "text_encoder.layer": 1,
    "data.dataset": "refcoco",
    "data.recipe": {"seed": 9},
    "data.recipe.targets": "any",
    "data.recipe.version": 2,
    "validation.every": {"steps": 3},
    "validation.split": "val2",
    "validation.images": 4,
    "validation.metric": "oiou",
    "evaluation.checkpoint": "best",
    "data.sha256": "2" * 64,
    "data.augmentation.scales": [1.0, 0.75],
    "data.augmentation.large_scale_jitter": [0.1, 2.0],
    "data.augmentation.swap": "substrings",
    "data.epoch": "referents",
    "data.padding": "centred",
    "training.steps": 7,
    "training.optimizer.name": "adam",
    "training.optimizer.betas": [0.8, 0.9],
    "training.optimizer.clip_norm": None,
    "training.optimizer.rates": {"text_encoder": 0.1},
    "training.schedule.name": "constant",
    "training.schedule.warmup_epochs": 3.0,
    "training.ema.decay": 0.9,
    "training.ema.start": "initial",
    "data.augmentation.batch_scales": [0.5, 1.0],
    "training.precision": "bf16",
    "evaluation.splits": ["testA"],
}


def leaves(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        key = f"{prefix}.{name}".lstrip(".")
        if isinstance(value, BaseModel):
            yield from leaves(value, key)
        else:
            yield key, value


def changed(config: RunConfig, key: str) -> RunConfig:
    """The configuration with one field set to another valid value."""
    value = dict(leaves(config)).get(key)
    other = OTHER.get(key)
    if key not in OTHER:
        other = not value if isinstance(value, bool) else f"{value}x" if isinstance(value, str) else value * 2 + 0.01
        if isinstance(value, int) and not isinstance(value, bool):
            other = value * 2 + 1
        elif isinstance(value, float) and value <= 1:
            other = value / 2 + 0.125
    document = config.model_dump()
    inside = document
    *parts, last = key.split(".")
    for part in parts:
        inside = inside[part]
    inside[last] = other
    if key == "evaluation.checkpoint":
        document["validation"]["every"] = {"steps": 2}
    if key == "data.dataset":
        document["data"]["recipe"] = None
    if key == "data.members":
        document["data"] |= {"dataset": "a&b", "recipe": None}
    if key == "backbone.name":
        document["backbone"]["checkpoint"] = None
    if key == "fusion.projector.rank":
        document["fusion"]["projector"]["type"] = "bottleneck"
    if key in ("start_from.run", "start_from.seed"):
        document["start_from"] = {"run": "refshapes-vit_mini-l_dit-000000000000", last: other}
    elif key.startswith("start_from."):
        document["start_from"] = {"file": "ours.safetensors", "sha256": "1" * 64, last: other}
    return RunConfig.model_validate(document)


PLAIN = {"training": {"steps": 5}, "fusion": {"variant": "l_dit"}}


def every_result_field() -> list[str]:
    config = RunConfig.parse(PLAIN)
    pinned = {"backbone.checkpoint_sha256", "text_encoder.sha256", "training.epochs"}
    return [key for key, _ in leaves(config) if not key.startswith("machine.") and key not in pinned]


@pytest.mark.parametrize("key", every_result_field())
def test_every_field_that_can_change_a_result_changes_the_id(key: str) -> None:
    best = {"validation": {"every": {"steps": 2}}, "evaluation": {"checkpoint": "best"}}
    config = RunConfig.parse(PLAIN | (best if key.startswith("validation.") else {}))
    assert changed(config, key).setting_id.rpartition("-")[2] != config.setting_id.rpartition("-")[2]


def test_fields_that_came_later_leave_older_ids_as_they_were() -> None:
    """The ids of the demo's grid as it was before these fields, and before its recipe changed."""
    first_demo = {
        "backbone": {"name": "vit_mini", "checkpoint": "builtin", "image_size": 64, "attention": "global"},
        "text_encoder": {"name": "bert_mini", "max_tokens": 14},
        "data": {"dataset": "refshapes", "recipe": {"seed": 0, "train_images": 5000, "eval_images": 150}},
        "training": {
            "steps": 800,
            "batch_size": 64,
            "optimizer": {"name": "adamw", "learning_rate": 2.0e-3, "weight_decay": 0.01, "clip_norm": 1.0},
            "schedule": {"name": "one_cycle", "warmup": 0.1},
        },
        "evaluation": {"splits": ["val", "testA", "testB", "testC"]},
    }
    variants = ("default", "e_dit", "l_dit")
    assert [RunConfig.parse({**first_demo, "fusion": {"variant": name}}).setting_id for name in variants] == [
        "refshapes-vit_mini-default-a22639e1be19",
        "refshapes-vit_mini-e_dit-b2d15affd9c8",
        "refshapes-vit_mini-l_dit-7a53e38b0002",
    ]


def test_what_means_nothing_to_default_sam_makes_no_other_run(make_config: Callable[..., RunConfig]) -> None:
    one, other = make_config(), make_config(fusion__layers={"first": 2}, fusion__dropout=0.5)
    assert one.setting_id == other.setting_id


def test_a_pin_that_the_shipped_weights_do_not_meet_is_an_error(make_config: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match=r"shipped vit_mini\.safetensors has SHA-256 [0-9a-f]{64}, not 00"):
        make_config(backbone__checkpoint_sha256="0" * 64)


def test_no_field_of_the_machine_changes_the_id(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    other = make_config(
        machine__data_root="/elsewhere",
        machine__checkpoint_root="/weights",
        machine__loader_workers=5,
        machine__threads=8,
        machine__device="cuda",
        machine__trackers=["tensorboard"],
        machine__evaluation_batch_size=1,
        machine__micro_batch=2,
        machine__checkpoint_activations=True,
    )
    assert config.machine != other.machine
    assert config.setting_id == other.setting_id


def test_the_folder_of_a_checkpoint_does_not_count_but_its_name_does(make_config: Callable[..., RunConfig]) -> None:
    ids = [
        make_config(backbone__checkpoint=path, text_encoder__name=text).setting_id
        for path, text in (
            ("/a/sam.pth", "/x/bert-base"),
            ("/b/c/sam.pth", "/y/bert-base"),
            ("/a/other.pth", "/x/bert-base"),
            ("/a/sam.pth", "/x/bert-large"),
        )
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_the_id_is_a_readable_prefix_and_twelve_digits(make_config: Callable[..., RunConfig]) -> None:
    config = make_config(fusion__variant="l_dit")
    prefix, _, digits = config.setting_id.rpartition("-")
    assert prefix == "refshapes-vit_mini-l_dit"
    assert len(digits) == 12
    assert int(digits, 16) >= 0
    assert run_id(config, 3) == f"{config.setting_id}/seed3"


def test_shipped_weights_enter_the_identity_by_content(make_config: Callable[..., RunConfig]) -> None:
    document = make_config().identity_document()["config"]
    assert len(document["backbone"]["checkpoint_sha256"]) == 64
    assert len(document["text_encoder"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"fusion": {"varian": "l_dit"}},
            r"fusion\.varian: unknown key 'varian' \(did you mean 'variant'\?\); known: ",
        ),
        ({"trainin": {}}, r"trainin: unknown key 'trainin' \(did you mean 'training'\?\)"),
        ({"fusion": {"layers": {"first": 0}}}, r"fusion\.layers: .*at least 1, not 0"),
        ({"fusion": {"layers": {"first": 1, "last": 1}}}, r"fusion\.layers: .*one of first, last and every"),
        ({"fusion": {"layers": [1, 1]}}, r"fusion\.layers: .*twice"),
        ({"training": {"steps": 5, "epochs": 2}}, r"training: exactly one of 'steps' and 'epochs'"),
        ({"training": {"steps": -5}}, r"training\.steps: -5 is not valid"),
        ({"training": {"steps": 5, "precision": "fp8"}}, r"training\.precision: 'fp8' is not valid: .*'bf16'"),
        ({"training": {"steps": 5, "optimizer": {"learning_rate": float("nan")}}}, r"learning_rate: nan is not valid"),
        (
            {"training": {"steps": 5, "optimizer": {"rates": {"text": 0.1}}}},
            r"training\.optimizer\.rates: unknown part 'text'; known: image_encoder, neck, text_encoder,",
        ),
        (
            {"training": {"steps": 5, "freeze": {"neck": True}, "optimizer": {"rates": {"neck": 0.1}}}},
            r"training: 'optimizer\.rates' has a factor for neck, which 'freeze\.neck' keeps as it is",
        ),
        ({"training": {"steps": 5, "optimizer": {"rates": {"neck": 0}}}}, r"rates\.neck: 0 is not valid"),
        ({"machine": {"micro_batch": 0}}, r"machine\.micro_batch: 0 is not valid: .*greater than or equal to 1"),
        (
            {"machine": {"compile": True, "checkpoint_activations": True}},
            r"machine: 'compile' and 'checkpoint_activations' do not go together",
        ),
        ({"backbone": {"name": "vit_b"}}, r"no weights of 'vit_b' are shipped"),
        ({"data": {"dataset": "refcoco", "recipe": {}}}, r"data: 'recipe' is only for the data set refshapes"),
        ({"data": {"dataset": ["refcoco"]}}, r"data: 'dataset' as a list names two data sets or more.*not refcoco;"),
        ({"data": {"dataset": ["refcoco", "refcoco"]}}, r"data: 'dataset' as a list .*\{name: second, dataset: refsh"),
        ({"data": {"dataset": ["refcoco", 3]}}, r"data: 'dataset' is a list of names and of mappings .* not of 3"),
        ({"data": {"dataset": ["a", "b"], "recipe": {}}}, r"data: 'recipe' is only for the data set refshapes"),
        ({"data": {"dataset": ["a", "b"], "sha256": "0"}}, r"data: 'sha256' is that of one data set"),
        ({"data": {"dataset": ["a", {"dataset": "b", "by": 1}]}}, r"data\.members\.1\.by: unknown key 'by'"),
        ({"data": {"dataset": ["refshapes", "b"], "recipe": 3}}, r"data: 'recipe' is a mapping, not 3"),
        ({"text_encoder": {"name": ["x"]}}, r"text_encoder\.name: \['x'\] is not valid"),
        ({"data": {"dataset": "refcoco", "members": [{"name": "a", "dataset": "b"}] * 2}}, r"none twice"),
        ({"validation": {"split": "refcoco/testA"}}, r"validation: 'split' must not be a test split"),
        ({"evaluation": {"splits": ["val", "val"]}}, r"evaluation\.splits: .*none twice"),
        ({}, r"training: is required"),
    ],
)
def test_a_mistake_names_its_key_and_what_would_be_right(values: dict[str, Any], message: str) -> None:
    if values and "training" not in values:
        values = {**values, "training": {"steps": 5}}
    with pytest.raises(ConfigError, match=message) as raised:
        RunConfig.parse(values)
    assert "\n" not in str(raised.value)


def test_a_factor_of_one_is_none(make_config: Callable[..., RunConfig]) -> None:
    plain, named = make_config(), make_config(training__optimizer__rates={"neck": 1.0})
    assert plain == named


@pytest.mark.parametrize(
    ("processes", "message"), [(3, "63 or 66 can"), (5, "60 or 65 can"), (128, "128 processes; 128 can")]
)
def test_a_batch_that_its_processes_cannot_share_equally_is_refused(
    make_config: Callable[..., RunConfig], processes: int, message: str
) -> None:
    config = make_config(training__batch_size=64)
    for fitting in (1, 2, 64):
        config.check_processes(fitting)
    with pytest.raises(ConfigError, match=r"training\.batch_size: 64 cannot be shared .* by \d+ processes") as raised:
        config.check_processes(processes)
    assert message in str(raised.value)


def test_difference_shows_both_values() -> None:
    assert difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": None}) == ["a.c: 2 -> 3"]


def test_several_data_sets_are_members_with_what_is_said_beside_the_list() -> None:
    shared = {"split_by": "unc", "recipe": {"seed": 5, "width": 96}}
    listed = ["refcoco+", {"dataset": "refcocog", "split_by": "umd"}, {"name": "two", "dataset": "refshapes",
              "recipe": {"seed": 6}}]  # fmt: skip
    config = RunConfig.parse({"data": {"dataset": listed, **shared}, "training": {"steps": 1}})
    assert [(part.dataset, part.split_by, part.members) for part in config.data.parts] == [
        ("refcoco+", "unc", ()), ("refcocog", "umd", ()), ("refshapes", "unc", ()),
    ]  # fmt: skip
    recipe = config.data.members[2].recipe
    assert recipe is not None
    assert (recipe.seed, recipe.width, config.data.recipe) == (6, 96, None)
    assert config.setting_id.startswith("refcoco+_refcocog_two-vit_mini-")
    assert not config.data.is_pinned
    again = RunConfig.parse(config.model_dump(mode="json"))
    assert again == config
    assert RunConfig.parse(config.identity_document()["config"]).setting_id == config.setting_id
    assert not config.data.same_set(config.data.parts[0])
