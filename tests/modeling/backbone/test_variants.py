"""The ablations of the paper: their sizes, and that every variant runs and learns."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from timm.models.vision_transformer import VisionTransformer

from vitadapter_d2 import model_zoo
from vitadapter_d2.modeling.backbone import (
    AddInjector,
    CrossShaped,
    DeformableAttention,
    Global,
    InjectedViTPyramid,
    Injector,
    InteractionBlock,
    PaleShaped,
    SpatialPriorModule,
    ViTAdapter,
    interaction_blocks,
    plain_vit,
)

MASK_RCNN = "coco/mask_rcnn_deit_adapter_small_fpn_1x_coco"
DEPTH = 12


def spans(count, depth=DEPTH):
    return [(first, first + depth // count - 1) for first in range(0, depth, depth // count)]


def interactions(count):
    def edit(backbone):
        backbone.interactions.spans = spans(count)
        return backbone

    return edit


def attention(pattern):
    def edit(backbone):
        backbone.interactions.attention = L(pattern)()
        return backbone

    return edit


def without_interactions(backbone):
    backbone.interactions = [L(InteractionBlock)(span=(0, DEPTH - 1))]
    return backbone


def injected(make_injector):
    def edit(backbone):
        return L(InjectedViTPyramid)(
            vit=backbone.vit,
            spatial_prior=backbone.spatial_prior,
            interactions=[
                L(InteractionBlock)(span=span, injector=make_injector()) for span in spans(4)
            ],
        )

    return edit


def attending():
    attn = L(DeformableAttention)(embed_dim=384, num_levels=3, num_heads=6)
    return L(Injector)(embed_dim=384, attn=attn)


@pytest.mark.parametrize(
    ("edit", "printed", "parameters"),
    [
        (interactions(1), 45.5, 45_457_472),
        (interactions(2), 46.2, 46_239_104),
        (interactions(4), 47.8, 47_802_368),
        (interactions(6), 49.4, 49_365_632),
        (attention(Global), 50.3, 50_260_208),
        (attention(CrossShaped), 50.3, 50_260_208),
        (attention(PaleShaped), 50.3, 50_260_208),
        (injected(attending), 46.6, 46_553_360),
        # Not printed: Variant 1, and an adapter without any exchange (the paper's 43.8 for no
        # interactions is the plain ViT).
        (injected(L(AddInjector)), 45.0, 45_030_320),
        (without_interactions, 43.9, 43_874_096),
    ],
)
def test_parameters_of_the_ablations(edit, printed, parameters):
    cfg = model_zoo.get_config(MASK_RCNN)
    cfg.model.backbone.bottom_up = edit(cfg.model.backbone.bottom_up)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert round(parameters / 1e6, 1) == printed


def tiny_vit(**options):
    model = VisionTransformer(embed_dim=48, depth=4, num_heads=4, num_classes=0)
    return plain_vit(model, **options)


def tiny_adapter(spans=((0, 1), (2, 3)), vit_options=None, **options):
    blocks = interaction_blocks(48, spans, num_heads=4, injector_init=0.5, **options)
    return ViTAdapter(tiny_vit(**(vit_options or {})), SpatialPriorModule(48, 8), blocks)


def tiny_injected(injector):
    blocks = [InteractionBlock(span, injector()) for span in spans(2, depth=4)]
    return InjectedViTPyramid(tiny_vit(), SpatialPriorModule(48, 8), blocks, up_norm="BN")


VARIANTS = {
    "global": lambda: tiny_adapter(attention=Global()),
    "cross-shaped": lambda: tiny_adapter(attention=CrossShaped(2)),
    "pale-shaped": lambda: tiny_adapter(attention=PaleShaped(2)),
    "recomputed": lambda: tiny_adapter(attention=PaleShaped(2), recompute_attention=True),
    "with class token": lambda: tiny_adapter(
        attention=CrossShaped(), vit_options=dict(keep_prefix_tokens=True)
    ),
    "light": lambda: tiny_adapter([(0, 3)], ffn_ratio=None, num_extra_extractors=0),
    "uneven spans": lambda: tiny_adapter([(0, 0), (1, 3)], num_points=2, deform_ratio=0.5),
    "no exchange": lambda: ViTAdapter(
        tiny_vit(), SpatialPriorModule(48, 8), [InteractionBlock((0, 3))]
    ),
    "added": lambda: tiny_injected(AddInjector),
    "injected": lambda: tiny_injected(
        lambda: Injector(48, DeformableAttention(48, 3, 4), init_value=0.5)
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_takes_any_size_and_reaches_every_parameter(name):
    model = VARIANTS[name]()
    outputs = model(torch.randn(2, 3, 70, 97))
    assert [tuple(output.shape[2:]) for output in outputs.values()] == [
        (18, 25),
        (9, 13),
        (5, 7),
        (3, 4),
    ]
    sum(output.square().sum() for output in outputs.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_variant_1_is_the_plain_pyramid_of_tokens_with_the_prior_added():
    model = tiny_injected(AddInjector).eval()
    image = torch.randn(1, 3, 64, 64)
    _, *prior = model.spatial_prior(image)
    added = sum(
        torch.nn.functional.interpolate(
            level + embed[:, None, None], size=(4, 4), mode="bilinear", align_corners=False
        )
        for level, embed in zip(prior, model.level_embed, strict=True)
    )
    tokens, grid = model.vit.embed(image)
    for span in spans(2, depth=4):
        tokens = model.vit.run(tokens + added.flatten(2).transpose(1, 2), grid, *span)
    res4 = model.norms["res4"](tokens).transpose(1, 2).unflatten(2, grid)
    torch.testing.assert_close(model(image)["res4"], res4)


def test_injected_pyramid_refuses_extractors():
    blocks = interaction_blocks(48, [(0, 3)], num_heads=4)
    with pytest.raises(ValueError, match="interaction 0 must have an injector and no extractors"):
        InjectedViTPyramid(tiny_vit(), SpatialPriorModule(48, 8), blocks, up_norm="BN")


def test_injected_pyramid_needs_the_whole_trunk():
    blocks = [InteractionBlock((0, 2), AddInjector())]
    with pytest.raises(ValueError, match=r"spans \[\(0, 2\)\] must cover the trunk's 4 blocks"):
        InjectedViTPyramid(tiny_vit(), SpatialPriorModule(48, 8), blocks, up_norm="BN")
