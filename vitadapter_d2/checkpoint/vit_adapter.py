"""Official ViT-Adapter weights to the names of this package."""

from collections.abc import Mapping

from torch import Tensor

from vitadapter_d2.checkpoint.rename import Rules, rename_keys, with_prefix, without
from vitadapter_d2.checkpoint.uniperceiver import UNIPERCEIVER_RULES

# Of the adapter's parts, anywhere in a key: they also hold for an injector or extractor alone.
MODULE_RULES: Rules = [(r"\bffn\.dwconv\.dwconv\.", "ffn.dwconv.")]

SPATIAL_PRIOR_RULES: Rules = [
    (r"^spm\.fc1\.", "spm.proj_res2."),
    (r"^spm\.fc2\.", "spm.proj_res3."),
    (r"^spm\.fc3\.", "spm.proj_res4."),
    (r"^spm\.fc4\.", "spm.proj_res5."),
    (r"^spm\.conv2\.", "spm.res3."),
    (r"^spm\.conv3\.", "spm.res4."),
    (r"^spm\.conv4\.", "spm.res5."),
    (r"^spm\.", "spatial_prior."),
]

# Only the names at the top: a block's norm1 is a LayerNorm of the trunk.
_OUTPUTS: Rules = [
    (r"^norm1\.", "norms.res2."),
    (r"^norm2\.", "norms.res3."),
    (r"^norm3\.", "norms.res4."),
    (r"^norm4\.", "norms.res5."),
]

# The classes without adapter: ``ViTBaseline`` and ``BEiTBaseline``.
_BASELINES: Rules = [
    (r"^fpn1\.", "up1."),
    (r"^fpn2\.0\.", "up2."),
    (r"^blocks\.(\d+)\.residual\.", r"propagation.\1."),
]

_VIT_TRUNK: Rules = [
    (r"^(blocks\.\d+)\.gamma([12])$", r"\1.ls\2.gamma"),
    (r"^(blocks|patch_embed|pos_embed|cls_token)", r"vit.\1"),
]

# What a model here has no use for, and why; names with or without their prefix.
DROPPED = {
    r"\.relative_position_index$": "index buffers of BEiT (up to 1.9 GB), computed here",
    r"^(?:backbone\.)?rel_pos_bias\.": "a table for all blocks, which the official adapter ignores",
}

BACKBONE_RULES: Rules = [
    *MODULE_RULES,
    *SPATIAL_PRIOR_RULES,
    *_OUTPUTS,
    *_BASELINES,
    *_VIT_TRUNK,
    *UNIPERCEIVER_RULES,
]


def convert_module(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official injector, extractor or ``MSDeformAttn`` alone."""
    return rename_keys(state_dict, MODULE_RULES)


def convert_spatial_prior(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official ``SpatialPriorModule`` alone."""
    prefixed = {f"spm.{key}": tensor for key, tensor in state_dict.items()}
    return with_prefix(rename_keys(prefixed, SPATIAL_PRIOR_RULES), "spatial_prior.")


def convert_backbone(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official backbone: ``ViT``, ``BEiT`` or ``UniPerceiver``, ``Adapter`` or ``Baseline``.

    The names are the same in the segmentation and the detection code base.

    Args:
        state_dict: names without the ``backbone.`` prefix.

    Returns:
        The entries of :class:`vitadapter_d2.modeling.backbone.ViTAdapter`, of
        :class:`vitadapter_d2.modeling.backbone.simple_fpn.PlainViTPyramid` for a baseline.
    """
    return rename_keys(without(state_dict, DROPPED), BACKBONE_RULES)
