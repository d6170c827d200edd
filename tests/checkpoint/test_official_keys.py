"""Every official file, as names and shapes, in the model that its configuration describes."""

import re

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import FrozenBatchNorm2d
from official_lists import facts_folder, key_lists, read_committed, state_dict_of
from official_models import build

from vitadapter_d2 import model_zoo
from vitadapter_d2.checkpoint.official import DROPPED, OPTIONAL, convert_official
from vitadapter_d2.checkpoint.rename import without


def shapes(state_dict):
    return {key: tuple(tensor.shape) for key, tensor in state_dict.items()}


@pytest.mark.parametrize("name", sorted(key_lists()))
def test_a_released_file_fits_its_model(name):
    entry = key_lists()[name]
    official = state_dict_of(entry["keys"])
    converted = shapes(convert_official(official))
    assert len(converted) == len(without(official, DROPPED))
    assert converted == shapes(build(entry["config"]).state_dict())


def test_only_index_buffers_and_constants_are_left_out():
    left_out = set()
    for entry in key_lists().values():
        names = entry["keys"].keys() - without(entry["keys"], DROPPED).keys()
        left_out |= {name.rpartition(".")[2] for name in names}
    assert left_out == {"relative_position_index", "project"}


def test_a_file_fits_the_model_of_its_config_file():
    keys = key_lists()["det__mask_rcnn_deit_adapter_tiny_fpn_1x_coco"]["keys"]
    with torch.device("meta"):
        model = instantiate(
            model_zoo.get_config("coco/mask_rcnn_deit_adapter_tiny_fpn_1x_coco").model
        )
    converted = shapes(convert_official(state_dict_of(keys)))
    expected = shapes(model.state_dict())
    assert converted == expected


def test_what_has_no_place_here_is_left_out():
    official = {
        "backbone.level_embed": torch.zeros(1),
        "backbone.blocks.0.attn.relative_position_index": torch.zeros(1),
        "backbone.rel_pos_bias.relative_position_bias_table": torch.zeros(1),
        "bbox_head.integral.project": torch.zeros(1),
        "ema_backbone_level_embed": torch.zeros(1),
    }
    assert list(convert_official(official)) == ["backbone.level_embed"]


def test_a_model_without_counters_and_auxiliary_head_lacks_optional_entries_alone():
    entry = key_lists()["seg__upernet_augreg_adapter_tiny_512_160k_ade20k"]
    model = build(entry["config"])
    model.auxiliary_head = None
    with torch.device("meta"):
        model = FrozenBatchNorm2d.convert_frozen_batchnorm(model)
    unused = convert_official(state_dict_of(entry["keys"])).keys() - model.state_dict().keys()
    assert {key.partition(".")[0] for key in unused} == {
        "auxiliary_head",
        "backbone",
        "sem_seg_head",
    }
    assert all(re.search("|".join(OPTIONAL), key) for key in unused)


def test_unknown_names_stay_so_that_the_caller_sees_them():
    official = {"backbone.level_embed": torch.zeros(1), "roi_extra": torch.zeros(2)}
    assert set(convert_official(official)) == set(official)


def test_what_is_not_official_is_refused():
    with pytest.raises(ValueError, match="first name is 'blocks.0.norm1.weight'"):
        convert_official({"blocks.0.norm1.weight": torch.zeros(1)})


def test_a_file_with_both_namings_is_refused():
    official = {
        "backbone.level_embed": torch.zeros(1),
        "decode_head.transformer_decoder.post_norm.bias": torch.zeros(1),
        "sem_seg_head.predictor.decoder_norm.bias": torch.zeros(1),
    }
    with pytest.raises(ValueError, match="both"):
        convert_official(official)


@pytest.mark.weights
def test_the_committed_lists_are_current():
    if facts_folder() is None:
        pytest.skip("the committed lists are all there is: set VITADAPTER_REFERENCE")
    lists = key_lists()
    assert len(lists) == 77
    for name, entry in read_committed().items():
        assert entry["keys"] == lists[name]["keys"]
        for part, value in entry["config"].items():
            assert value == lists[name]["config"].get(part), (name, part)
