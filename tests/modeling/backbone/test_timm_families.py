"""Every supported family of timm models: the trunk alone gives timm's own intermediate features."""

import inspect
import re
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import set_fused_attn
from timm.models import model_entrypoint
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch.overrides import TorchFunctionMode

from vitadapter_d2.modeling.backbone import plain_vit
from vitadapter_d2.modeling.backbone.plain_vit import build_trunk

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import list_trunks  # noqa: E402

TINY = dict(embed_dim=48, depth=2, num_heads=4, num_classes=0)

# One model of every family of docs/trunks.md and of every kind of block.
MODELS = """
    aimv2_large_patch14_224 beit3_base_patch16_224 beit_base_patch16_224 beitv2_base_patch16_224
    deepseek_vit_412m_enc deit3_base_patch16_224 deit_base_distilled_patch16_224
    deit_base_patch16_224 eva02_base_patch14_224 eva02_base_patch16_clip_224
    eva02_enormous_patch14_clip_224 eva_giant_patch14_224 eva_giant_patch14_clip_224
    eva_large_patch14_196 flexivit_small naflexvit_base_patch16_gap naflexvit_base_patch16_par_gap
    naflexvit_base_patch16_parfac_gap naflexvit_base_patch16_radio_v3 naflexvit_base_patch16_siglip
    naflexvit_so150m2_patch16_reg1_gap naflexvit_so400m_patch16_radio_v4 qwen3_vit_88m_enc
    samvit_base_patch16 test_vit test_vit2 test_vit3 test_vit4 test_vit_relpos
    vit_base_patch14_dinov2 vit_base_patch14_reg1_tipsv2 vit_base_patch14_reg4_dinov2
    vit_base_patch16_18x2_224
    vit_base_patch16_224 vit_base_patch16_clip_224 vit_base_patch16_clip_quickgelu_224
    vit_base_patch16_dinov3 vit_base_patch16_dinov3_qkvb vit_base_patch16_lingbot
    vit_base_patch16_radio_v3 vit_base_patch16_rope_224 vit_base_patch16_rope_ape_224
    vit_base_patch16_rope_mixed_224 vit_base_patch16_rope_mixed_ape_224 vit_base_patch16_rpn_224
    vit_base_patch16_siglip_224 vit_base_patch16_xp_224 vit_base_patch32_224
    vit_betwixt_patch16_rope_reg4_gap_256 vit_dpwee_patch16_reg1_gap_256
    vit_dwee_patch16_reg1_gap_256 vit_giant_patch14_dinov2 vit_intern300m_patch14_448
    vit_large_patch16_sapiens2 vit_pe_core_base_patch16_224 vit_pe_lang_large_patch14_448
    vit_pe_spatial_base_patch16_512 vit_pwee_patch16_reg1_gap_256 vit_relpos_base_patch16_224
    vit_relpos_base_patch16_cls_224 vit_relpos_base_patch16_rpn_224 vit_small_patch8_224
    vit_small_plus_patch16_dinov3 vit_so400m_patch16_radio_v4 vit_wee_patch16_reg1_gap_256
""".split()
SPECIAL = {
    "deepseek_vit_412m_enc": dict(img_size=56, global_pool=""),
    "samvit_base_patch16": dict(window_size=3, global_attn_indexes=(1,), neck_chans=16),
    "vit_large_patch16_sapiens2": dict(num_kv_heads=(4, 2)),
}
# Their learned bias is a matrix of all tokens by all tokens; timm computes them for one grid.
LEARNED_BIAS = [
    name for name in MODELS if re.match(r"beit_|beitv2_|test_vit_relpos|vit_relpos", name)
]


def kind_of(name):
    """The class of a timm model."""
    return model_entrypoint(name).__annotations__["return"]


def options_of(name):
    """The options of its trunk."""
    return inspect.signature(build_trunk.dispatch(kind_of(name))).parameters


def tiny(name):
    """The model of this name with small sizes and all its parameters perturbed; patch size."""
    patch_size = int((re.search(r"patch(\d+)", name) or [0, 16])[1])
    options = TINY | dict(img_size=4 * patch_size) | SPECIAL.get(name, {})
    if issubclass(kind_of(name), VisionTransformer | Eva):
        options["dynamic_img_size"] = True
    model = timm.create_model(name, **options).eval()
    assert len(model.blocks) == 2
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, (getattr(model, "patch_embed", None) or model.embeds).patch_size[0]


def trunk_of(name, model, **options):
    """As timm computes it: with every prefix token and timm's resizing of positions."""
    known = options_of(name)
    wanted = dict(keep_prefix_tokens=True, antialias_positions=True) | options
    return plain_vit(
        model, **{key: wanted[key] for key in wanted if key in known or key in options}
    )


@pytest.mark.parametrize("name", MODELS)
def test_equals_timm_with_the_adapter_off(name):
    torch.manual_seed(0)
    model, patch_size = tiny(name)
    grids = [(4, 4)] if name in LEARNED_BIAS else [(4, 4), (3, 5)]
    images = [torch.randn(2, 3, rows * patch_size, cols * patch_size) for rows, cols in grids]
    with torch.no_grad():
        expected = [
            model.forward_intermediates(image, norm=False, intermediates_only=True)
            for image in images
        ]
        trunk = trunk_of(name, model, patch_size=patch_size)
        for grid, image, maps in zip(grids, images, expected, strict=True):
            tokens, found = trunk.embed(image)
            assert tuple(found) == grid
            for block, features in enumerate(maps):
                tokens = trunk.run(tokens, grid, block, block)
                patches = tokens[:, trunk.num_prefix_tokens :]
                torch.testing.assert_close(
                    patches.mT.unflatten(2, grid), features, atol=2e-5, rtol=2e-5
                )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("keep_prefix_tokens", [True, False])
def test_every_parameter_gets_a_gradient_and_keeps_its_name(name, keep_prefix_tokens):
    if not keep_prefix_tokens and "keep_prefix_tokens" not in options_of(name):
        return
    model, patch_size = tiny(name)
    names = set(model.state_dict())
    options = {} if keep_prefix_tokens else dict(keep_prefix_tokens=False)
    trunk = trunk_of(name, model, patch_size=patch_size, **options)
    tokens, grid = trunk.embed(torch.randn(2, 3, 4 * patch_size, 4 * patch_size))
    trunk.run(tokens, grid, 0, 1)[:, trunk.num_prefix_tokens :].square().sum().backward()
    assert not [name for name, value in trunk.named_parameters() if value.grad is None]
    assert set(trunk.state_dict()) <= names


class Matrices(TorchFunctionMode):
    """Counts attention kernels, and results of any call that pair all tokens with all tokens."""

    def __init__(self, count):
        super().__init__()
        self.shape = (count, count)
        self.kernels = self.matrices = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.kernels += func is F.scaled_dot_product_attention
        self.matrices += isinstance(result, torch.Tensor) and result.shape[-2:] == self.shape
        return result


@pytest.mark.parametrize("name", [name for name in MODELS if name not in LEARNED_BIAS])
def test_no_attention_matrix_is_built(name):
    set_fused_attn(False)  # timm's own code would then build it
    try:
        model, patch_size = tiny(name)
    finally:
        set_fused_attn(True)
    trunk = trunk_of(name, model, patch_size=patch_size)
    tokens, grid = trunk.embed(torch.randn(1, 3, 15 * patch_size, 18 * patch_size))
    with Matrices(tokens.shape[1]) as seen, torch.no_grad():
        trunk.run(tokens, grid, 0, 1)
    assert seen.kernels >= 2
    assert seen.matrices == 0


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("beit3_giant_patch14_336", 40),
        ("eva02_enormous_patch14_clip_224", 64),
        ("eva_giant_patch14_560", 40),
        ("samvit_huge_patch16", 32),
        ("vit_7b_patch16_dinov3", 40),
        ("vit_giant_patch14_reg4_dinov2", 40),
    ],
)
def test_giants_on_the_meta_device(name, depth):
    with torch.device("meta"):
        trunk = plain_vit(timm.create_model(name))
        tokens, grid = trunk.embed(torch.randn(1, 3, 64, 96))
        shape = trunk.run(tokens, grid, 0, 1).shape
    assert trunk.depth == depth
    assert (grid, shape) == ((4, 6), (1, trunk.num_prefix_tokens + 24, trunk.embed_dim))


@pytest.mark.parametrize("name", ["vit_relpos_base_patch16_224", "vit_relpos_base_patch16_cls_224"])
def test_relative_positions_by_an_mlp_follow_the_grid(name):
    model, _ = tiny(name)
    wide = timm.create_model(name, **TINY, img_size=(48, 80)).eval()
    wide.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 48, 80)
    with torch.no_grad():
        _, expected = wide.forward_intermediates(image, norm=False, intermediates_only=True)
        trunk = plain_vit(model)
        tokens = trunk.run(*trunk.embed(image), 0, 1)[:, trunk.num_prefix_tokens :]
    torch.testing.assert_close(tokens.mT.unflatten(2, (3, 5)), expected, atol=2e-5, rtol=2e-5)


def test_blocks_of_timms_own_attention_have_no_windows():
    model, _ = tiny("vit_base_patch16_xp_224")
    with pytest.raises(
        ValueError, match="ParallelScalingBlock attends globally, got window size 2"
    ):
        plain_vit(model, window_sizes=(2,))


def test_every_family_of_the_page_is_tested():
    text = list_trunks.PAGE.read_text("utf-8")
    listed = set(re.findall(r"^\| (\w+) \| (\w+) \| \d+ \|", text, re.MULTILINE))
    tested = {(list_trunks.family(name), kind_of(name).__name__) for name in MODELS}
    assert tested == listed


def test_the_page_is_made_from_what_plain_vit_says():
    names = ["deit_base_distilled_patch16_224", "vit_srelpos_small_patch16_224", "cait_xxs24_224"]
    supported, shared, cait = results = [list_trunks.examine(name) for name in names]
    assert supported == list_trunks.Supported(
        names[0], "VisionTransformerDistilled", 16, 2, False, "absolute"
    )
    assert "that all blocks share are not supported" in shared.reason
    assert "no trunk for a Cait: its heads" in cait.reason
    text = list_trunks.page([*results, list_trunks.examine("resnet18")])
    assert "Of the 4 models" in text
    assert "| deit_distilled | VisionTransformerDistilled | 1 | 16 | 2 | absolute |" in text
    assert "ResNet 1." in text
