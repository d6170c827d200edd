"""Whole files of mmsegmentation's segmentors in our models, by cases with random weights."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import FPN, Backbone
from official_models import backbone

from vitadapter_d2.checkpoint.official import convert_official
from vitadapter_d2.checkpoint.rename import with_prefix
from vitadapter_d2.checkpoint.semantic import convert_semantic_head
from vitadapter_d2.modeling.semantic import (
    FCNHead,
    SemanticFPNHead,
    SemanticSegmentor,
    UPerNetHead,
)

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class Given(Backbone):
    """Passes four levels on."""

    def __init__(self):
        super().__init__()
        self._out_features = list(STRIDES)
        self._out_feature_strides = STRIDES
        self._out_feature_channels = dict.fromkeys(STRIDES, 48)

    def forward(self, levels):
        return dict(zip(STRIDES, levels, strict=True))


@pytest.mark.weights
def test_upernet_and_its_auxiliary_head_meet_the_reference(reference_case):
    case = reference_case("uper_fcn_head")
    levels = dict(zip(STRIDES, case.input, strict=True))
    heads = {
        "decode_head.": UPerNetHead(48, 7, channels=32),
        "auxiliary_head.": FCNHead(48, 7, channels=24),
    }
    for prefix, head in heads.items():
        head.load_state_dict(convert_semantic_head(with_prefix(case.state_dict, prefix)))
    case.check_outputs([head.eval()(levels) for head in heads.values()])


@pytest.mark.weights
def test_semantic_fpn_meets_the_reference(reference_case):
    case = reference_case("semfpn_head_bn")
    model = SemanticSegmentor(
        backbone=FPN(Given(), list(STRIDES), 32), sem_seg_head=SemanticFPNHead(32, 7, channels=24)
    )
    official = {"backbone.level_embed": torch.empty(0), **case.state_dict}
    ours = convert_official(official)
    del ours["backbone.bottom_up.level_embed"]  # the case begins at the neck
    model.load_state_dict(ours)
    features = model.eval().backbone(case.input)
    case.check_outputs([model.sem_seg_head(features), *features.values()])


@pytest.mark.weights
def test_a_whole_file_meets_the_reference(reference_case):
    case = reference_case("segmentor_upernet_slide")
    config = dict(pretrain_size=224, with_cffn=True, **case.config["backbone"])
    model = SemanticSegmentor(
        backbone=backbone(config, added_stages=(0, 1, 2, 3)),
        sem_seg_head=UPerNetHead(48, 7, channels=32),
        auxiliary_head=FCNHead(48, 7, channels=24),
    )
    model.load_state_dict(convert_official(case.state_dict))
    model.eval()
    with torch.no_grad():
        scores = model.semantic_scores(case.input)
    size = tuple(case.ori_shape[:2])
    expected = dict(zip(case.out_names, case.outputs, strict=True))["whole_prob"]
    actual = F.interpolate(scores, size, mode="bilinear").softmax(1)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("psp_modules.3.1.bn.weight", "pyramid_pooling.branches.3.norm.weight"),
        ("bottleneck.conv.weight", "pyramid_pooling.fuse.weight"),
        ("lateral_convs.0.conv.weight", "lateral_convs.res2.weight"),
        ("fpn_convs.2.bn.num_batches_tracked", "output_convs.res4.norm.num_batches_tracked"),
        ("fpn_bottleneck.bn.running_var", "fuse.norm.running_var"),
        ("scale_heads.0.0.conv.weight", "p2.0.weight"),
        ("scale_heads.1.0.bn.bias", "p3.0.norm.bias"),
        ("scale_heads.2.2.conv.weight", "p4.2.weight"),
        ("scale_heads.3.4.conv.weight", "p5.4.weight"),
        ("convs.0.bn.bias", "convs.0.norm.bias"),
        ("conv_seg.bias", "predictor.bias"),
    ],
)
def test_heads_have_the_names_of_their_modules(official, ours):
    assert list(convert_semantic_head({official: torch.empty(0)})) == [ours]
