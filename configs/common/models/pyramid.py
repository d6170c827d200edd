"""Plain ViTs without adapter: the baselines of the paper."""

from detectron2.config import LazyCall as L

from vitadapter_d2.modeling.backbone import PlainViTPyramid

from .trunks import SIZES, beit_segmentation, vit

# The blocks whose maps become the four outputs; BEiT's are its own code's.
_OUT_BLOCKS = {12: (2, 5, 8, 11), 24: (5, 11, 17, 23)}
_BEIT_OUT_BLOCKS = {24: (7, 11, 15, 23)}


def vit_pyramid(size, timm_name, **options):
    return L(PlainViTPyramid)(
        vit=vit(size, timm_name, **options), out_blocks=_OUT_BLOCKS[SIZES[size]["depth"]]
    )


def beit_pyramid(size, timm_name, crop, **options):
    return L(PlainViTPyramid)(
        vit=beit_segmentation(size, timm_name, crop, **options),
        out_blocks=_BEIT_OUT_BLOCKS[SIZES[size]["depth"]],
        token_norm=False,
        up_norm="BN",
    )
