"""mmdetection's necks and heads in Detectron2's modules."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
)
from torch import nn

from vitadapter_d2.checkpoint.detection import (
    ROI_HEADS_RULES,
    convert_dense_head,
    convert_neck,
    convert_roi_heads,
    convert_rpn_head,
    convert_sparse_rcnn,
    neck_rules,
)
from vitadapter_d2.checkpoint.rename import rename_key, with_prefix

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
def test_fpn_meets_the_reference(reference_case):
    case = reference_case("neck_fpn_p6pool")
    neck = FPN(Given(), list(STRIDES), 32, top_block=LastLevelMaxPool())
    neck.load_state_dict(convert_neck(case.state_dict))
    outputs = list(neck(case.input).values())
    case.check_outputs(outputs)
    rules = neck_rules(case.state_dict)
    case.check_gradients(outputs, neck, lambda key: rename_key(key, rules))


@pytest.mark.weights
def test_box_head_meets_the_reference(reference_case):
    case = reference_case("bbox_head_2fc")
    head = FastRCNNConvFCHead(
        ShapeSpec(channels=32, height=7, width=7), conv_dims=[], fc_dims=[48, 48]
    )
    predictor = FastRCNNOutputLayers(
        ShapeSpec(channels=48),
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        num_classes=6,
    )
    model = nn.ModuleDict({"box_head": head, "box_predictor": predictor})
    official = {f"bbox_head.{key}": tensor for key, tensor in case.state_dict.items()}
    model.load_state_dict(convert_roi_heads(official))
    outputs = predictor(head(case.input))
    case.check_outputs(outputs)
    case.check_gradients(
        outputs, model, lambda key: rename_key(f"bbox_head.{key}", ROI_HEADS_RULES)
    )


@pytest.mark.weights
def test_first_mask_head_of_a_cascade_meets_the_reference(reference_case):
    case = reference_case("htc_mask_heads")
    head = MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=32, height=14, width=14), num_classes=6, conv_dims=[32, 32, 32]
    )
    official = {f"mask_head.{key}": tensor for key, tensor in case.state_dict.items()}
    head.load_state_dict(with_prefix(convert_roi_heads(official), "mask_head.0."))
    torch.testing.assert_close(head.layers(case.input), case.outputs[0], atol=1e-4, rtol=1e-4)


def renamed(convert, *keys):
    return list(convert({key: torch.empty(0) for key in keys}))


def test_levels_of_a_neck_end_at_stride_32():
    laterals = [f"lateral_convs.{index}.conv.weight" for index in range(3)]
    outputs = [f"fpn_convs.{index}.conv.bias" for index in range(5)]
    assert renamed(convert_neck, *laterals, *outputs) == [
        *(f"fpn_lateral{level}.weight" for level in (3, 4, 5)),
        *(f"fpn_output{level}.bias" for level in (3, 4, 5)),
        "top_block.p6.bias",
        "top_block.p7.bias",
    ]


def test_norms_of_a_neck_keep_their_entries():
    laterals = [f"lateral_convs.{index}.bn.running_mean" for index in range(4)]
    assert renamed(convert_neck, *laterals) == [
        f"fpn_lateral{level}.norm.running_mean" for level in (2, 3, 4, 5)
    ]


def test_attention_before_an_fpn_keeps_its_names():
    laterals = [f"1.lateral_convs.{index}.gn.weight" for index in range(4)]
    assert renamed(convert_neck, "0.attn.qkv.weight", *laterals) == [
        "extra_attention.attn.qkv.weight",
        *(f"fpn_lateral{level}.norm.weight" for level in (2, 3, 4, 5)),
    ]


@pytest.mark.parametrize(
    ("convert", "official", "ours"),
    [
        (convert_rpn_head, "rpn_conv.weight", "conv.weight"),
        (convert_rpn_head, "rpn_conv.1.conv.bias", "conv.conv1.bias"),
        (convert_rpn_head, "rpn_reg.bias", "anchor_deltas.bias"),
        (convert_roi_heads, "bbox_head.shared_convs.3.bn.bias", "box_head.conv4.norm.bias"),
        (convert_roi_heads, "bbox_head.2.shared_fcs.0.bias", "box_head.2.fc1.bias"),
        (convert_roi_heads, "bbox_head.2.fc_cls.bias", "box_predictor.2.cls_score.bias"),
        (convert_roi_heads, "mask_head.convs.0.conv.bias", "mask_head.mask_fcn1.bias"),
        (convert_roi_heads, "mask_head.1.upsample.bias", "mask_head.1.deconv.bias"),
        (convert_roi_heads, "mask_head.1.conv_res.conv.bias", "mask_head.1.conv_res.bias"),
        (
            convert_roi_heads,
            "semantic_head.lateral_convs.4.conv.bias",
            "semantic_head.lateral_convs.4.bias",
        ),
        (convert_roi_heads, "semantic_head.conv_logits.bias", "semantic_head.conv_logits.bias"),
        (convert_dense_head, "cls_convs.3.conv.weight", "cls_subnet.3.weight"),
        (convert_dense_head, "reg_convs.0.gn.bias", "bbox_subnet.0.norm.bias"),
        (convert_dense_head, "atss_centerness.bias", "centerness.bias"),
        (convert_dense_head, "atss_cls.bias", "cls_score.bias"),
        (convert_dense_head, "gfl_reg.weight", "bbox_pred.weight"),
        (convert_dense_head, "scales.4.scale", "scales.4.scale"),
        (convert_sparse_rcnn, "init_proposal_bboxes.weight", "init_proposal_boxes.weight"),
    ],
)
def test_heads_have_the_stated_names(convert, official, ours):
    assert renamed(convert, official) == [ours]


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("attention.attn.in_proj_bias", "self_attn.in_proj_bias"),
        ("attention_norm.bias", "norm1.bias"),
        ("instance_interactive_conv.dynamic_layer.bias", "inst_interact.dynamic_layer.bias"),
        ("instance_interactive_conv.norm_in.bias", "inst_interact.norm1.bias"),
        ("instance_interactive_conv.norm_out.bias", "inst_interact.norm2.bias"),
        ("instance_interactive_conv.fc_layer.bias", "inst_interact.out_layer.bias"),
        ("instance_interactive_conv.fc_norm.bias", "inst_interact.norm3.bias"),
        ("instance_interactive_conv_norm.bias", "norm2.bias"),
        ("ffn.layers.0.0.bias", "linear1.bias"),
        ("ffn.layers.1.bias", "linear2.bias"),
        ("ffn_norm.bias", "norm3.bias"),
        ("cls_fcs.1.bias", "cls_module.1.bias"),
        ("reg_fcs.7.bias", "reg_module.7.bias"),
        ("fc_cls.bias", "class_logits.bias"),
        ("fc_reg.bias", "bboxes_delta.bias"),
    ],
)
def test_stages_of_sparse_rcnn_have_the_names_of_its_paper(official, ours):
    assert renamed(convert_sparse_rcnn, f"bbox_head.5.{official}") == [f"head.head_series.5.{ours}"]


def test_what_is_no_weight_is_left_out():
    assert renamed(convert_dense_head, "integral.project", "gfl_cls.bias") == ["cls_score.bias"]
