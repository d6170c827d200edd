"""Mask2Former heads of mmsegmentation and mmdetection to facebookresearch/Mask2Former's names.

Those are the names of :class:`vitadapter_d2.modeling.mask2former.MaskFormerHead`.
"""

from collections.abc import Mapping

from torch import Tensor

from vitadapter_d2.checkpoint.rename import Rules, rename_keys

_PIXEL_DECODER: Rules = [
    (r"^pixel_decoder\.input_convs\.(\d+)\.conv\.", r"pixel_decoder.input_proj.\1.0."),
    (r"^pixel_decoder\.input_convs\.(\d+)\.gn\.", r"pixel_decoder.input_proj.\1.1."),
    (r"^pixel_decoder\.lateral_convs\.0\.", "pixel_decoder.adapter_1."),
    (r"^pixel_decoder\.output_convs\.0\.", "pixel_decoder.layer_1."),
    (r"^(pixel_decoder\.\w+_1)\.conv\.", r"\1."),
    (r"^(pixel_decoder\.\w+_1)\.gn\.", r"\1.norm."),
    (r"^pixel_decoder\.mask_feature\.", "pixel_decoder.mask_features."),
    (r"^pixel_decoder\.level_encoding\.weight$", "pixel_decoder.transformer.level_embed"),
    (
        r"^pixel_decoder\.encoder\.layers\.(\d+)\.",
        r"pixel_decoder.transformer.encoder.layers.\1.",
    ),
    (r"(\.encoder\.layers\.\d+)\.attentions\.0\.", r"\1.self_attn."),
    (r"(\.encoder\.layers\.\d+)\.norms\.0\.", r"\1.norm1."),
    (r"(\.encoder\.layers\.\d+)\.norms\.1\.", r"\1.norm2."),
    (r"(\.encoder\.layers\.\d+)\.ffns\.0\.layers\.0\.0\.", r"\1.linear1."),
    (r"(\.encoder\.layers\.\d+)\.ffns\.0\.layers\.1\.", r"\1.linear2."),
]

# Attention 0 looks at the maps, 1 at the other queries; norm 2 belongs to the feed-forward.
_DECODER_LAYER = r"^transformer_decoder\.layers\.(\d+)\."
_CROSS = r"predictor.transformer_cross_attention_layers.\1."
_SELF = r"predictor.transformer_self_attention_layers.\1."
_FFN = r"predictor.transformer_ffn_layers.\1."

_PREDICTOR: Rules = [
    (_DECODER_LAYER + r"attentions\.0\.attn\.", _CROSS + "multihead_attn."),
    (_DECODER_LAYER + r"attentions\.1\.attn\.", _SELF + "self_attn."),
    (_DECODER_LAYER + r"norms\.0\.", _CROSS + "norm."),
    (_DECODER_LAYER + r"norms\.1\.", _SELF + "norm."),
    (_DECODER_LAYER + r"norms\.2\.", _FFN + "norm."),
    (_DECODER_LAYER + r"ffns\.0\.layers\.0\.0\.", _FFN + "linear1."),
    (_DECODER_LAYER + r"ffns\.0\.layers\.1\.", _FFN + "linear2."),
    (r"^transformer_decoder\.post_norm\.", "predictor.decoder_norm."),
    (r"^decoder_input_projs\.", "predictor.input_proj."),
    (r"^(query_embed|query_feat|level_embed)\.", r"predictor.\1."),
    (r"^cls_embed\.", "predictor.class_embed."),
    (r"^mask_embed\.0\.", "predictor.mask_embed.layers.0."),
    (r"^mask_embed\.2\.", "predictor.mask_embed.layers.1."),
    (r"^mask_embed\.4\.", "predictor.mask_embed.layers.2."),
]

MASK2FORMER_RULES: Rules = [*_PIXEL_DECODER, *_PREDICTOR]


def convert_mask2former(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The head of a Mask2Former, ``decode_head`` in mmseg and ``panoptic_head`` in mmdet.

    Args:
        state_dict: names without that prefix.

    Returns:
        The entries ``pixel_decoder.*`` and ``predictor.*``.
    """
    return rename_keys(state_dict, MASK2FORMER_RULES)
