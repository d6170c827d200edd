"""mmdetection's necks and heads to the names of Detectron2.

What Detectron2 has keeps its names. For the rest these are the names that models here must have:

* neck, all beside ``bottom_up``: ``fpn_lateral<n>`` and ``fpn_output<n>`` by the stride ``2**n``,
  the former also for the 1x1 projections of the neck without an FPN; ``top_block.{p6,p7}`` (ATSS,
  GFL); ``extra_attention.{norm1,attn,norm2,ffn,final_norm}`` (HTC++).
* cascades: ``box_head.<stage>``, ``box_predictor.<stage>`` and ``mask_head.<stage>``, the last
  with ``conv_res`` for HTC's mask flow; ``semantic_head.{lateral_convs.<i>,convs.<i>,
  conv_embedding,conv_logits}``, its convolutions with their parameters directly.
* ATSS and GFL: ``head.{cls_subnet,bbox_subnet}.<i>`` (``weight``, ``norm.*``),
  ``head.{cls_score,bbox_pred,centerness}`` and ``head.scales.<level>.scale``.
* Sparse R-CNN: ``init_proposal_boxes``, ``init_proposal_features`` and ``head.head_series.<stage>``
  with the names of PeizeSun/SparseR-CNN (MIT licence), the paper's own code.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from vitadapter_d2.checkpoint.rename import Rules, rename_keys, with_prefix, without

# A convolution with its norm: Detectron2 keeps the weight at the top and calls the norm so.
CONV_MODULE_RULES: Rules = [
    (r"\.conv\.(weight|bias)$", r".\1"),
    (r"\.(?:bn|gn)\.(\w+)$", r".norm.\1"),
]

RPN_HEAD_RULES: Rules = [
    (r"^rpn_conv\.(\d+)\.conv\.", r"conv.conv\1."),
    (r"^rpn_conv\.", "conv."),
    (r"^rpn_cls\.", "objectness_logits."),
    (r"^rpn_reg\.", "anchor_deltas."),
]

_STAGE = r"((?:\d+\.)?)"  # in cascades

ROI_HEADS_RULES: Rules = [
    *(
        (rf"^bbox_head\.{_STAGE}shared_{kind}s\.{index}\.", rf"box_head.\g<1>{kind}{index + 1}.")
        for kind, count in (("conv", 4), ("fc", 2))
        for index in range(count)
    ),
    (rf"^bbox_head\.{_STAGE}fc_cls\.", r"box_predictor.\1cls_score."),
    (rf"^bbox_head\.{_STAGE}fc_reg\.", r"box_predictor.\1bbox_pred."),
    *(
        (rf"^mask_head\.{_STAGE}convs\.{index}\.", rf"mask_head.\g<1>mask_fcn{index + 1}.")
        for index in range(4)
    ),
    (rf"^mask_head\.{_STAGE}upsample\.", r"mask_head.\1deconv."),
    (rf"^mask_head\.{_STAGE}conv_logits\.", r"mask_head.\1predictor."),
    *CONV_MODULE_RULES,
]

DENSE_HEAD_RULES: Rules = [
    (r"^cls_convs\.", "cls_subnet."),
    (r"^reg_convs\.", "bbox_subnet."),
    (r"^(?:atss|gfl)_cls\.", "cls_score."),
    (r"^(?:atss|gfl)_reg\.", "bbox_pred."),
    (r"^atss_centerness\.", "centerness."),
    *CONV_MODULE_RULES,
]

SPARSE_RCNN_RULES: Rules = [
    (r"^init_proposal_bboxes\.", "init_proposal_boxes."),
    (r"^bbox_head\.", "head.head_series."),
    (r"\.attention\.attn\.", ".self_attn."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.instance_interactive_conv_norm\.", ".norm2."),
    (r"\.ffn_norm\.", ".norm3."),
    (r"\.instance_interactive_conv\.", ".inst_interact."),
    (r"\.inst_interact\.norm_in\.", ".inst_interact.norm1."),
    (r"\.inst_interact\.norm_out\.", ".inst_interact.norm2."),
    (r"\.inst_interact\.fc_layer\.", ".inst_interact.out_layer."),
    (r"\.inst_interact\.fc_norm\.", ".inst_interact.norm3."),
    (r"\.ffn\.layers\.0\.0\.", ".linear1."),
    (r"\.ffn\.layers\.1\.", ".linear2."),
    (r"\.(cls|reg)_fcs\.", r".\1_module."),
    (r"\.fc_cls\.", ".class_logits."),
    (r"\.fc_reg\.", ".bboxes_delta."),
]

DROPPED = {r"(?:^|\.)integral\.project$": "GFL's numbers 0 to 16, which are no weights"}

_LAST_LEVEL = 5  # of the backbone: stride 32


def neck_rules(keys: Iterable[str]) -> Rules:
    """Rules for an FPN or the projections without one.

    mmdet counts its levels from zero, whatever the first stride is: their number tells it, since
    all official necks end at stride 32. Output convolutions beyond them make further levels.
    """
    laterals = {match[1] for key in keys if (match := re.match(r"(?:lateral_)?convs\.(\d+)", key))}
    first = _LAST_LEVEL + 1 - len(laterals)
    rules = []
    for index in range(len(laterals)):
        rules += [
            (rf"^(?:lateral_)?convs\.{index}\.", f"fpn_lateral{first + index}."),
            (rf"^fpn_convs\.{index}\.", f"fpn_output{first + index}."),
        ]
    extra = range(len(laterals), len(laterals) + 2)
    rules += [(rf"^fpn_convs\.{index}\.", f"top_block.p{first + index}.") for index in extra]
    return [*rules, *CONV_MODULE_RULES]


def convert_neck(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A neck: FPN, 1x1 projections, or extra attention followed by an FPN.

    Args:
        state_dict: names without the ``neck.`` prefix; in a list of necks, as HTC++ has it,
            attention is ``0.`` and FPN ``1.``.

    Returns:
        The entries of Detectron2's ``FPN``, without its ``bottom_up``.
    """
    pyramid = with_prefix(state_dict, "1.") or state_dict
    attention = with_prefix(state_dict, "0.")
    rest = {f"extra_attention.{key}": tensor for key, tensor in attention.items()}
    return rest | rename_keys(pyramid, neck_rules(pyramid))


def convert_rpn_head(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``rpn_head`` (names without it) to Detectron2's ``StandardRPNHead``."""
    return rename_keys(state_dict, RPN_HEAD_RULES)


def convert_roi_heads(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``roi_head`` of Mask R-CNN, Cascade Mask R-CNN or HTC to Detectron2's ROI heads.

    Both put the background last and order boxes by class.

    Args:
        state_dict: names without the ``roi_head.`` prefix.

    Returns:
        ``box_head.*``, ``box_predictor.*``, ``mask_head.*``, for HTC ``semantic_head.*``.
    """
    return rename_keys(state_dict, ROI_HEADS_RULES)


def convert_dense_head(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``bbox_head`` (names without it) of ATSS or GFL to the ``head`` of a dense detector."""
    return rename_keys(without(state_dict, DROPPED), DENSE_HEAD_RULES)


def convert_sparse_rcnn(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``rpn_head`` or ``roi_head`` (names without it) of Sparse R-CNN."""
    return rename_keys(state_dict, SPARSE_RCNN_RULES)
