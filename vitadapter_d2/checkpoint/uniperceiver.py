"""Names of Uni-Perceiver weights: the raw file, the official ViT-Adapter, this package."""

from vitadapter_d2.checkpoint.rename import Rules

# A raw pre-trained file (below ``model``) to the names of the official ``UniPerceiverAdapter``,
# which the "converted" files that ViT-Adapter released have already.
PRETRAINED_RULES: Rules = [
    (r"^fused_encoder\.", ""),
    (r"\bin_proj_", "in_proj."),
    (r"^video_embed\.", "visual_embed."),
    (r"^visual_embed\.embeddings\.(weight|bias)$", r"visual_embed.patch_embed.proj.\1"),
    (r"^visual_embed\.embeddings_st_pos\.", "visual_embed.patch_embed."),
]

# What a raw file holds besides: losses and the embedding of text.
PRETRAINED_DROPPED = [r"loss_prepare", r"token_embed"]

# The trunk of an official ``UniPerceiverAdapter``, without the prefix ``backbone.``; the names of
# the adapter's parts are those of the other families.
UNIPERCEIVER_RULES: Rules = [
    (r"^visual_embed\.patch_embed\.(spatial|temporal)_pos_embed\.weight$", r"vit.\1_pos_embed"),
    (r"^visual_embed\.patch_embed\.", "vit.patch_embed."),
    (r"^visual_embed\.embeddings_norm\.", "vit.embed_norm."),
    (r"^layers\.(\d+)\.self_attn\.in_proj\.", r"vit.blocks.\1.attn.qkv."),
    (r"^layers\.(\d+)\.self_attn\.out_proj\.", r"vit.blocks.\1.attn.proj."),
    (r"^layers\.(\d+)\.linear([12])\.", r"vit.blocks.\1.mlp.fc\2."),
    (r"^layers\.(\d+)\.gamma_([12])$", r"vit.blocks.\1.ls\2.gamma"),
    (r"^layers\.(\d+)\.norm([12])\.", r"vit.blocks.\1.norm\2."),
]
