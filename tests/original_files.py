"""Small files of every kind in the naming of the projects that publish them.

Written from the names in those projects' files, as the inverse of what the package does: a model
is made here, and its weights are given the original names.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from omegaconf import DictConfig
from timm.layers import SwiGLUPacked
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitadapter_d2.modeling.backbone import UniPerceiver

State = dict[str, Tensor]
SIZE = dict(embed_dim=64, depth=4, num_heads=4)


def rename(state: State, rules: list[tuple[str, str]]) -> State:
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        assert name not in renamed
        renamed[name] = tensor
    return renamed


def randomized(model: nn.Module) -> nn.Module:
    """No parameter is 0, 1 or equal to another, so that each must come from its place."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def same_names(state: State) -> State:
    return {"model": state}


def mae(state: State) -> State:
    decoder = {
        "mask_token": torch.randn(1, 1, 32),
        "decoder_pos_embed": torch.randn(1, 65, 32),
        "decoder_embed.weight": torch.randn(32, 64),
        "decoder_blocks.0.norm1.weight": torch.randn(32),
        "decoder_pred.bias": torch.randn(768),
    }
    return {"model": state | decoder, "epoch": 799}


def deit3(state: State) -> State:
    return {"model": rename(state, [(r"\.ls([12])\.gamma", r".gamma_\1")])}


def beit(state: State) -> State:
    index = {
        f"blocks.{block}.attn.relative_position_index": torch.zeros(65, 65, dtype=torch.int64)
        for block in range(SIZE["depth"])
    }
    return {"model": state | index, "optimizer": {"lr": 1.0}}


def beit_shared(state: State) -> State:
    """As pre-trained: one table for all blocks (here that of the first block)."""
    tables = [name for name in state if name.endswith("relative_position_bias_table")]
    own = {name: tensor for name, tensor in state.items() if name not in tables}
    heads = {"mask_token": torch.randn(1, 1, 64), "lm_head.weight": torch.randn(99, 64)}
    return {"model": own | heads | {"rel_pos_bias.relative_position_bias_table": state[tables[0]]}}


def dinov2(state: State) -> State:
    """Registers have no position there, the class token has one; SwiGLU is w12 and w3."""
    state = dict(state)
    position = torch.randn(1, 1, 64)
    state["cls_token"] = state["cls_token"] - position
    state["pos_embed"] = torch.cat((position, state["pos_embed"]), dim=1)
    state["mask_token"] = torch.randn(1, 64)
    rules = [
        ("^reg_token$", "register_tokens"),
        (r"\.mlp\.fc1\.", ".mlp.w12."),
        (r"\.mlp\.fc2\.", ".mlp.w3."),
    ]
    return rename(state, rules)


def dinov3(state: State) -> State:
    original = {"mask_token": torch.randn(1, 64), "rope_embed.periods": torch.randn(4)}
    for name, tensor in state.items():
        if name.endswith(".v_bias"):
            continue
        if name.endswith(".q_bias"):
            block = name.removesuffix("q_bias")
            parts = (tensor, torch.full((64,), torch.nan), state[f"{block}v_bias"])
            original[f"{block}qkv.bias"] = torch.cat(parts)
            original[f"{block}qkv.bias_mask"] = torch.ones(192)
        else:
            original[name] = tensor
    rules = [("^reg_token$", "storage_tokens"), (r"\.gamma_([12])$", r".ls\1.gamma")]
    if "blocks.0.mlp.fc1_g.weight" in state:  # the ViT-H+, gated
        rules += [
            (r"\.mlp\.fc1_g\.", ".mlp.w1."),
            (r"\.mlp\.fc1_x\.", ".mlp.w2."),
            (r"\.mlp\.fc2\.", ".mlp.w3."),
        ]
    return rename(original, rules)


def clip(state: State) -> State:
    """OpenAI's, beside the text tower."""
    text = {"token_embedding.weight": torch.randn(10, 8), "logit_scale": torch.ones(())}
    visual = dict(state)
    visual["class_embedding"] = visual.pop("cls_token")[0, 0]
    visual["positional_embedding"] = visual.pop("pos_embed")[0]
    rules = [
        (r"^patch_embed\.proj\.", "conv1."),
        (r"^norm_pre\.", "ln_pre."),
        (r"^norm\.", "ln_post."),
        (r"^blocks\.(\d+)\.norm([12])\.", r"transformer.resblocks.\1.ln_\2."),
        (r"^blocks\.(\d+)\.attn\.qkv\.", r"transformer.resblocks.\1.attn.in_proj_"),
        (r"^blocks\.(\d+)\.attn\.proj\.", r"transformer.resblocks.\1.attn.out_proj."),
        (r"^blocks\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
        (r"^blocks\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
        ("^", "visual."),
    ]
    return rename(visual, rules) | text


def uniperceiver(state: State) -> State:
    rules = [
        (r"^patch_embed\.proj\.", "video_embed.embeddings."),
        (r"^(spatial|temporal)_pos_embed$", r"video_embed.embeddings_st_pos.\1_pos_embed.weight"),
        (r"^embed_norm\.", "video_embed.embeddings_norm."),
        (r"^blocks\.(\d+)\.attn\.qkv\.", r"fused_encoder.layers.\1.self_attn.in_proj_"),
        (r"^blocks\.(\d+)\.attn\.proj\.", r"fused_encoder.layers.\1.self_attn.out_proj."),
        (r"^blocks\.(\d+)\.mlp\.fc([12])\.", r"fused_encoder.layers.\1.linear\2."),
        (r"^blocks\.(\d+)\.ls([12])\.gamma$", r"fused_encoder.layers.\1.gamma_\2"),
        (r"^blocks\.(\d+)\.norm([12])\.", r"fused_encoder.layers.\1.norm\2."),
    ]
    text = {"token_embed.embeddings.weight": torch.randn(5, 64), "loss_prepare.bias": torch.ones(1)}
    return {"model": rename(state, rules) | text}


_JAX_NAMES = [
    (r"^blocks\.(\d+)\.", r"Transformer/encoderblock_\1/"),
    (r"^norm\.weight$", "Transformer/encoder_norm/scale"),
    (r"^norm\.", "Transformer/encoder_norm/"),
    (r"norm(\d)\.weight$", r"norm\1.scale"),
    (r"norm1\.", "LayerNorm_0/"),
    (r"norm2\.", "LayerNorm_2/"),
    (r"mlp\.fc1\.", "MlpBlock_3/Dense_0/"),
    (r"mlp\.fc2\.", "MlpBlock_3/Dense_1/"),
    (r"attn\.proj\.", "MultiHeadDotProductAttention_1/out/"),
    (r"attn\.(query|key|value)\.", r"MultiHeadDotProductAttention_1/\1/"),
    (r"^patch_embed\.proj\.", "embedding/"),
    (r"^head\.", "head/"),
    ("^cls_token$", "cls"),
    ("^pos_embed$", "Transformer/posembed_input/pos_embedding"),
    ("weight$", "kernel"),
]


def augreg(state: State) -> dict[str, np.ndarray]:
    """JAX: kernels have their inputs first, heads are an axis of their own."""
    tensors = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            for part, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                split = value.unflatten(0, (SIZE["num_heads"], -1))  # (M, D) or (M, D, C)
                tensors[name.replace("qkv", part)] = (
                    split.movedim(-1, 0) if split.ndim == 3 else split
                )
        elif name.endswith("attn.proj.weight"):
            tensors[name] = tensor.T.unflatten(0, (SIZE["num_heads"], -1))
        elif tensor.ndim == 4:
            tensors[name] = tensor.permute(2, 3, 1, 0)
        else:
            tensors[name] = tensor.T if tensor.ndim == 2 else tensor
    return {name: tensor.numpy(force=True) for name, tensor in rename(tensors, _JAX_NAMES).items()}


def _vit(**changes: object) -> DictConfig:
    return L(VisionTransformer)(**{**dict(img_size=128, num_classes=7), **SIZE, **changes})


BEIT = L(Beit)(img_size=128, num_classes=7, init_values=0.1, use_rel_pos_bias=True, **SIZE)
_EVA = dict(
    img_size=128,
    num_classes=7,
    patch_size=16,
    init_values=0.1,
    use_rot_pos_emb=True,
    rope_type="dinov3",
    rope_rotate_half=True,
    use_abs_pos_emb=False,
    num_reg_tokens=2,
    qkv_bias=True,
    use_fc_norm=False,
    **SIZE,
)
EVA = L(Eva)(**_EVA)
GATED_EVA = L(Eva)(**_EVA, swiglu_mlp=True, swiglu_align_to=8)
SWIGLU = dict(mlp_layer=SwiGLUPacked, act_layer=nn.SiLU)


@dataclass(frozen=True)
class Original:
    """A kind, a model that has it, and how a file of it names that model's weights."""

    kind: str
    model: DictConfig
    save: Callable[[State], dict]
    options: dict = field(default_factory=lambda: {"keep_prefix_tokens": True})

    def build(self) -> nn.Module:
        return randomized(instantiate(self.model))

    def write(self, model: nn.Module, folder: Path) -> Path:
        content = self.save(model.state_dict())
        if self.kind == "augreg":
            np.savez(folder / "original.npz", **content)
            return folder / "original.npz"
        torch.save(content, folder / "original.pth")
        return folder / "original.pth"


ORIGINALS = {
    "timm": Original("timm", _vit(), same_names),
    "clip": Original("timm", _vit(pre_norm=True), clip),
    "mae": Original("mae", _vit(), mae),
    "deit3": Original("deit", _vit(init_values=0.1), deit3),
    "augreg": Original("augreg", _vit(), augreg),
    "beit": Original("beit", BEIT, beit),
    "beit_shared": Original("beit", BEIT, beit_shared),
    "dinov2": Original(
        "dinov2", _vit(init_values=0.1, reg_tokens=2, no_embed_class=True, **SWIGLU), dinov2
    ),
    "dinov3": Original("dinov3", EVA, dinov3),
    "dinov3_gated": Original("dinov3", GATED_EVA, dinov3),
    "uniperceiver": Original(
        "uniperceiver",
        L(UniPerceiver)(pretrain_grid=(8, 8), init_values=0.1, **SIZE),
        uniperceiver,
        {},
    ),
}

_OFFICIAL_BACKBONE = [
    (r"^backbone\.vit\.blocks\.(\d+)\.ls([12])\.gamma", r"backbone.blocks.\1.gamma\2"),
    (r"^backbone\.vit\.", "backbone."),
    *((rf"\.spatial_prior\.proj_res{i + 1}\.", f".spm.fc{i}.") for i in range(1, 5)),
    *((rf"\.spatial_prior\.res{i + 1}\.", f".spm.conv{i}.") for i in range(2, 5)),
    (r"\.spatial_prior\.", ".spm."),
    *((rf"^backbone\.norms\.res{i + 1}\.", f"backbone.norm{i}.") for i in range(1, 5)),
    (r"\.ffn\.dwconv\.", ".ffn.dwconv.dwconv."),
]
_LAYER = r"transformer_decoder.layers.\1."
_MM_HEAD = [
    (r"^sem_seg_head\.", "decode_head."),
    (r"pixel_decoder\.input_proj\.(\d)\.0\.", r"pixel_decoder.input_convs.\1.conv."),
    (r"pixel_decoder\.input_proj\.(\d)\.1\.", r"pixel_decoder.input_convs.\1.gn."),
    (r"pixel_decoder\.adapter_1\.norm\.", "pixel_decoder.lateral_convs.0.gn."),
    (r"pixel_decoder\.adapter_1\.", "pixel_decoder.lateral_convs.0.conv."),
    (r"pixel_decoder\.layer_1\.norm\.", "pixel_decoder.output_convs.0.gn."),
    (r"pixel_decoder\.layer_1\.", "pixel_decoder.output_convs.0.conv."),
    (r"pixel_decoder\.mask_features\.", "pixel_decoder.mask_feature."),
    (r"pixel_decoder\.transformer\.level_embed$", "pixel_decoder.level_encoding.weight"),
    (r"\.transformer\.encoder\.", ".encoder."),
    (r"(encoder\.layers\.\d+)\.self_attn\.", r"\1.attentions.0."),
    (r"(encoder\.layers\.\d+)\.norm1\.", r"\1.norms.0."),
    (r"(encoder\.layers\.\d+)\.norm2\.", r"\1.norms.1."),
    (r"(encoder\.layers\.\d+)\.linear1\.", r"\1.ffns.0.layers.0.0."),
    (r"(encoder\.layers\.\d+)\.linear2\.", r"\1.ffns.0.layers.1."),
    (r"predictor\.transformer_cross_attention_layers\.(\d+)\.norm\.", _LAYER + "norms.0."),
    (r"predictor\.transformer_self_attention_layers\.(\d+)\.norm\.", _LAYER + "norms.1."),
    (r"predictor\.transformer_ffn_layers\.(\d+)\.norm\.", _LAYER + "norms.2."),
    (
        r"predictor\.transformer_cross_attention_layers\.(\d+)\.multihead_attn\.",
        _LAYER + "attentions.0.attn.",
    ),
    (
        r"predictor\.transformer_self_attention_layers\.(\d+)\.self_attn\.",
        _LAYER + "attentions.1.attn.",
    ),
    (r"predictor\.transformer_ffn_layers\.(\d+)\.linear1\.", _LAYER + "ffns.0.layers.0.0."),
    (r"predictor\.transformer_ffn_layers\.(\d+)\.linear2\.", _LAYER + "ffns.0.layers.1."),
    (r"predictor\.decoder_norm\.", "transformer_decoder.post_norm."),
    (r"predictor\.class_embed\.", "cls_embed."),
    (r"predictor\.mask_embed\.layers\.0\.", "mask_embed.0."),
    (r"predictor\.mask_embed\.layers\.1\.", "mask_embed.2."),
    (r"predictor\.mask_embed\.layers\.2\.", "mask_embed.4."),
    (r"predictor\.", ""),
]


def official_backbone(state: State) -> State:
    """ViT-Adapter's own names below ``backbone.``."""
    return rename(state, _OFFICIAL_BACKBONE)


def official_seg(state: State) -> State:
    """A Mask2Former of ViT-Adapter's segmentation code, saved from a parallel wrapper."""
    weights = {name: tensor for name, tensor in state.items() if "criterion" not in name}
    renamed = rename(weights, [*_OFFICIAL_BACKBONE, *_MM_HEAD, ("^", "module.")])
    return {"meta": {"epoch": 1, "CLASSES": ("wall",)}, "state_dict": renamed}


def official_det(state: State) -> State:
    """The same of its detection code, with averaged weights beside the plain ones."""
    plain = rename(official_seg(state)["state_dict"], [("^module.decode_head", "panoptic_head")])
    plain = rename(plain, [(r"^module\.", "")])
    averaged = {f"ema_{name.replace('.', '_')}": tensor + 1 for name, tensor in plain.items()}
    return {"meta": {"iter": 7}, "state_dict": plain | averaged, "optimizer": {}}


def mask2former_mm(state: State) -> State:
    """Mmdetection's, on another backbone."""
    head = {name: part for name, part in state.items() if name.startswith("sem_seg_head.")}
    renamed = rename(head, [*_MM_HEAD, ("^decode_head", "panoptic_head")])
    return {"state_dict": renamed | {"backbone.conv1.weight": torch.ones(1)}}


def mask2former_mm3(state: State) -> State:
    """The same of version 3."""
    rules = [
        (r"(encoder\.layers\.\d+)\.attentions\.0\.", r"\1.self_attn."),
        (r"(transformer_decoder\.layers\.\d+)\.attentions\.0\.", r"\1.cross_attn."),
        (r"(transformer_decoder\.layers\.\d+)\.attentions\.1\.", r"\1.self_attn."),
        (r"\.ffns\.0\.", ".ffn."),
    ]
    return {"state_dict": rename(mask2former_mm(state)["state_dict"], rules)}


def mask2former_fb(state: State) -> State:
    """Facebookresearch's, on another backbone."""
    head = {name: part for name, part in state.items() if not name.startswith("backbone.")}
    return {"model": head | {"backbone.stem.conv1.weight": torch.ones(1)}, "iteration": 9}
