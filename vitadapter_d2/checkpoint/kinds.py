"""The kinds of checkpoints that can be converted, in one table."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vitadapter_d2.checkpoint import official, pretrained
from vitadapter_d2.checkpoint.draft import Draft
from vitadapter_d2.checkpoint.mask2former import convert_mask2former
from vitadapter_d2.checkpoint.rename import Rules, with_prefix

OWN = "vitadapter_d2"


@dataclass(frozen=True)
class Kind:
    """One naming of checkpoints.

    Attributes:
        name: what ``--kind`` takes.
        what: files that have it.
        convert: gives a draft the names of the models here; of the trunk if ``is_trunk``. Its
            second argument is the trunk, for other kinds the model.
        present: regular expressions, each found in some name of such a file.
        absent: regular expressions that are found in none.
        is_trunk: a pre-trained ViT alone; the rest of the model stays as it is.
        optional: converted names that a model need not have -> why.
        fresh: the model's names that such a file need not have -> why; they stay as initialised.
        given: the same for what is not trained.
    """

    name: str
    what: str
    convert: Callable[[Draft, Any], None]
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    is_trunk: bool = False
    optional: Mapping[str, str] = field(default_factory=dict)
    fresh: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)

    def recognises(self, names: Iterable[str]) -> bool:
        """Whether these are names of such a file."""
        return all(_found(pattern, names) for pattern in self.present) and not any(
            _found(pattern, names) for pattern in self.absent
        )


def _found(pattern: str, names: Iterable[str]) -> bool:
    return any(re.search(pattern, name) for name in names)


def _keep(draft: Draft, model: object) -> None:
    """Names as they are."""


def _official(draft: Draft, model: object) -> None:
    draft.drop(official.DROPPED)
    draft.apply(official.convert_official, "no part of a model")


# Up to the second version of their format, facebookresearch's files had shorter names.
_FB_RULES: Rules = [
    (r"^sem_seg_head\.(?!predictor\.|pixel_decoder\.)", "sem_seg_head.pixel_decoder."),
    (r"\.static_query\.", ".query_feat."),
]
_OTHER_BACKBONE = {r"^backbone\.": "the file's backbone is no ViT-Adapter"}


def _mask2former_fb(draft: Draft, model: object) -> None:
    draft.drop(_OTHER_BACKBONE)
    draft.rename(_FB_RULES)


# Mmdetection 3 has names for what version 2 and ViT-Adapter count; the order stayed.
_MM3_RULES: Rules = [
    (r"(\.encoder\.layers\.\d+)\.self_attn\.", r"\1.attentions.0."),
    (r"(\.transformer_decoder\.layers\.\d+)\.cross_attn\.", r"\1.attentions.0."),
    (r"(\.transformer_decoder\.layers\.\d+)\.self_attn\.", r"\1.attentions.1."),
    (r"(\.layers\.\d+)\.ffn\.layers\.", r"\1.ffns.0.layers."),
]


def _mask2former_mm(draft: Draft, model: object) -> None:
    draft.drop(_OTHER_BACKBONE)
    draft.rename(_MM3_RULES)
    draft.apply(_mm_head, "no part of the head")


def _mm_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    head = with_prefix(tensors, "decode_head.") | with_prefix(tensors, "panoptic_head.")
    return {f"sem_seg_head.{name}": part for name, part in convert_mask2former(head).items()}


_OFFICIAL_BACKBONE = r"^backbone\.(spm|blocks|layers|visual_embed)\."
_LOSS = {r"^criterion\.": "a constant of the loss, which the config gives"}
_NEW_BACKBONE = {r"^backbone\.": "a backbone that the file's model does not have"}

# In the order in which they are tried: the names of a later kind may occur in an earlier one.
_TABLE = (
    Kind(
        "official_seg",
        "ViT-Adapter's segmentation models",
        _official,
        present=(_OFFICIAL_BACKBONE, r"^decode_head\."),
        optional=official.OPTIONAL,
        given=_LOSS,
    ),
    Kind(
        "official_det",
        "ViT-Adapter's detection and panoptic models",
        _official,
        present=(_OFFICIAL_BACKBONE, r"^(neck|rpn_head|roi_head|bbox_head|panoptic_head)\."),
        optional=official.OPTIONAL,
        given=_LOSS,
    ),
    Kind(
        OWN,
        "models of this project, and whatever has the names of the config's model",
        _keep,
        present=(r"(^|\.)(vit\.(blocks|patch_embed|pos_embed)|spatial_prior)\.",),
    ),
    Kind(
        "mask2former_mm",
        "the head of mmdetection's and mmsegmentation's Mask2Former",
        _mask2former_mm,
        present=(r"^(decode_head|panoptic_head)\.(pixel_decoder|transformer_decoder)\.",),
        fresh=_NEW_BACKBONE,
        given=_LOSS,
    ),
    Kind(
        "mask2former_fb",
        "the head of facebookresearch's Mask2Former",
        _mask2former_fb,
        present=(r"^sem_seg_head\.predictor\.",),
        optional=_LOSS,
        fresh=_NEW_BACKBONE,
        given=_LOSS,
    ),
    Kind(
        "augreg",
        "ViT and AugReg as .npz",
        pretrained.from_augreg,
        present=(r"(^|/)embedding/kernel$",),
        is_trunk=True,
    ),
    Kind(
        "uniperceiver",
        "Uni-Perceiver, original or converted by ViT-Adapter's authors",
        pretrained.from_uniperceiver,
        present=(r"^(fused_encoder|video_embed|visual_embed)\.",),
        is_trunk=True,
    ),
    Kind(
        "beit",
        "BEiT and BEiTv2",
        pretrained.from_beit,
        present=(r"^(blocks\.\d+\.attn|rel_pos_bias)\.relative_position_bias_table$",),
        is_trunk=True,
    ),
    Kind(
        "dinov3",
        "DINOv3",
        pretrained.from_dinov3,
        present=(r"^storage_tokens$",),
        is_trunk=True,
    ),
    Kind(
        "dinov2",
        "DINOv2",
        pretrained.from_dinov2,
        present=(r"\.ls1\.gamma$", r"^(mask_token|register_tokens)$"),
        is_trunk=True,
    ),
    Kind(
        "mae",
        "MAE with its decoder",
        pretrained.from_vit,
        present=(r"^patch_embed\.proj\.", r"^decoder_blocks\."),
        is_trunk=True,
    ),
    Kind(
        "deit",
        "DeiT-III and distilled DeiT",
        pretrained.from_vit,
        present=(r"^patch_embed\.proj\.", r"^(dist_token|blocks\.\d+\.gamma_[12])$"),
        absent=(r"\.q_bias$", r"\.q_proj\."),
        is_trunk=True,
    ),
    Kind(
        "timm",
        "timm's names, which DeiT, MAE's encoder and AugReg as .pth share; CLIP, EVA, BEiT-3, SAM",
        pretrained.from_timm,
        present=(
            r"^(patch_embed\.proj|embeds\.proj|visual|conv1|beit3|image_encoder|radio_model"
            r"|preprocessor\.patchifier)\.",
        ),
        is_trunk=True,
    ),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _TABLE}


def detect_kind(names: Iterable[str]) -> str:
    """The kind of a checkpoint.

    Args:
        names: of its tensors, as ``read_checkpoint`` gives them.

    Returns:
        A key of :data:`KINDS`; ``vitadapter_d2`` if no other is recognised, as any Detectron2
        model's own checkpoint has the names of its model.
    """
    names = list(names)
    return next((kind.name for kind in _TABLE if kind.recognises(names)), OWN)
