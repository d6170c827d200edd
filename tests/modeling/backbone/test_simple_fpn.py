import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from key_lists import official_keys, shapes_of, state_dict_of
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import nn

from vitadapter_d2.checkpoint.vit_adapter import convert_backbone
from vitadapter_d2.modeling.backbone import PlainViTPyramid, SimpleFeaturePyramid, plain_vit
from vitadapter_d2.modeling.backbone.simple_fpn import ConvPropagation

WIDTH = 32  # GroupNorm has 32 groups
WINDOWS = (14, 14, None)
LARGE_WINDOWS = (14, 14, 14, 14, 14, None)


def vit(width=WIDTH, depth=4, heads=2, size=64, windows=(3, None), scale=1.0, **options):
    model = VisionTransformer(
        img_size=size,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=0,
        init_values=scale,
    )
    return plain_vit(model, window_sizes=windows, **options)


def beit(width=WIDTH, depth=4, heads=2, size=64):
    model = Beit(
        img_size=size,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=0,
        init_values=0.1,
        use_abs_pos_emb=False,
        use_rel_pos_bias=True,
    )
    return plain_vit(model)


def vitdet(width=WIDTH, depth=4, heads=2, size=64):
    """ViTDet's own trunk: relative positions, windows that pad before the projection."""
    model = VisionTransformerSAM(
        img_size=size,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1, 3),
        neck_chans=0,
        num_classes=0,
        global_pool="",
    )
    return plain_vit(model)


def randomise(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return model.eval()


def stages_of(trunk, image, blocks):
    tokens, grid = trunk.embed(image)
    stages = []
    for index in range(trunk.depth):
        tokens = trunk.run(tokens, grid, index, index)
        stages.append(tokens[:, trunk.num_prefix_tokens :].mT.unflatten(2, grid))
    return [stages[block] for block in blocks]


def deconv(feature, weights, name):
    return F.conv_transpose2d(feature, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2)


def layer_norm(feature, weight, bias, eps=1e-6):
    mean = feature.mean(1, keepdim=True)
    variance = (feature - mean).square().mean(1, keepdim=True)
    normal = (feature - mean) / (variance + eps).sqrt()
    return normal * weight[:, None, None] + bias[:, None, None]


def official_names(model):
    """The parameters of a pyramid as the official baselines call those that are not the trunk's."""
    weights = model.state_dict()
    for index in range(1, 5):
        for part in ("weight", "bias"):
            if f"norms.res{index + 1}.{part}" in weights:
                weights[f"norm{index}.{part}"] = weights.pop(f"norms.res{index + 1}.{part}")
    return weights


@pytest.mark.parametrize("out_blocks", [(0, 1, 2, 3), (1, 1, 3, 3)])
def test_vit_baseline_equals_the_plain_formulation(out_blocks):
    model = randomise(PlainViTPyramid(vit(), out_blocks))
    image = torch.randn(2, 3, 96, 128)
    weights = official_names(model)
    normed = [
        layer_norm(feature, weights[f"norm{index}.weight"], weights[f"norm{index}.bias"])
        for index, feature in enumerate(stages_of(model.vit, image, out_blocks), 1)
    ]
    hidden = deconv(normed[0], weights, "up1.0")
    hidden = F.group_norm(hidden, 32, weights["up1.1.weight"], weights["up1.1.bias"])
    expected = {
        "res2": deconv(F.gelu(hidden), weights, "up1.3"),
        "res3": deconv(normed[1], weights, "up2"),
        "res4": normed[2],
        "res5": F.max_pool2d(normed[3], 2, 2),
    }
    torch.testing.assert_close(model(image), expected)


def test_beit_baseline_equals_the_plain_formulation():
    model = randomise(PlainViTPyramid(beit(), (0, 1, 2, 3), token_norm=False, up_norm="BN"))
    image = torch.randn(2, 3, 64, 96)
    weights = model.state_dict()
    stages = stages_of(model.vit, image, range(4))
    hidden = deconv(stages[0], weights, "up1.0")
    scale = weights["up1.1.weight"] / (weights["up1.1.running_var"] + 1e-5).sqrt()
    shift = weights["up1.1.bias"] - weights["up1.1.running_mean"] * scale
    hidden = F.gelu(hidden * scale[:, None, None] + shift[:, None, None])
    expected = {
        "res2": deconv(hidden, weights, "up1.3"),
        "res3": deconv(stages[1], weights, "up2"),
        "res4": stages[2],
        "res5": F.max_pool2d(stages[3], 2, 2),
    }
    torch.testing.assert_close(model(image), expected)


def test_simple_pyramid_equals_the_plain_formulation():
    model = randomise(SimpleFeaturePyramid(vit(), 16))
    image = torch.randn(2, 3, 64, 96)
    weights = model.state_dict()
    (feature,) = stages_of(model.vit, image, [3])
    enlarged = deconv(feature, weights, "simfp_2.0")
    enlarged = layer_norm(enlarged, weights["simfp_2.1.weight"], weights["simfp_2.1.bias"])
    inputs = {
        "simfp_2": (deconv(F.gelu(enlarged), weights, "simfp_2.3"), 4),
        "simfp_3": (deconv(feature, weights, "simfp_3.0"), 1),
        "simfp_4": (feature, 0),
        "simfp_5": (F.max_pool2d(feature, 2, 2), 1),
    }
    outputs = model(image)
    for (name, (level, first)), output in zip(inputs.items(), outputs.values(), strict=True):
        for conv, padding in ((first, 0), (first + 1, 1)):
            level = F.conv2d(level, weights[f"{name}.{conv}.weight"], padding=padding)
            norm = f"{name}.{conv}.norm"
            level = layer_norm(level, weights[f"{norm}.weight"], weights[f"{norm}.bias"])
        torch.testing.assert_close(output, level)


def test_propagation_equals_the_plain_formulation():
    layer = randomise(ConvPropagation(WIDTH))
    feature = torch.randn(2, WIDTH, 5, 7)
    weights = layer.state_dict()
    hidden = feature
    for index, padding in ((1, 0), (2, 1), (3, 0)):
        hidden = F.conv2d(hidden, weights[f"conv{index}.weight"], padding=padding)
        norm = weights[f"norm{index}.weight"], weights[f"norm{index}.bias"]
        hidden = layer_norm(hidden, *norm)
        if index < 3:
            hidden = F.gelu(hidden)
    torch.testing.assert_close(layer(feature), feature + hidden)


@pytest.mark.parametrize("keep_prefix_tokens", [False, True])
def test_propagation_follows_its_block_and_starts_without_effect(keep_prefix_tokens):
    options = dict(windows=(None,), keep_prefix_tokens=keep_prefix_tokens)
    model = PlainViTPyramid(vit(**options), (0, 1, 2, 3), propagation_blocks=(1,)).eval()
    image = torch.randn(1, 3, 64, 96)
    plain = stages_of(model.vit, image, range(4))
    stages, grid = model.run_trunk(image, range(4))
    for block, expected in enumerate(plain):
        torch.testing.assert_close(stages[block].mT.unflatten(2, grid), expected)
    nn.init.ones_(model.propagation["1"].norm3.weight)
    stages, _ = model.run_trunk(image, range(4))
    changed = [
        not torch.allclose(stages[block].mT.unflatten(2, grid), expected)
        for block, expected in enumerate(plain)
    ]
    assert changed == [False, True, True, True]
    torch.testing.assert_close(stages[1].mT.unflatten(2, grid), model.propagation["1"](plain[1]))


BUILDERS = {
    "vit": lambda: PlainViTPyramid(vit(), (0, 1, 2, 3)),
    "vit_recomputed": lambda: PlainViTPyramid(vit(recompute_blocks=True), (0, 1, 2, 3)),
    "beit": lambda: PlainViTPyramid(beit(), (0, 1, 2, 3), token_norm=False, up_norm="BN"),
    "propagation": lambda: PlainViTPyramid(
        vit(windows=(3,)), (0, 1, 2, 3), propagation_blocks=(0, 1, 2, 3)
    ),
    "simple": lambda: SimpleFeaturePyramid(vit(), 16, propagation_blocks=(1, 3)),
    "vitdet": lambda: SimpleFeaturePyramid(vitdet(), 16, norm="BN"),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_any_size_and_every_gradient(build):
    model = build().train()
    shapes = {
        name: (spec.channels, -(-70 // spec.stride), -(-130 // spec.stride))
        for name, spec in model.output_shape().items()
    }
    outputs = model(torch.randn(2, 3, 70, 130))
    assert {name: tuple(output.shape[1:]) for name, output in outputs.items()} == shapes
    assert [*shapes] == ["res2", "res3", "res4", "res5"]
    sum(output.square().sum() for output in outputs.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert model.eval()(torch.randn(1, 3, 1, 1))["res2"].shape[2:] == (1, 1)


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_a_smaller_image_is_a_padded_one(build):
    model = build().eval()
    image = torch.randn(1, 3, 50, 90)
    padded = model(F.pad(image, (0, 6, 0, 14)))
    expected = {
        name: output[..., : -(-50 // stride), : -(-90 // stride)]
        for (name, output), stride in zip(padded.items(), (4, 8, 16, 32), strict=True)
    }
    torch.testing.assert_close(model(image), expected)
    assert model.size_divisibility == model.padding_constraints["size_divisibility"] == 32


@pytest.mark.parametrize(
    "build",
    [
        lambda: PlainViTPyramid(vit(), (0, 1, 2, 3)),
        lambda: PlainViTPyramid(beit(), (0, 1, 2, 3), token_norm=False, up_norm="BN"),
        lambda: SimpleFeaturePyramid(vit(), 16, norm="BN"),
    ],
)
def test_gradients_at_batch_1_equal_numerical_ones(build):
    """Also where a BatchNorm follows, which torch computes wrongly on some views of one image."""
    model = build().double().train()
    norms = [nn.BatchNorm2d(spec.channels).double() for spec in model.output_shape().values()]
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    weights = [torch.randn_like(output) for output in model(image).values()]
    parameters = list(model.parameters())
    directions = [torch.randn_like(parameter) for parameter in parameters]

    def loss(step):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=step)
        outputs = model(image).values()
        return sum(
            (norm(output) * weight).sum()
            for norm, output, weight in zip(norms, outputs, weights, strict=True)
        )

    assert all(output.stride(0) == output[0].numel() for output in model(image).values())
    loss(0.0).backward()
    slope = sum(
        (parameter.grad * direction).sum()
        for parameter, direction in zip(parameters, directions, strict=True)
    )
    with torch.no_grad():
        numerical = (loss(1e-6) - loss(-2e-6)) / 2e-6
    torch.testing.assert_close(slope, numerical, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("token_norm", [True, False])
@pytest.mark.parametrize("names", [("res3", "res4", "res5"), ("res5",)])
def test_chosen_outputs_are_those_of_all_and_the_rest_is_frozen(token_norm, names):
    every = PlainViTPyramid(vit(), (0, 1, 2, 3), token_norm=token_norm)
    chosen = PlainViTPyramid(vit(), (0, 1, 2, 3), token_norm=token_norm, out_features=names)
    chosen.load_state_dict(every.state_dict())
    image = torch.randn(2, 3, 50, 90)
    expected, outputs = every(image), chosen(image)
    assert [*outputs] == [*chosen.output_shape()] == [*names]
    torch.testing.assert_close(outputs, {name: expected[name] for name in names})
    sum(output.square().sum() for output in outputs.values()).backward()
    silent = {name for name, p in chosen.named_parameters() if p.grad is None}
    assert silent == {name for name, p in chosen.named_parameters() if not p.requires_grad}
    assert "up1.0.weight" in silent and ("norms.res2.weight" in silent) == token_norm


def test_outputs_must_use_the_whole_trunk():
    with pytest.raises(ValueError, match=r"3 among them, got \[0, 1, 2, 3\] for the outputs"):
        PlainViTPyramid(vit(), (0, 1, 2, 3), out_features=("res2", "res3", "res4"))


def test_an_fpn_and_a_top_block_stand_on_it():
    fpn = FPN(
        PlainViTPyramid(vit(), (0, 1, 2, 3)),
        ["res2", "res3", "res4", "res5"],
        16,
        top_block=LastLevelMaxPool(),
    )
    image = torch.randn(1, 3, 64, 96)
    shapes = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    assert [tuple(output.shape[2:]) for output in fpn(image).values()] == shapes
    model = SimpleFeaturePyramid(vit(), 16, top_block=LastLevelMaxPool())
    outputs = model(image)
    assert [tuple(output.shape[2:]) for output in outputs.values()] == shapes
    assert [*outputs] == [*model.output_shape()] == ["res2", "res3", "res4", "res5", "res6"]
    assert model.output_shape()["res6"].stride == 64
    torch.testing.assert_close(outputs["res6"], outputs["res5"][..., ::2, ::2])


# Width, depth, heads, image size of the pre-training, windows, blocks of the outputs.
SIZES = {
    "tiny": (192, 12, 3, 224, WINDOWS, (2, 5, 8, 11)),
    "small": (384, 12, 6, 224, WINDOWS, (2, 5, 8, 11)),
    "base": (768, 12, 12, 224, WINDOWS, (2, 5, 8, 11)),
    "large": (1024, 24, 16, 384, LARGE_WINDOWS, (5, 11, 17, 23)),
}


def published(size, **options):
    *trunk, out_blocks = SIZES[size]
    with torch.device("meta"):
        return PlainViTPyramid(vit(*trunk), out_blocks, **options), out_blocks


def check_keys(model, keys):
    converted = convert_backbone(state_dict_of(keys))
    assert {key: tuple(tensor.shape) for key, tensor in converted.items()} == shapes_of(model)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("det__mask_rcnn_deit_tiny_fpn_3x_coco", "tiny"),
        pytest.param("det__mask_rcnn_deit_small_fpn_3x_coco", "small", marks=pytest.mark.weights),
        pytest.param("det__mask_rcnn_deit_base_fpn_3x_coco", "base", marks=pytest.mark.weights),
        pytest.param(
            "det__cascade_mask_rcnn_deit_base_fpn_3x_coco", "base", marks=pytest.mark.weights
        ),
        pytest.param("det__mask_rcnn_augreg_large_fpn_3x_coco", "large", marks=pytest.mark.weights),
    ],
)
def test_names_and_shapes_of_the_vit_baselines(name, size):
    check_keys(published(size)[0], official_keys(name))


def test_names_and_shapes_of_the_beit_baseline():
    with torch.device("meta"):
        trunk = beit(1024, 24, 16, 512)
        model = PlainViTPyramid(trunk, (7, 11, 15, 23), token_norm=False, up_norm="BN")
    check_keys(model, official_keys("seg__upernet_beit_large_512_160k_ade20k_ss"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 317_235_712


@pytest.mark.parametrize(
    ("size", "plain", "with_propagation"),
    [
        ("tiny", 26.1, 26.6),
        ("small", 43.7, 45.7),  # 43.747; the paper prints 43.8 for the first
        ("base", 113.6, 121.3),
        ("large", 337.3, 350.9),
    ],
)
def test_parameters_of_the_papers_mask_rcnn_rows(size, plain, with_propagation):
    """ViT and "ViTDet": the second is the first with four propagation blocks."""
    model, out_blocks = published(size)
    propagated, _ = published(size, propagation_blocks=out_blocks)
    heads = 593_935 + 16_949_985  # RPN and ROI heads of all these Mask R-CNNs
    neck = 4 * (model.vit.embed_dim * 256 + 256) + 4 * (256 * 256 * 9 + 256)
    for backbone, expected in ((model, plain), (propagated, with_propagation)):
        count = sum(parameter.numel() for parameter in backbone.parameters()) + neck + heads
        assert round(count / 1e6, 1) == expected


def test_propagation_of_the_official_class_is_renamed():
    model, _ = published("tiny", propagation_blocks=(2, 5, 8, 11))
    keys = official_keys("det__mask_rcnn_deit_tiny_fpn_3x_coco")
    for block in (2, 5, 8, 11):
        prefix = f"blocks.{block}.residual"
        convs = {1: (96, 192, 1, 1), 2: (96, 96, 3, 3), 3: (192, 96, 1, 1)}
        for index, shape in convs.items():
            keys[f"{prefix}.conv{index}.weight"] = shape
            keys[f"{prefix}.norm{index}.weight"] = keys[f"{prefix}.norm{index}.bias"] = shape[:1]
    check_keys(model, keys)


def detectron2_names(width, channels, blocks):
    """Of a ViTDet in Detectron2's main branch, as ``backbone.`` has them, to shapes."""
    shapes = {"net.patch_embed.proj.weight": (width, 3, 16, 16)}
    shapes["net.patch_embed.proj.bias"] = (width,)
    for index, window in enumerate(blocks):
        block = {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "attn.rel_pos_h": (2 * window - 1, width // 2),
            "attn.rel_pos_w": (2 * window - 1, width // 2),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
        }
        shapes |= {f"net.blocks.{index}.{name}": shape for name, shape in block.items()}
    half, quarter = width // 2, width // 4
    shapes |= {
        "simfp_2.0.weight": (width, half, 2, 2),
        "simfp_2.0.bias": (half,),
        "simfp_2.1.weight": (half,),
        "simfp_2.1.bias": (half,),
        "simfp_2.3.weight": (half, quarter, 2, 2),
        "simfp_2.3.bias": (quarter,),
        "simfp_3.0.weight": (width, half, 2, 2),
        "simfp_3.0.bias": (half,),
    }
    for stage, first, inputs in ((2, 4, quarter), (3, 1, half), (4, 0, width), (5, 1, width)):
        for conv, shape in (
            (first, (channels, inputs, 1, 1)),
            (first + 1, (channels, channels, 3, 3)),
        ):
            shapes[f"simfp_{stage}.{conv}.weight"] = shape
            shapes[f"simfp_{stage}.{conv}.norm.weight"] = (channels,)
            shapes[f"simfp_{stage}.{conv}.norm.bias"] = (channels,)
    return shapes


def test_names_and_shapes_of_detectron2s_vitdet():
    """Positions excepted: there ``(1, 1 + N, C)`` of the pre-training, here a map."""
    expected = {
        name.replace("net.", "vit.", 1) if name.startswith("net.") else name: shape
        for name, shape in detectron2_names(WIDTH, 16, (3, 4, 3, 4)).items()
    }
    shapes = shapes_of(SimpleFeaturePyramid(vitdet(), 16))
    assert shapes.pop("vit.pos_embed") == (1, 4, 4, WIDTH)
    assert shapes == expected


@pytest.mark.parametrize("out_blocks", [(0, 1, 2), (0, 1, 2, 2), (0, 1, 2, 4), (-1, 1, 2, 3)])
def test_outputs_must_reach_the_last_block(out_blocks):
    with pytest.raises(ValueError, match=r"out_blocks needs 4 indices in \[0, 3\]"):
        PlainViTPyramid(vit(), out_blocks)


@pytest.mark.parametrize(
    "build", [lambda v, **o: PlainViTPyramid(v, range(4), **o), SimpleFeaturePyramid]
)
def test_bad_trunks_and_blocks_are_named(build):
    with pytest.raises(ValueError, match="patch_size must be 16, got 8"):
        build(vit(patch_size=8))
    with pytest.raises(ValueError, match=r"propagation_blocks must lie in \[0, 3\], got \[1, 4\]"):
        build(vit(), propagation_blocks=(1, 4))
