"""Multiply-adds against those that fvcore counts in the official models; activations."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from vitadapter_d2 import model_zoo

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import analyze_model  # noqa: E402

# Semantic FPN at 512 x 512, by part of the model.
SEMANTIC_FPN = {
    "semantic_fpn_deit_adapter_tiny_512_80k_ade20k": dict(
        total=43_038_547_968,
        vit=150_994_944 + 10_291_249_152,
        spatial_prior=6_091_833_344,
        interactions=3_812_794_368,
        up=603_979_776,
        neck=13_909_622_784,
    ),
    "semantic_fpn_deit_adapter_small_512_80k_ade20k": dict(
        total=77_343_571_968,
        vit=301_989_888 + 31_454_134_272,
        spatial_prior=6_456_737_792,
        interactions=13_533_265_920,
        up=2_415_919_104,
        neck=14_979_170_304,
    ),
    "semantic_fpn_deit_adapter_base_512_80k_ade20k": dict(
        total=183_230_496_768,
        vit=603_979_776 + 106_394_812_416,
        spatial_prior=7_186_546_688,
        interactions=34_012_299_264,
        up=9_663_676_416,
        neck=17_118_265_344,
    ),
    "semantic_fpn_augreg_adapter_large_512_80k_ade20k": dict(
        total=473_670_418_432,
        vit=805_306_368 + 361_028_911_104,
        spatial_prior=7_673_085_952,
        interactions=60_155_625_472,
        up=17_179_869_184,
        neck=18_544_328_704,
    ),
}
TINY = "ade20k/semantic_fpn_deit_adapter_tiny_512_80k_ade20k"


def build(name):
    with torch.device("meta"):
        return instantiate(model_zoo.get_config(name).model).eval()


def not_counted_here(width, depth):
    """What fvcore counts beside products: 5 per element of a LayerNorm, 2 of a BatchNorm, 1 of a
    nearest-neighbour upsampling."""
    patches, prior = 32 * 32, 64 * 64 + 32 * 32 + 16 * 16
    normed = 4 * (patches + prior) + 6 * (patches + 2 * prior)  # injectors, extractors
    stem, res3, res4, res5 = 3 * 64 * 256**2, 128 * 64**2, 256 * 32**2, 256 * 16**2
    return dict(
        vit=5 * width * 2 * depth * patches,
        spatial_prior=2 * (stem + res3 + res4 + res5),
        interactions=5 * width * normed,
        up=0,
        neck=256 * (128**2 + 64**2 + 32**2),
    )


@pytest.mark.parametrize("name", SEMANTIC_FPN)
def test_parts_differ_from_fvcore_by_norms_and_upsampling_alone(name):
    model = build(f"ade20k/{name}")
    counts = analyze_model.count_multiply_adds(model, (512, 512), depth=3)
    parts = {
        part: counts[f"backbone.bottom_up.{part}"]
        for part in ("vit", "spatial_prior", "interactions", "up")
    }
    parts["neck"] = sum(n for part, n in counts.items() if part.startswith("backbone.fpn_"))
    official = dict(SEMANTIC_FPN[name])
    assert counts.total() == pytest.approx(official.pop("total"), rel=0.01)
    vit = model.backbone.bottom_up.vit
    missing = not_counted_here(vit.embed_dim, vit.depth)
    assert {part: parts[part] + missing[part] for part in parts} == official


def test_of_a_detector_backbone_and_neck_are_counted():
    model = build("coco/mask_rcnn_deit_adapter_small_fpn_1x_coco")
    counts = analyze_model.count_multiply_adds(model, (800, 1280), depth=2)
    backbone = counts["backbone.bottom_up"]
    assert backbone == pytest.approx(228.83e9, rel=0.01)
    assert counts.total() - backbone == pytest.approx(58.51e9, rel=0.01)
    assert {part.partition(".")[0] for part in counts} == {"backbone"}


def test_attention_is_counted_once_per_pair_of_tokens():
    counts = {
        size: analyze_model.count_multiply_adds(build(TINY), (size, size), depth=3)[
            "backbone.bottom_up.vit"
        ]
        for size in (32, 64, 128)
    }
    # c1 n + c2 n^2 with n tokens; the pairs cost 2 products of 192 channels in each of 12 blocks.
    linear = (16 * counts[32] - counts[64]) // (16 * 4 - 16)
    assert counts[128] == 64 * linear + 12 * 2 * 192 * 64**2


def test_hooks_are_gone_afterwards():
    model = build(TINY)
    analyze_model.count_multiply_adds(model, (32, 32), depth=1)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_the_table_has_a_line_per_part(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["analyze_model.py", TINY, "--size", "512", "512"])
    analyze_model.main()
    assert [line.split() for line in capsys.readouterr().out.splitlines()[-3:]] == [
        ["backbone", "10.525", "34.712"],
        ["sem_seg_head", "1.643", "8.091"],
        ["total", "12.168", "42.803"],
    ]


@pytest.mark.parametrize("size", ["0", "wide"])
def test_a_wrong_size_is_refused(size, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["analyze_model.py", TINY, "--size", "512", size])
    with pytest.raises(SystemExit):
        analyze_model.main()
    assert size in capsys.readouterr().err


def shapes_model(device, name="upernet_vit_adapter_shapes"):
    with torch.device(device):
        return instantiate(model_zoo.get_config(f"shapes/{name}").model).train()


def saved(model, size=(96, 128)):
    """Of one image, on the model's own device."""
    images = torch.zeros(2, 3, *size, device=model.device)
    forward = partial(model.semantic_scores, images)
    return analyze_model.count_saved(model, forward, lambda name: name.split(".")[0]).total() // 2


def test_activations_without_allocation_are_those_of_a_run():
    as_is, recomputing = analyze_model.count_activations(shapes_model("meta"), (96, 128), depth=1)
    model = shapes_model("cpu")
    assert as_is.total() == pytest.approx(saved(model), rel=0.03)
    analyze_model.recompute_everything(model)
    assert recomputing.total() == pytest.approx(saved(model), rel=0.03)
    assert recomputing["backbone"] < 0.7 * as_is["backbone"]
    assert recomputing["sem_seg_head"] == as_is["sem_seg_head"]


def test_of_recomputed_blocks_their_inputs_are_kept():
    vit = shapes_model("meta").backbone.vit
    analyze_model.recompute_everything(vit)
    tokens, grid = vit.embed(torch.empty(1, 3, 64, 64, device="meta"))
    tokens = tokens.detach().requires_grad_()
    forward = partial(vit.run, tokens, grid, 0, vit.depth - 1)
    counts = analyze_model.count_saved(vit, forward, lambda name: name)
    assert counts.total() == vit.depth * tokens.numel() * 4


def test_activations_of_attention_grow_with_the_tokens_not_with_their_pairs():
    counts = {
        size: analyze_model.count_activations(build(TINY), (size, size), depth=3)[0]
        for size in (256, 512)
    }
    vit = "backbone.bottom_up.vit"
    assert counts[512][vit] == pytest.approx(4 * counts[256][vit], rel=0.02)


def test_a_whole_step_has_heads_and_losses(tiny_root, monkeypatch, capsys):
    options = [
        "dataloader.train.dataset.names=tiny_train_panoptic",
        "dataloader.train.total_batch_size=1",
        "dataloader.train.num_workers=0",
        "model.criterion.num_points=64",
        "train.device=cpu",
    ]
    name = "shapes/mask2former_vit_adapter_quickstart"
    monkeypatch.setattr(sys, "argv", ["analyze_model.py", name, "--step", "--opts", *options])
    analyze_model.main()
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line and line[0] not in "-/"}
    assert {"backbone", "sem_seg_head", "criterion", "total"} <= rows.keys()
    as_is, recomputing = (float(rows["total"][column]) for column in (-2, -1))
    assert 0 < recomputing < as_is


def test_activations_need_a_size(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["analyze_model.py", TINY, "--activations"])
    with pytest.raises(SystemExit):
        analyze_model.main()
    assert "--activations needs --size HEIGHT WIDTH" in capsys.readouterr().err
