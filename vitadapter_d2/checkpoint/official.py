"""A whole official ViT-Adapter file to the names of the models here."""

from collections.abc import Callable, Mapping

from torch import Tensor

from vitadapter_d2.checkpoint import detection, vit_adapter
from vitadapter_d2.checkpoint.detection import (
    convert_dense_head,
    convert_neck,
    convert_roi_heads,
    convert_rpn_head,
    convert_sparse_rcnn,
)
from vitadapter_d2.checkpoint.mask2former import convert_mask2former
from vitadapter_d2.checkpoint.rename import with_prefix, without
from vitadapter_d2.checkpoint.semantic import convert_semantic_head
from vitadapter_d2.checkpoint.vit_adapter import convert_backbone

Convert = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

# Names in a file that get none here, as regular expressions, and why.
DROPPED = {
    **vit_adapter.DROPPED,
    **detection.DROPPED,
    r"^ema_": "averaged weights; which of the two is wanted is decided when the file is read",
}

# Names that are converted but that not every model has; without a place they do no harm.
OPTIONAL = {
    r"\.num_batches_tracked$": "the counter of a BatchNorm; frozen ones and other norms have none",
    r"\.vit\.cls_token$": "the trunks of the ViT family run without a class token",
    r"^auxiliary_head\.": "only trains the backbone; a model for inference may leave it out",
}


def convert_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model of ViT-Adapter's code, for segmentation or detection.

    What the file holds is seen from its names. The parts become:

    * ``backbone``: ``backbone.``, or ``backbone.bottom_up.`` where there is a neck;
    * ``neck``: ``backbone.``;
    * ``decode_head`` or ``panoptic_head``: ``sem_seg_head.``; ``auxiliary_head``: the same name;
    * ``rpn_head``: ``proposal_generator.rpn_head.``; ``roi_head``: ``roi_heads.``;
    * ``bbox_head`` (ATSS, GFL): ``head.``;
    * both heads of Sparse R-CNN: see :mod:`vitadapter_d2.checkpoint.detection`.

    Args:
        state_dict: names to tensors, without what a parallel wrapper puts in front.

    Returns:
        The same tensors under the names of the models here; without :data:`DROPPED`, and with
        unknown names as they are.

    Raises:
        ValueError: nothing lies below ``backbone.``, or two names become one.
    """
    kept = without(state_dict, DROPPED)
    parts = _parts(kept)
    converted = {key: kept[key] for key in kept if key.partition(".")[0] not in parts}
    for part, (prefix, convert) in parts.items():
        renamed = convert(with_prefix(kept, f"{part}."))
        converted |= {prefix + key: tensor for key, tensor in renamed.items()}
    if len(converted) != len(kept):
        raise ValueError(f"{len(kept)} names become {len(converted)}: some are there in both forms")
    return converted


def _parts(kept: Mapping[str, Tensor]) -> dict[str, tuple[str, Convert]]:
    """For each module at the top of a file the prefix here and how what follows is renamed."""
    modules = {key.partition(".")[0] for key in kept}
    if "backbone" not in modules:
        raise ValueError(
            "not a model of ViT-Adapter's code, which has names below 'backbone.'; the first name "
            f"is {next(iter(kept), None)!r}"
        )
    is_mask2former = any(".transformer_decoder." in key for key in kept)
    dense_prediction = convert_mask2former if is_mask2former else convert_semantic_head
    parts: dict[str, tuple[str, Convert]] = {
        "backbone": ("backbone.bottom_up." if "neck" in modules else "backbone.", convert_backbone),
        "neck": ("backbone.", convert_neck),
        "decode_head": ("sem_seg_head.", dense_prediction),
        "panoptic_head": ("sem_seg_head.", dense_prediction),
        "auxiliary_head": ("auxiliary_head.", convert_semantic_head),
        "rpn_head": ("proposal_generator.rpn_head.", convert_rpn_head),
        "roi_head": ("roi_heads.", convert_roi_heads),
        "bbox_head": ("head.", convert_dense_head),
    }
    if "rpn_head.init_proposal_bboxes.weight" in kept:
        parts |= {"rpn_head": ("", convert_sparse_rcnn), "roi_head": ("", convert_sparse_rcnn)}
    return parts
