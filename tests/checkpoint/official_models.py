"""The models of zoo.json from the parts that are here: this project's and Detectron2's."""

import re
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
)
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitadapter_d2.modeling.backbone import (
    SpatialPriorModule,
    ViTAdapter,
    interaction_blocks,
    plain_vit,
)
from vitadapter_d2.modeling.backbone.simple_fpn import PlainViTPyramid
from vitadapter_d2.modeling.backbone.trunks.uniperceiver import UniPerceiver
from vitadapter_d2.modeling.dense import ATSS, GFL, ATSSAssigner, ATSSHead, GFLHead, LinearP6P7
from vitadapter_d2.modeling.htc import AttentionFPN, ExtraAttention, FusedSemanticHead, HTCMaskHead
from vitadapter_d2.modeling.mask2former import (
    MaskedTransformerDecoder,
    MaskFormerHead,
    MSDeformAttnPixelDecoder,
)
from vitadapter_d2.modeling.necks import ChannelMapper
from vitadapter_d2.modeling.roi_pooler import PreciseROIPooler
from vitadapter_d2.modeling.semantic import FCNHead, SemanticSegmentor, UPerNetHead
from vitadapter_d2.modeling.sparse_rcnn import DynamicHead, SparseRCNN
from vitadapter_d2.modeling.sparse_rcnn import HungarianMatcher as SparseMatcher
from vitadapter_d2.modeling.sparse_rcnn import SetCriterion as SparseCriterion

LEVELS = ["res2", "res3", "res4", "res5"]


def build(config: dict) -> nn.Module:
    """What exists here of a model, on the meta device."""
    with torch.device("meta"):
        return _BUILDERS[config["framework"].removesuffix("Aug")](config)


def backbone(config: dict, **options: Any) -> nn.Module:
    family, kind = re.fullmatch(
        "(ViT|BEiT|UniPerceiver)(Adapter|Baseline)", config["type"]
    ).groups()
    trunk = _TRUNKS[family](config)
    if kind == "Adapter":
        return _adapter(config, trunk, options)
    norms = {"token_norm": False, "up_norm": "BN"} if family == "BEiT" else {}
    return PlainViTPyramid(trunk, config["out_indices"], **norms)


def _vit(config: dict) -> nn.Module:
    model = VisionTransformer(
        img_size=config["pretrain_size"],
        embed_dim=config["embed_dim"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        init_values=1.0 if config["layer_scale"] else None,
        num_classes=0,
    )
    return plain_vit(model, window_sizes=config["window_size"])


def _beit(config: dict) -> nn.Module:
    model = Beit(
        img_size=config["img_size"],
        embed_dim=config["embed_dim"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        init_values=config["init_values"],
        use_abs_pos_emb=False,
        use_rel_pos_bias=True,
        num_classes=0,
    )
    if "window_size" in config:
        return plain_vit(model, window_sizes=config["window_size"], keep_prefix_tokens=False)
    return plain_vit(model, keep_prefix_tokens=True)


def _uniperceiver(config: dict) -> nn.Module:
    model = UniPerceiver(config["embed_dim"], config["depth"], config["num_heads"])
    return plain_vit(model, window_sizes=config["window_size"])


_TRUNKS = {"ViT": _vit, "BEiT": _beit, "UniPerceiver": _uniperceiver}


def _adapter(config: dict, trunk: nn.Module, options: dict) -> ViTAdapter:
    return ViTAdapter(
        trunk,
        SpatialPriorModule(config["embed_dim"], channels=config["conv_inplane"]),
        interaction_blocks(
            config["embed_dim"],
            config["interaction_indexes"],
            num_heads=config["deform_num_heads"],
            num_points=config["n_points"],
            deform_ratio=config["deform_ratio"],
            ffn_ratio=config["cffn_ratio"] if config["with_cffn"] else None,
            num_extra_extractors=2 if config.get("use_extra_extractor", True) else 0,
        ),
        **options,
    )


def _mask2former(config: dict) -> nn.Module:
    head = config.get("decode_head") or config["panoptic_head"]
    encoder = head["pixel_decoder"]["encoder"]
    layer = encoder["transformerlayers"]
    decoder = head["transformer_decoder"]
    pixel_decoder = MSDeformAttnPixelDecoder(
        in_channels=config["backbone"]["embed_dim"],
        embed_dim=head["feat_channels"],
        mask_dim=head["out_channels"],
        num_heads=layer["attn_cfgs"]["num_heads"],
        num_layers=encoder["num_layers"],
        feedforward_dim=layer["ffn_cfgs"]["feedforward_channels"],
    )
    predictor = MaskedTransformerDecoder(
        num_classes=head["num_things_classes"] + head["num_stuff_classes"],
        num_queries=head["num_queries"],
        in_channels=head["feat_channels"],
        embed_dim=head["feat_channels"],
        mask_dim=head["out_channels"],
        num_heads=decoder["transformerlayers"]["attn_cfgs"]["num_heads"],
        feedforward_dim=decoder["transformerlayers"]["feedforward_channels"],
        num_layers=decoder["num_layers"],
    )
    return nn.ModuleDict(
        {
            "backbone": backbone(config["backbone"]),
            "sem_seg_head": MaskFormerHead(pixel_decoder=pixel_decoder, predictor=predictor),
        }
    )


def _neck(config: dict) -> nn.Module:
    """FPN with its last levels, or the projections without one."""
    attention, neck = config["neck"] if isinstance(config["neck"], list) else (None, config["neck"])
    channels = neck["out_channels"]
    bottom_up = backbone(config["backbone"])
    if neck["type"] == "ChannelMapperWithPooling":
        return ChannelMapper(bottom_up, LEVELS, channels)
    if attention is not None:
        return AttentionFPN(
            bottom_up=bottom_up,
            in_features=LEVELS,
            out_channels=channels,
            norm=_norm(neck),
            top_block=LastLevelMaxPool(),
            extra_attention=ExtraAttention(
                attention["in_channels"][-1], attention["num_head"], attention["ffn_ratio"]
            ),
        )
    is_dense = neck.get("start_level") == 1
    return FPN(
        bottom_up,
        LEVELS[is_dense:],
        channels,
        norm=_norm(neck),
        top_block=LinearP6P7(channels) if is_dense else LastLevelMaxPool(),
    )


def _norm(config: dict) -> str:
    kind = config.get("norm_cfg", {}).get("type", "")
    return "BN" if kind in ("SyncBN", "MMSyncBN") else kind


def _detector(config: dict) -> nn.Module:
    """Neck and backbone, with Detectron2's RPN and ROI heads where the model has these."""
    model = nn.ModuleDict({"backbone": _neck(config)})
    rpn = config["rpn_head"]
    convolutions = [-1] * rpn.get("num_convs", 1)
    head = StandardRPNHead(in_channels=rpn["in_channels"], num_anchors=3, conv_dims=convolutions)
    model["proposal_generator"] = nn.ModuleDict({"rpn_head": head})
    roi, parts = config["roi_head"], {}
    if isinstance(roi["bbox_head"], dict):
        parts["box_head"], parts["box_predictor"] = _box_head(roi["bbox_head"])
        parts["mask_head"] = _mask_head(roi["mask_head"])
    else:
        stages = [_box_head(stage) for stage in roi["bbox_head"]]
        parts["box_head"], parts["box_predictor"] = map(nn.ModuleList, zip(*stages, strict=True))
        masks = roi["mask_head"]
        masks = masks if isinstance(masks, list) else [masks] * len(stages)
        parts["mask_head"] = nn.ModuleList(_mask_head(stage) for stage in masks)
    if "semantic_head" in roi:
        semantic = roi["semantic_head"]
        parts["semantic_head"] = FusedSemanticHead(
            semantic["num_ins"], semantic["num_classes"], semantic["conv_out_channels"]
        )
    model["roi_heads"] = nn.ModuleDict(parts)
    return model


def _box_head(config: dict) -> tuple[nn.Module, nn.Module]:
    kind, width = config["type"], config["fc_out_channels"]
    named = {"Shared2FCBBoxHead": (0, 2), "Shared4Conv1FCBBoxHead": (4, 1)}
    convs, fcs = named.get(kind) or (config["num_shared_convs"], config["num_shared_fcs"])
    size = config["roi_feat_size"]
    head = FastRCNNConvFCHead(
        ShapeSpec(channels=config["in_channels"], height=size, width=size),
        conv_dims=[config.get("conv_out_channels", 256)] * convs,
        fc_dims=[width] * fcs,
        conv_norm=_norm(config),
    )
    predictor = FastRCNNOutputLayers(
        ShapeSpec(channels=width),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        num_classes=config["num_classes"],
        cls_agnostic_bbox_reg=config["reg_class_agnostic"],
    )
    return head, predictor


def _mask_head(config: dict) -> nn.Module:
    channels = config["conv_out_channels"]
    options = {
        "num_classes": config["num_classes"],
        "conv_dims": [channels] * (config["num_convs"] + 1),
        "conv_norm": _norm(config),
    }
    shape = ShapeSpec(channels=config["in_channels"], height=14, width=14)
    if config["type"] == "HTCMaskHead":
        return HTCMaskHead(shape, takes_features=config.get("with_conv_res", True), **options)
    return MaskRCNNConvUpsampleHead(shape, **options)


def _dense(config: dict) -> nn.Module:
    head = config["bbox_head"]
    detector, kind = {"ATSS": (ATSS, ATSSHead), "GFL": (GFL, GFLHead)}[config["framework"]]
    return detector(
        backbone=_neck(config),
        head=kind(
            head["in_channels"],
            head["num_classes"],
            channels=head["feat_channels"],
            num_convs=head["stacked_convs"],
        ),
        assigner=ATSSAssigner(),
        pixel_mean=(0.0, 0.0, 0.0),
        pixel_std=(1.0, 1.0, 1.0),
    )


def _sparse_rcnn(config: dict) -> nn.Module:
    proposals, stages = config["rpn_head"], config["roi_head"]["bbox_head"]
    first, dynamic = stages[0], stages[0]["dynamic_conv_cfg"]
    head = DynamicHead(
        box_pooler=PreciseROIPooler(dynamic["input_feat_shape"], [1 / 4], 2, "ROIAlignV2"),
        box2box_transform=Box2BoxTransform((2.0, 2.0, 1.0, 1.0)),
        num_classes=first["num_classes"],
        num_stages=len(stages),
        embed_dim=first["in_channels"],
        dynamic_dim=dynamic["feat_channels"],
        num_heads=first["num_heads"],
        feedforward_dim=first["feedforward_channels"],
        num_class_layers=first["num_cls_fcs"],
        num_box_layers=first["num_reg_fcs"],
    )
    return SparseRCNN(
        backbone=_neck(config),
        head=head,
        criterion=SparseCriterion(matcher=SparseMatcher()),
        num_proposals=proposals["num_proposals"],
    )


def _upernet(config: dict) -> nn.Module:
    head, auxiliary = config["decode_head"], config["auxiliary_head"]
    width = config["backbone"]["embed_dim"]
    return SemanticSegmentor(
        backbone=backbone(config["backbone"]),
        sem_seg_head=UPerNetHead(width, head["num_classes"], channels=head["channels"]),
        auxiliary_head=FCNHead(width, auxiliary["num_classes"], channels=auxiliary["channels"]),
    )


_BUILDERS = {
    "EncoderDecoderMask2Former": _mask2former,
    "Mask2Former": _mask2former,
    "MaskRCNN": _detector,
    "CascadeRCNN": _detector,
    "HybridTaskCascade": _detector,
    "ATSS": _dense,
    "GFL": _dense,
    "SparseRCNN": _sparse_rcnn,
    "EncoderDecoder": _upernet,
}
