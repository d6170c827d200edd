"""The plain ViTs of the published models, before an adapter or a pyramid is put around them."""

import timm
from detectron2.config import LazyCall as L

from vitadapter_d2.modeling.backbone import UniPerceiver, plain_vit

# Depth, width, heads; attention windows of the detection models; drop path of most of them.
SIZES = {
    "tiny": dict(depth=12, embed_dim=192, heads=3, windows=(14, 14, None), drop_path=0.1),
    "small": dict(depth=12, embed_dim=384, heads=6, windows=(14, 14, None), drop_path=0.2),
    "base": dict(depth=12, embed_dim=768, heads=12, windows=(14, 14, None), drop_path=0.3),
    "large": dict(depth=24, embed_dim=1024, heads=16, windows=(14,) * 5 + (None,), drop_path=0.4),
    "giant": dict(depth=40, embed_dim=1408, heads=16, windows=None, drop_path=0.5),  # BEiT-3
}
# The last block of each span of the BEiT detection models sees wide windows, not the image.
BEIT_WINDOWS = (14,) * 5 + (56,)


def vit(size, timm_name, windowed=False, init_values=1.0, drop_path_rate=None, **model):
    """DeiT, AugReg, MAE, DINOv2; the released models have a LayerScale, which starts at 1."""
    return L(plain_vit)(
        model=_timm(size, timm_name, init_values, drop_path_rate, **model),
        window_sizes=SIZES[size]["windows"] if windowed else (None,),
        recompute_blocks=False,
    )


def beit_segmentation(size, timm_name, crop, drop_path_rate=None):
    """BEiT, BEiTv2 with their class token; bias tables are stored for crops of ``crop`` pixels."""
    return L(plain_vit)(
        model=_timm(size, timm_name, 1e-6, drop_path_rate),
        table_grid=(crop // 16, crop // 16),
        keep_prefix_tokens=True,
        recompute_blocks=False,
    )


def beit_detection(size, timm_name, drop_path_rate=None):
    """BEiT, BEiTv2 in windows, without their class token."""
    return L(plain_vit)(
        model=_timm(size, timm_name, 1e-6, drop_path_rate),
        window_sizes=BEIT_WINDOWS,
        keep_prefix_tokens=False,
        recompute_blocks=False,
    )


def uniperceiver(size, windowed=False, drop_path_rate=None):
    return L(plain_vit)(
        model=L(UniPerceiver)(
            embed_dim=SIZES[size]["embed_dim"],
            depth=SIZES[size]["depth"],
            num_heads=SIZES[size]["heads"],
            drop_path_rate=_drop_path(size, drop_path_rate),
        ),
        window_sizes=SIZES[size]["windows"] if windowed else (None,),
        recompute_blocks=False,
    )


def _timm(size, timm_name, init_values, drop_path_rate, **model):
    return L(timm.create_model)(
        model_name=timm_name,
        pretrained=False,
        num_classes=0,
        init_values=init_values,
        drop_path_rate=_drop_path(size, drop_path_rate),
        **model,
    )


def _drop_path(size, rate):
    return SIZES[size]["drop_path"] if rate is None else rate
