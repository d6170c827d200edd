import pytest
import torch
import torch.nn.functional as F
from key_lists import official_keys, shapes_of, state_dict_of
from torch import nn

from vitadapter_d2.checkpoint.rename import rename_keys, without
from vitadapter_d2.checkpoint.uniperceiver import (
    PRETRAINED_DROPPED,
    PRETRAINED_RULES,
    UNIPERCEIVER_RULES,
)
from vitadapter_d2.checkpoint.vit_adapter import convert_backbone
from vitadapter_d2.modeling.backbone import (
    SpatialPriorModule,
    UniPerceiver,
    ViTAdapter,
    interaction_blocks,
    plain_vit,
)

WIDTH, HEADS, DEPTH, GRID = 24, 3, 4, (4, 4)


def tiny(init_values=0.0, **options):
    return UniPerceiver(WIDTH, DEPTH, HEADS, pretrain_grid=GRID, init_values=init_values, **options)


def official_weights():
    """Random weights under the official names; so small that an eps of 1e-6 shows."""
    shapes = {
        "visual_embed.patch_embed.proj.weight": (WIDTH, 3, 16, 16),
        "visual_embed.patch_embed.proj.bias": (WIDTH,),
        "visual_embed.patch_embed.spatial_pos_embed.weight": (GRID[0] * GRID[1], WIDTH),
        "visual_embed.patch_embed.temporal_pos_embed.weight": (8, WIDTH),
        "visual_embed.embeddings_norm.weight": (WIDTH,),
        "visual_embed.embeddings_norm.bias": (WIDTH,),
    }
    for index in range(DEPTH):
        layer = {
            "gamma_1": (WIDTH,),
            "gamma_2": (WIDTH,),
            "self_attn.in_proj.weight": (3 * WIDTH, WIDTH),
            "self_attn.in_proj.bias": (3 * WIDTH,),
            "self_attn.out_proj.weight": (WIDTH, WIDTH),
            "self_attn.out_proj.bias": (WIDTH,),
            "linear1.weight": (4 * WIDTH, WIDTH),
            "linear1.bias": (4 * WIDTH,),
            "linear2.weight": (WIDTH, 4 * WIDTH),
            "linear2.bias": (WIDTH,),
            "norm1.weight": (WIDTH,),
            "norm1.bias": (WIDTH,),
            "norm2.weight": (WIDTH,),
            "norm2.bias": (WIDTH,),
        }
        shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    weights = {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    for name in weights:
        if "visual_embed" in name:
            weights[name] *= 0.01
    return weights


def attend(layer, tokens):
    """Softmax written out, one head after the other."""
    query, key, value = (
        tokens @ layer["self_attn.in_proj.weight"].T + layer["self_attn.in_proj.bias"]
    ).chunk(3, dim=-1)
    size = WIDTH // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        logits = query[..., part] @ key[..., part].mT / size**0.5
        heads.append(logits.softmax(-1) @ value[..., part])
    return torch.cat(heads, dim=-1)


def attend_in_windows(layer, tokens, grid, window):
    """Each window is a batch of its own; cells outside the image are zeros before in_proj."""
    height, width = grid
    image = tokens.unflatten(1, grid)
    output = torch.zeros_like(image)
    for top in range(0, height, window):
        for left in range(0, width, window):
            bottom, right = min(top + window, height), min(left + window, width)
            cells = torch.zeros(len(tokens), window, window, WIDTH)
            cells[:, : bottom - top, : right - left] = image[:, top:bottom, left:right]
            mixed = attend(layer, cells.flatten(1, 2)).unflatten(1, (window, window))
            output[:, top:bottom, left:right] = mixed[:, : bottom - top, : right - left]
    return output.flatten(1, 2)


def official_layers(weights, image, windows):
    """What the official trunk computes, as far as its behaviour is recorded: after every layer."""

    def norm(tokens, scope, name):
        return F.layer_norm(tokens, (WIDTH,), scope[f"{name}.weight"], scope[f"{name}.bias"], 1e-5)

    embed = {
        name.removeprefix("visual_embed."): value
        for name, value in weights.items()
        if name.startswith("visual_embed.")
    }
    patches = F.conv2d(
        image, embed["patch_embed.proj.weight"], embed["patch_embed.proj.bias"], stride=16
    )
    grid = (image.shape[2] // 16, image.shape[3] // 16)
    table = embed["patch_embed.spatial_pos_embed.weight"].T.reshape(1, WIDTH, *GRID)
    spatial = F.interpolate(table, size=grid, mode="bicubic", align_corners=False)
    temporal = embed["patch_embed.temporal_pos_embed.weight"][0][None, :, None, None]
    tokens = (patches + spatial + temporal).flatten(2).mT
    tokens = norm(tokens, embed, "embeddings_norm")
    for index, window in enumerate(windows):
        prefix = f"layers.{index}."
        layer = {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}
        normed = norm(tokens, layer, "norm1")
        mixed = (
            attend(layer, normed)
            if window is None
            else attend_in_windows(layer, normed, grid, window)
        )
        mixed = mixed @ layer["self_attn.out_proj.weight"].T + layer["self_attn.out_proj.bias"]
        tokens = tokens + layer["gamma_1"] * mixed
        hidden = F.gelu(
            F.linear(norm(tokens, layer, "norm2"), layer["linear1.weight"], layer["linear1.bias"])
        )
        tokens = tokens + layer["gamma_2"] * F.linear(
            hidden, layer["linear2.weight"], layer["linear2.bias"]
        )
        yield tokens


@pytest.mark.parametrize("windows", [(None,) * 4, (3, 3, 3, None)])
@pytest.mark.parametrize("size", [(64, 64), (80, 112), (32, 48)])
def test_equals_the_plain_formulation(windows, size):
    weights = official_weights()
    trunk = plain_vit(tiny(), window_sizes=windows).eval()
    trunk.load_state_dict(
        {
            name.removeprefix("vit."): value
            for name, value in rename_keys(weights, UNIPERCEIVER_RULES).items()
        }
    )
    image = torch.randn(2, 3, *size)
    tokens, grid = trunk.embed(image)
    assert grid == (size[0] // 16, size[1] // 16)
    for index, expected in enumerate(official_layers(weights, image, windows)):
        tokens = trunk.run(tokens, grid, index, index)
        torch.testing.assert_close(tokens, expected)


def adapter(trunk):
    return ViTAdapter(
        trunk,
        SpatialPriorModule(WIDTH, channels=8),
        interaction_blocks(
            WIDTH, [(i, i) for i in range(DEPTH)], num_heads=HEADS, injector_init=0.1
        ),
    )


@pytest.mark.parametrize("windows", [(None,), (3, None)])
@pytest.mark.parametrize("recompute", [False, True])
def test_any_size_and_every_gradient(windows, recompute):
    trunk = plain_vit(tiny(0.1), window_sizes=windows, recompute_blocks=recompute)
    model = adapter(trunk).train()
    outputs = model(torch.randn(2, 3, 70, 130))
    assert outputs["res4"].shape == (2, WIDTH, 5, 9)
    sum(output.square().sum() for output in outputs.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    # All that matters is reached, not only connected: the first temporal position alone counts.
    assert trunk.temporal_pos_embed.grad[0].abs().sum() > 0
    assert trunk.temporal_pos_embed.grad[1:].abs().sum() == 0
    assert all(p.grad.abs().sum() > 0 for p in trunk.blocks.parameters() if p.ndim == 2)


def meta_adapter(width, depth, heads, windows):
    """As in the official configurations."""
    length = depth // 4
    with torch.device("meta"):
        return ViTAdapter(
            plain_vit(UniPerceiver(width, depth, heads), window_sizes=windows),
            SpatialPriorModule(width),
            interaction_blocks(
                width,
                [(start, start + length - 1) for start in range(0, depth, length)],
                num_heads=heads,
                deform_ratio=0.5,
                norm_eps=1e-5,
            ),
        )


def check_keys(model, keys):
    converted = convert_backbone(state_dict_of(keys))
    assert {key: tuple(tensor.shape) for key, tensor in converted.items()} == shapes_of(model)


def test_names_and_shapes_of_the_base_model():
    model = meta_adapter(768, 12, 12, (14, 14, None))
    check_keys(model, official_keys("det__mask_rcnn_uniperceiver_adapter_base_fpn_3x_coco"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 99_502_304
    # The family's own, in the interactions too.
    assert {norm.eps for norm in model.modules() if isinstance(norm, nn.LayerNorm)} == {1e-5}


@pytest.mark.weights
@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("det__htc++_uniperceiver_adapter_large_fpn_3x_coco", (14,) * 5 + (None,)),
        ("seg__upernet_uniperceiver_adapter_large_512_160k_ade20k", (None,)),
    ],
)
def test_names_and_shapes_of_the_large_models(name, windows):
    check_keys(meta_adapter(1024, 24, 16, windows), official_keys(name))


def test_raw_pretrained_names_become_official():
    official = official_weights()
    raw = {}
    for name, value in official.items():
        name = name.replace("visual_embed.patch_embed.proj.", "video_embed.embeddings.")
        name = name.replace("visual_embed.patch_embed.", "video_embed.embeddings_st_pos.")
        name = name.replace("visual_embed.", "video_embed.")
        name = name.replace("in_proj.", "in_proj_")
        raw[f"fused_encoder.{name}" if name.startswith("layers.") else name] = value
    raw["token_embed.embeddings.weight"] = torch.zeros(2, WIDTH)
    raw["loss_prepare.temperature"] = torch.zeros(1)
    assert "fused_encoder.layers.0.self_attn.in_proj_weight" in raw
    assert "video_embed.embeddings_st_pos.spatial_pos_embed.weight" in raw
    converted = rename_keys(without(raw, PRETRAINED_DROPPED), PRETRAINED_RULES)
    assert converted.keys() == official.keys()
    assert all(converted[name] is value for name, value in official.items())


def test_layer_scale_starts_where_it_is_told():
    for value in (0.0, 0.1):
        trunk = plain_vit(tiny(value))
        gammas = [p for name, p in trunk.named_parameters() if name.endswith("gamma")]
        assert len(gammas) == 2 * DEPTH and all((gamma == value).all() for gamma in gammas)
    trunk = plain_vit(tiny(0.0))
    tokens, grid = trunk.embed(torch.randn(1, 3, 32, 32))
    torch.testing.assert_close(trunk.run(tokens, grid, 0, DEPTH - 1), tokens)
    without_scale = plain_vit(tiny(None))
    assert not [name for name, _ in without_scale.named_parameters() if name.endswith("gamma")]


def test_drop_path_grows_over_the_blocks():
    rates = [
        getattr(block.drop_path1, "drop_prob", 0.0)
        for block in plain_vit(tiny(drop_path_rate=0.3)).blocks
    ]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_another_patch_size_resizes_the_projection():
    model = UniPerceiver(WIDTH, 1, HEADS, pretrain_grid=GRID, patch_size=8)
    nn.init.ones_(model.patch_embed["proj"].weight)
    trunk = plain_vit(model)
    assert trunk.patch_embed["proj"].weight.shape == (WIDTH, 3, 16, 16)
    assert trunk.embed(torch.randn(1, 3, 64, 32))[1] == (4, 2)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="num_heads 5 must divide embed_dim 24"):
        UniPerceiver(24, 1, 5)
