"""Raw pre-trained trunks to the names and sizes of a :class:`PlainViT`.

Each family has a function that gives its names timm's; :func:`fit_trunk` then resizes what the
trunk stores in another size, by the rules of the official ViT-Adapter.
"""

import re
from collections.abc import Callable
from math import isqrt
from types import SimpleNamespace
from typing import Any

import torch
from timm.models import eva, vision_transformer, vision_transformer_sam
from torch import Tensor, nn

from vitadapter_d2.checkpoint import uniperceiver
from vitadapter_d2.checkpoint.draft import Draft
from vitadapter_d2.checkpoint.rename import Rules
from vitadapter_d2.layers.relative_table import fit_relative_table
from vitadapter_d2.layers.resample import resize_patch_kernel, resize_position_embedding
from vitadapter_d2.modeling.backbone.attention import RelativeBiasAttention
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT
from vitadapter_d2.modeling.backbone.trunks.eva import TimmEva
from vitadapter_d2.modeling.backbone.trunks.sam import TimmSam
from vitadapter_d2.modeling.backbone.trunks.vit import TimmViT

# What pre-training needs and a dense model does not; timm's names.
UNUSED = {
    r"^(norm|fc_norm)\.": "the final norm, which dense models leave out",
    r"^(head|head_dist|heads|lm_head|fc|pre_logits|attn_pool|neck)\b": "the head of pre-training",
    r"^mask_token$": "the token of masked pre-training",
    r"^decoder_": "the decoder of masked pre-training",
    r"relative_position_index$": "index buffers, computed here",
    r"^rope\.|rope_embed\.|\.rope\.": "rotary frequencies, computed here",
}
_PREFIX_TOKENS = r"^(cls_token|dist_token|reg_token)$"
_LAYER_SCALES = re.compile(r"\.(ls[12]\.gamma|gamma_[12])$")

_TO_LS: Rules = [(r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma")]  # DeiT-III

_DINOV2: Rules = [
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # training files cut the blocks into chunks
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^register_tokens$", "reg_token"),
]

_DINOV3: Rules = [
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
    (r"^storage_tokens$", "reg_token"),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
]
_DINOV3_UNUSED = {
    r"\.bias_mask$": "a mask that keeps the bias of keys at zero",
    r"^(local_cls_norm|projectors)\b": "the head of pre-training",
}

_AUGREG: Rules = [
    (r"^opt/target/", ""),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"^Transformer/posembed_input/pos_embedding$", "pos_embed"),
    (r"^Transformer/encoder_norm/", "norm."),
    (r"^cls$", "cls_token"),
    (r"^embedding/", "patch_embed.proj."),
    (r"\.LayerNorm_0/", ".norm1."),
    (r"\.LayerNorm_2/", ".norm2."),
    (r"\.MlpBlock_3/Dense_0/", ".mlp.fc1."),
    (r"\.MlpBlock_3/Dense_1/", ".mlp.fc2."),
    (r"\.MultiHeadDotProductAttention_1/out/", ".attn.proj."),
    (r"\.MultiHeadDotProductAttention_1/(query|key|value)/", r".attn.\1."),
    (r"^(head|pre_logits)/", r"\1."),
    (r"(kernel|scale)$", "weight"),
]

_TIMM_FILTERS: dict[type[PlainViT], Callable[..., dict[str, Tensor]]] = {
    TimmViT: vision_transformer.checkpoint_filter_fn,
    TimmEva: eva.checkpoint_filter_fn,
    TimmSam: vision_transformer_sam.checkpoint_filter_fn,
}


def from_vit(draft: Draft, trunk: PlainViT) -> None:
    """DeiT, DeiT-III and MAE: timm's names but for the LayerScale of DeiT-III."""
    if isinstance(trunk, TimmViT):
        draft.rename(_TO_LS)


def from_timm(draft: Draft, trunk: PlainViT) -> None:
    """What timm's loader of the trunk's family knows, such as CLIP, EVA, BEiT-3 and SAM."""
    convert = _TIMM_FILTERS.get(type(trunk))
    if convert is not None:
        stand_in = _stand_in(draft.tensors)
        draft.apply(lambda tensors: convert(tensors, stand_in), "left out by timm's own loader")
    from_vit(draft, trunk)


def _stand_in(tensors: dict[str, Tensor]) -> Any:
    """What timm's filters ask of a model, in the file's own sizes: so they rename only."""
    patches = (tensor for tensor in tensors.values() if tensor.ndim == 4 and tensor.shape[1] == 3)
    proj = SimpleNamespace(weight=next(patches, None))
    return SimpleNamespace(
        patch_embed=SimpleNamespace(proj=proj, grid_size=None),
        pos_embed=None,
        head=None,
        num_prefix_tokens=1,
    )


def from_augreg(draft: Draft, trunk: PlainViT) -> None:
    """The original ``.npz`` of ViT and AugReg: JAX names, layouts and separate projections."""
    draft.rename(_AUGREG)
    for name, tensor in list(draft.tensors.items()):
        draft.put(name, _from_jax(name, tensor), name)
    for name in [name for name in draft.tensors if ".attn.query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if not all(part in draft.tensors for part in parts):
            continue
        fused = torch.cat([draft.tensors[part] for part in parts])
        draft.put(name.replace(".query.", ".qkv."), fused, *parts)
        for part in parts:
            draft.take(part)


def _from_jax(name: str, tensor: Tensor) -> Tensor:
    if ".attn." in name and name.endswith(".bias"):
        return tensor.flatten()  # (M, D) of queries, keys and values
    if not name.endswith(".weight"):
        return tensor
    if tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1).contiguous()
    if tensor.ndim == 3:  # heads are an axis of their own: inputs of proj, outputs of the others
        tensor = tensor.flatten(0, 1) if ".proj." in name else tensor.flatten(1)
    return tensor.T.contiguous() if tensor.ndim == 2 else tensor


def from_beit(draft: Draft, trunk: PlainViT) -> None:
    """BEiT and BEiTv2: a table that all blocks share becomes one of each block."""
    shared = "rel_pos_bias.relative_position_bias_table"
    if shared in draft.tensors:
        for index in range(trunk.depth):
            name = f"blocks.{index}.attn.relative_position_bias_table"
            if name not in draft.tensors:
                draft.put(name, draft.tensors[shared], shared)
        draft.take(shared)


def from_dinov2(draft: Draft, trunk: PlainViT) -> None:
    """DINOv2: registers, SwiGLU and the chunks of training files."""
    draft.rename(_DINOV2)


def from_dinov3(draft: Draft, trunk: PlainViT) -> None:
    """DINOv3's original files; queries and values keep their bias, keys have none.

    The distilled models have biases of zero, which timm's ``_dinov3`` models leave out and its
    ``_dinov3_qkvb`` models keep.
    """
    draft.drop(_DINOV3_UNUSED)
    draft.rename(_DINOV3)
    wanted = trunk.state_dict().keys()
    for name in [name for name in draft.tensors if name.endswith(".attn.qkv.bias")]:
        query, _, value = draft.tensors[name].chunk(3)
        biased = name.replace("qkv.bias", "q_bias")
        if biased in wanted:
            draft.put(biased, query, name)
            draft.put(name.replace("qkv.bias", "v_bias"), value, name)
            draft.take(name)
        elif not (query.any() or value.any()):
            draft.drop({f"^{re.escape(name)}$": "biases of zero, which the trunk has none of"})


def from_uniperceiver(draft: Draft, trunk: PlainViT) -> None:
    """Uni-Perceiver's original file, or the one that ViT-Adapter's authors converted."""
    draft.drop(dict.fromkeys(uniperceiver.PRETRAINED_DROPPED, "for text and losses"))
    draft.rename([*uniperceiver.PRETRAINED_RULES, *uniperceiver.UNIPERCEIVER_RULES])
    draft.rename([(r"^vit\.", "")])


def fit_trunk(draft: Draft, trunk: PlainViT) -> None:
    """Drops what dense models do not have, and resizes what the trunk stores in another size.

    Args:
        draft: timm's names; afterwards those of ``trunk`` and their sizes.
        trunk: it may be on the meta device.
    """
    wanted = trunk.state_dict()
    draft.drop({pattern: why for pattern, why in UNUSED.items() if not _any(pattern, wanted)})
    _fit_positions(draft, trunk, wanted)
    if not _any(_PREFIX_TOKENS, wanted):
        draft.drop({_PREFIX_TOKENS: "the trunk runs without prefix tokens"})
    _fit_patches(draft, wanted)
    for name in wanted:
        if name.endswith(".relative_position_bias_table") and name in draft.tensors:
            _fit_table(draft, name, trunk.get_submodule(name.rpartition(".")[0]))
    if not any(_LAYER_SCALES.search(name) for name in draft.tensors):
        for name in filter(_LAYER_SCALES.search, wanted):
            draft.put(name, torch.ones(wanted[name].shape))
            draft.given[name] = "LayerScale, which the file has none of: 1"


def _any(pattern: str, names: Any) -> bool:
    return any(re.search(pattern, name) for name in names)


def _fit_patches(draft: Draft, wanted: dict[str, Tensor]) -> None:
    name = "patch_embed.proj.weight"
    if name not in draft.tensors or name not in wanted:
        return
    weight, (height, width) = draft.tensors[name], wanted[name].shape[-2:]
    if weight.ndim == 4 and weight.shape[-2:] != (height, width):
        resized = resize_patch_kernel(weight.float(), (height, width)).to(weight.dtype)
        draft.resize(name, resized, "bilinear")


def _fit_positions(draft: Draft, trunk: Any, wanted: dict[str, Tensor]) -> None:
    for name in ("pos_embed", "spatial_pos_embed"):
        if name not in draft.tensors or name not in wanted:
            continue
        table, shape = draft.tensors[name], wanted[name].shape
        if table.shape == shape or table.shape[-1] != shape[-1] or table.ndim != len(shape):
            continue
        table = table.reshape(1, -1, shape[-1])
        side = isqrt(table.shape[1])
        spare = table.shape[1] - side * side
        if spare > _count_slots(draft, shape[-1]):
            continue  # no square grid: its sides cannot be told
        prefix, patches = table.tensor_split([spare], dim=1)
        height, width = trunk.pos_grid
        patches = resize_position_embedding(patches, (side, side), (height, width))
        slots = wanted[name].numel() // shape[-1] - height * width
        prefix = _fit_slots(draft, trunk, name, prefix, slots)
        how = f"grid {side}x{side} -> {height}x{width}, bicubic"
        if prefix.shape[1] == slots:
            draft.resize(name, torch.cat((prefix, patches), dim=1).reshape(shape), how)


def _count_slots(draft: Draft, width: int) -> int:
    """The most positions that a file may have for prefix tokens; one may outlive its token."""
    tokens = [part for name, part in draft.tensors.items() if re.search(_PREFIX_TOKENS, name)]
    return max(1, sum(token.numel() // width for token in tokens))


def _fit_slots(draft: Draft, trunk: PlainViT, name: str, prefix: Tensor, slots: int) -> Tensor:
    """Positions of prefix tokens, ``(1, n, C)``, for a trunk that stores ``slots`` of them."""
    count = prefix.shape[1]
    if count == slots:
        return prefix
    if count == 0 or not trunk.num_prefix_tokens:  # no position, or one that is never read
        padding = prefix.new_zeros(1, max(slots - count, 0), prefix.shape[2])
        return torch.cat((prefix[:, :slots], padding), dim=1)
    if count == 1 and slots == 0 and "cls_token" in draft.tensors:
        placed = draft.tensors["cls_token"] + prefix
        draft.put("cls_token", placed, "cls_token", name)
        draft.resized["cls_token"] = "its position is added to it"
        return prefix[:, :0]
    return prefix


def _fit_table(draft: Draft, name: str, attn: nn.Module) -> None:
    if not isinstance(attn, RelativeBiasAttention):
        return
    table, wanted = draft.tensors[name], attn.relative_position_bias_table
    if table.shape == wanted.shape or table.shape[1] != wanted.shape[1]:
        return
    side = isqrt(len(table))
    extra = len(table) - side * side  # rows of the class token
    if extra not in (0, 3):
        return  # no square grid: its sides cannot be told
    height, width = attn.table_grid
    patches = table[: side * side].unflatten(0, (side, side))
    resized = fit_relative_table(patches, attn.table_grid).flatten(0, 1)
    how = "bicubic" if height != width else "cubic spline"
    if side == 2 * height - 1 == 2 * width - 1:
        how = "as it was"
    if extra and not attn.num_extra:
        how += ", without the class token's rows"
    else:
        resized = torch.cat((resized, table[side * side :]))
    draft.resize(name, resized, how)
