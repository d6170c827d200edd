"""Files of every kind go into a model, and the report tells of every tensor."""

import json

import pytest
import torch
from detectron2.config import instantiate
from official_lists import key_lists, state_dict_of
from original_files import (
    ORIGINALS,
    mask2former_fb,
    mask2former_mm,
    mask2former_mm3,
    official_det,
    official_seg,
    randomized,
)
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitadapter_d2 import model_zoo
from vitadapter_d2.checkpoint.conversion import KINDS, convert_checkpoint, detect_kind
from vitadapter_d2.checkpoint.reading import state_dict_of as find_state_dict
from vitadapter_d2.checkpoint.report import Report
from vitadapter_d2.modeling.backbone import plain_vit


def mask2former():
    cfg = model_zoo.get_config("shapes/mask2former_vit_adapter_quickstart")
    return randomized(instantiate(cfg.model))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return mask2former()


def unnested(content, ema=False):
    return find_state_dict(content, "file", ema)


WHOLE_MODELS = {
    "official_seg": official_seg,
    "official_det": official_det,
    "vitadapter_d2": lambda state: {"model": state},
}
HEADS = [
    ("mask2former_mm", mask2former_mm),
    ("mask2former_mm", mask2former_mm3),
    ("mask2former_fb", mask2former_fb),
]


@pytest.mark.parametrize("kind", WHOLE_MODELS)
def test_a_whole_model_comes_back_from_the_original_names(kind, model):
    state = model.state_dict()
    conversion = convert_checkpoint(unnested(WHOLE_MODELS[kind](state)), model)
    assert conversion.report.kind == kind
    assert conversion.report.is_trained and conversion.report.is_complete
    assert state.keys() - conversion.state_dict.keys() <= {"criterion.empty_weight"}
    for name, tensor in conversion.state_dict.items():
        assert torch.equal(tensor, state[name]), name


def test_averaged_weights_of_a_whole_model(model):
    conversion = convert_checkpoint(unnested(official_det(model.state_dict()), ema=True), model)
    assert not conversion.report.unused
    for name, tensor in conversion.state_dict.items():
        assert torch.equal(tensor, model.state_dict()[name] + 1), name


@pytest.mark.parametrize("kind, save", HEADS)
def test_a_head_comes_back_without_its_backbone(kind, save, model):
    state = model.state_dict()
    conversion = convert_checkpoint(unnested(save(state)), model)
    report = conversion.report
    assert (report.kind, report.is_complete, report.is_trained) == (kind, True, False)
    assert all(name.startswith("backbone.") for name in report.fresh)
    head = {name for name in state if name.startswith("sem_seg_head.")}
    assert head <= conversion.state_dict.keys()
    for name, tensor in conversion.state_dict.items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("name", sorted(key_lists()))
def test_released_files_are_recognised(name):
    keys = key_lists()[name]["keys"]
    assert detect_kind(keys) == f"official_{name.partition('__')[0]}"


def test_a_released_file_fits_the_model_of_its_config_file():
    name = "mask_rcnn_deit_adapter_tiny_fpn_1x_coco"
    with torch.device("meta"):
        model = instantiate(model_zoo.get_config(f"coco/{name}").model)
    released = state_dict_of(key_lists()[f"det__{name}"]["keys"])
    report = convert_checkpoint(released, model).report
    assert report.is_complete and report.is_trained
    assert len(report.matched) + len(report.renamed) == len(released)


def test_a_trunk_goes_into_the_trunk_and_the_rest_is_new(model):
    original = ORIGINALS["timm"]
    source = original.build()
    state = unnested(original.save(source.state_dict()))
    conversion = convert_checkpoint(state, model)
    report = conversion.report
    assert all(name.startswith("backbone.vit.") for name in conversion.state_dict)
    assert report.is_complete and not report.is_trained
    assert report.renamed["blocks.1.norm1.bias"] == "backbone.vit.blocks.1.norm1.bias"
    assert len(report.renamed) + len(report.unused) == len(state)
    assert len(report.renamed) + len(report.fresh) == len(model.state_dict())
    assert report.unused["cls_token"] == "the trunk runs without prefix tokens"


@pytest.mark.parametrize("name", ORIGINALS)
def test_every_tensor_of_a_file_is_accounted_for(name):
    original = ORIGINALS[name]
    state = unnested(original.save(original.build().state_dict()))
    trunk = plain_vit(original.build(), **original.options)
    report = convert_checkpoint(state, trunk).report
    used = {part for source in report.renamed for part in source.split(" + ")}
    assert used | set(report.matched) | set(report.unused) == state.keys()
    assert not (used | set(report.matched)) & set(report.unused)


def refused(state, model, **options):
    with pytest.raises(ValueError) as error:
        convert_checkpoint(state, model, **options)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


def test_another_size_is_one_sentence(model):
    large = VisionTransformer(img_size=128, embed_dim=96, depth=4, num_heads=4).state_dict()
    for allow_partial in (False, True):
        sentence = refused(large, model, allow_partial=allow_partial)
        assert "of another size than the model (kind timm): 51 tensors differ in shape" in sentence
        assert "backbone.vit.pos_embed, (1, 65, 96) in the file, (1, 65, 64) in the mod" in sentence


def test_renamed_and_unrelated_files_are_one_sentence(model):
    state = model.state_dict()
    renamed = {f"foo{name}": tensor for name, tensor in state.items()}
    assert refused(renamed, model).startswith("nothing in the file belongs to this model")
    assert "such as x" in refused({"x": torch.ones(1)}, model)
    spoilt = {name.replace("interactions.1", "interaction.1"): part for name, part in state.items()}
    sentence = refused(spoilt, model)
    assert "33 missing in the file (backbone.interactions.1." in sentence
    assert "33 not known to the model (backbone.interaction.1." in sentence
    assert "--allow-partial" in sentence


def test_what_fits_is_taken_when_that_is_allowed(model):
    state = dict(model.state_dict())
    state["sem_seg_head.predictor.class_embed.bias"] = torch.ones(5)
    del state["backbone.level_embed"]
    state["extra"] = torch.ones(1)
    assert "of another size" in refused(state, model)
    conversion = convert_checkpoint(state, model, allow_partial=True)
    report = conversion.report
    assert report.missing == ["backbone.level_embed"]
    assert report.unexpected == ["extra"]
    assert report.misfits == {
        "sem_seg_head.predictor.class_embed.bias": "(5,) in the file, (13,) in the model"
    }
    assert not report.is_complete and not report.is_trained
    assert len(conversion.state_dict) == len(state) - 2


def test_a_trunk_of_fewer_blocks_is_refused(model):
    deep = VisionTransformer(img_size=128, embed_dim=64, depth=6, num_heads=4).state_dict()
    assert "24 not known to the model (blocks.4.norm1.weight" in refused(deep, model)


def test_a_model_needs_one_trunk():
    state = VisionTransformer(img_size=32, embed_dim=8, depth=1, num_heads=1).state_dict()
    assert "this model has 0" in refused(state, nn.Linear(1, 1))


def test_kinds_are_listed():
    assert "there are: ['official_seg'" in refused({}, nn.Linear(1, 1), kind="word2vec")
    assert len({kind.what for kind in KINDS.values()}) == len(KINDS)


def test_a_report_prints_reasons_and_keeps_all_names():
    report = Report(
        "deit",
        matched=["a"],
        renamed={"b": "c"},
        resized={"c": "(1,) -> (2,), bicubic"},
        fresh={f"head.{index}": "no part of a trunk" for index in range(5)},
        missing=["d", "e", "f", "g"],
    )
    assert report.lines() == [
        "checkpoint of kind deit: 1 matched, 1 renamed, 1 resized, 5 new, 4 missing",
        "  renamed b -> c",
        "  resized c: (1,) -> (2,), bicubic",
        "  new 5: head.0, head.1, head.2 and 2 more: no part of a trunk",
        "  missing d",
        "  missing e",
        "  missing f",
        "  missing: 1 more",
    ]
    kept = json.loads(report.to_json())
    assert kept["summary"] == report.lines()[0]
    assert kept["missing"] == ["d", "e", "f", "g"] and len(kept["fresh"]) == 5
