"""Original pre-trained files give the networks that they hold."""

import copy

import pytest
import torch
from detectron2.config import instantiate
from original_files import ORIGINALS, SIZE, Original, randomized
from timm.models import beit, eva, vision_transformer
from timm.models.vision_transformer import VisionTransformer

from vitadapter_d2.checkpoint.conversion import convert_checkpoint, detect_kind
from vitadapter_d2.checkpoint.reading import read_checkpoint
from vitadapter_d2.layers.relative_table import resize_relative_table
from vitadapter_d2.layers.resample import resize_patch_kernel, resize_position_embedding
from vitadapter_d2.modeling.backbone import plain_vit, with_lora

TIMM_LOADERS = {
    "timm": vision_transformer,
    "clip": vision_transformer,
    "mae": vision_transformer,
    "deit3": vision_transformer,
    "beit": beit,
    "dinov2": vision_transformer,
    "dinov3": eva,
    "dinov3_gated": eva,
}


def run_trunk(trunk, image):
    tokens, grid = trunk.embed(image)
    return trunk.run(tokens, grid, 0, trunk.depth - 1)[:, trunk.num_prefix_tokens :]


def run_timm(model, image):
    maps = model.forward_intermediates(image, indices=1, norm=False, intermediates_only=True)
    return maps[0].flatten(2).transpose(1, 2)


def loaded(original: Original, path, **options):
    """A trunk of other weights that has taken those of a file, and the report."""
    trunk = plain_vit(randomized(instantiate(original.model)), **{**original.options, **options})
    state_dict = read_checkpoint(str(path))
    assert detect_kind(state_dict) == original.kind
    conversion = convert_checkpoint(state_dict, trunk)
    trunk.load_state_dict(conversion.state_dict)
    return trunk.eval(), conversion.report


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_trunk_computes_what_the_original_model_does(name, tmp_path):
    original = ORIGINALS[name]
    model = original.build()
    if name == "beit_shared":  # one table for all blocks
        for block in model.blocks:
            block.attn.relative_position_bias_table = model.blocks[
                0
            ].attn.relative_position_bias_table
    trunk, report = loaded(original, original.write(model, tmp_path))
    image = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        expected = (
            run_trunk(plain_vit(model), image) if name == "uniperceiver" else run_timm(model, image)
        )
        torch.testing.assert_close(run_trunk(trunk, image), expected, atol=1e-5, rtol=1e-5)
    assert report.is_complete and report.is_trained and not report.fresh


@pytest.mark.parametrize("name", TIMM_LOADERS)
def test_the_original_files_here_are_what_timm_reads(name, tmp_path):
    original = ORIGINALS[name]
    model = original.build()
    content = torch.load(original.write(model, tmp_path), weights_only=True)
    other = randomized(instantiate(original.model))
    options = {"adapt_layer_scale": True} if name == "deit3" else {}
    renamed = TIMM_LOADERS[name].checkpoint_filter_fn(content, other, **options)
    other.load_state_dict(renamed, strict=False)
    image = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(run_timm(other, image), run_timm(model, image))


def test_the_npz_here_is_what_timm_reads(tmp_path):
    original = ORIGINALS["augreg"]
    model, other = original.build(), original.build()
    other.load_pretrained(str(original.write(model, tmp_path)))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(other.get_parameter(name), parameter)


def vit(**changes):
    return VisionTransformer(**{"img_size": 128, "num_classes": 0, **SIZE, **changes})


def convert(model, trunk):
    return convert_checkpoint(model.state_dict(), trunk)


def test_other_grids_and_patches_are_resized_by_the_official_rules():
    model = randomized(vit(img_size=112, patch_size=14))
    trunk = plain_vit(vit(img_size=192, patch_size=14), patch_size=16)
    conversion = convert(model, trunk)
    state = conversion.state_dict
    positions = resize_position_embedding(model.pos_embed[:, 1:], (8, 8), (13, 13))
    torch.testing.assert_close(state["pos_embed"][:, 1:], positions)
    torch.testing.assert_close(state["pos_embed"][:, :1], model.pos_embed[:, :1])
    kernel = resize_patch_kernel(model.patch_embed.proj.weight, (16, 16))
    torch.testing.assert_close(state["patch_embed.proj.weight"], kernel)
    assert conversion.report.resized == {
        "pos_embed": "(1, 65, 64) -> (1, 170, 64), grid 8x8 -> 13x13, bicubic",
        "patch_embed.proj.weight": "(64, 3, 14, 14) -> (64, 3, 16, 16), bilinear",
    }


@pytest.mark.parametrize("stored, kept", [(False, True), (True, False)])
def test_slots_of_prefix_tokens_that_are_never_read_come_and_go(stored, kept):
    model = randomized(vit(no_embed_class=not stored))
    trunk = plain_vit(vit(no_embed_class=not kept))
    state = convert(model, trunk).state_dict
    patches = model.pos_embed[:, 1:] if stored else model.pos_embed
    torch.testing.assert_close(state["pos_embed"][:, int(kept) :], patches)


def test_a_missing_layer_scale_computes_nothing():
    model = randomized(vit())
    trunk = plain_vit(vit(init_values=1e-5), keep_prefix_tokens=True).eval()
    conversion = convert(model, trunk)
    trunk.load_state_dict(conversion.state_dict)
    image = torch.randn(1, 3, 128, 128)
    torch.testing.assert_close(run_trunk(trunk, image), run_timm(model, image))
    assert len(conversion.report.given) == 8 and conversion.report.is_trained


def test_a_layer_scale_without_a_place_is_refused():
    with pytest.raises(ValueError, match=r"8 not known to the model \(blocks.0.ls1.gamma"):
        convert(randomized(vit(init_values=0.1)), plain_vit(vit()))


@pytest.mark.parametrize("window", [None, 14])
def test_tables_of_beit_are_resized_to_grid_and_window(window):
    model = ORIGINALS["beit"].build()
    small = beit.Beit(img_size=224, use_rel_pos_bias=True, init_values=0.1, num_classes=0, **SIZE)
    trunk = plain_vit(small, window_sizes=(window,), keep_prefix_tokens=window is None)
    conversion = convert(model, trunk)
    name = "blocks.1.attn.relative_position_bias_table"
    expected = resize_relative_table(model.state_dict()[name], 27)
    expected = expected if window is None else expected[:-3]
    torch.testing.assert_close(conversion.state_dict[name], expected)
    assert conversion.report.resized[name].startswith(f"(228, 4) -> ({len(expected)}, 4)")
    assert ("cls_token" in conversion.report.unused) == (window is not None)


@pytest.mark.parametrize("options", [{"table_grid": (14, 14)}, {"window_sizes": (14, None)}])
def test_weights_of_a_timm_beit_are_resized_as_those_of_a_file(options):
    model = ORIGINALS["beit"].build()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = {"keep_prefix_tokens": "table_grid" in options, **options}
    trunk, other = (plain_vit(one, **options) for one in (model, ORIGINALS["beit"].build()))
    for name, tensor in convert_checkpoint(state, other).state_dict.items():
        torch.testing.assert_close(tensor, trunk.state_dict()[name])


def test_biases_of_dinov3_need_a_place_only_if_they_are_not_zero(tmp_path):
    original = ORIGINALS["dinov3"]
    model = original.build()
    without_bias = copy.deepcopy(original.model)
    without_bias.qkv_bias = False
    plain = plain_vit(instantiate(without_bias))
    with pytest.raises(ValueError, match="4 not known to the model .blocks.0.attn.qkv.bias"):
        convert_checkpoint(original.save(model.state_dict()), plain)
    for block in model.blocks:
        torch.nn.init.zeros_(block.attn.q_bias)
        torch.nn.init.zeros_(block.attn.v_bias)
    report = convert_checkpoint(original.save(model.state_dict()), plain).report
    assert "zero" in report.unused["blocks.0.attn.qkv.bias"]


def test_training_files_of_dino_hold_a_teacher_in_chunks(tmp_path):
    model = randomized(vit(init_values=0.1))
    chunked = {
        f"backbone.{name.replace('blocks.', 'blocks.0.', 1)}": tensor
        for name, tensor in {**model.state_dict(), "mask_token": torch.ones(1, 64)}.items()
    }
    heads = {"dino_head.mlp.0.weight": torch.ones(2)}
    torch.save({"teacher": chunked | heads}, tmp_path / "teacher.pth")
    trunk = plain_vit(vit(init_values=0.1))
    conversion = convert_checkpoint(read_checkpoint(str(tmp_path / "teacher.pth")), trunk)
    assert conversion.report.kind == "dinov2"
    for name, tensor in conversion.state_dict.items():
        torch.testing.assert_close(tensor, model.state_dict()[name])


def test_updates_of_low_rank_are_new():
    model = randomized(vit())
    trunk = with_lora(plain_vit(vit()), rank=2, targets=("qkv",))
    conversion = convert(model, trunk)
    assert {name.rpartition(".")[2] for name in conversion.report.fresh} == {"lora_a", "lora_b"}
    name = "blocks.1.attn.qkv.weight"
    assert torch.equal(conversion.state_dict[name], model.state_dict()[name])


def test_positions_and_tables_that_are_not_square_are_refused():
    oblong = randomized(vit(img_size=(96, 160)))
    with pytest.raises(ValueError, match=r"pos_embed, \(1, 61, 64\) in the file"):
        convert(oblong, plain_vit(vit()))
    options = dict(init_values=0.1, use_rel_pos_bias=True, use_abs_pos_emb=False, num_classes=0)
    models = [beit.Beit(img_size=size, **options, **SIZE) for size in ((64, 160), 128)]
    trunk = plain_vit(models[1], window_sizes=(5,), keep_prefix_tokens=False)
    with pytest.raises(ValueError, match=r"bias_table, \(136, 4\) in the file, \(81, 4\) in the m"):
        convert(models[0], trunk)
