"""Whole models have the parameters that were counted or printed for the official ones."""

import pytest
import timm
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from timm.models.beit import Beit

from vitadapter_d2.engine.config.loading import configs_root
from vitadapter_d2.modeling.backbone import PlainViTPyramid, plain_vit


def base(path, name):
    """A function of ``configs/common``."""
    return LazyConfig.load(str(configs_root() / "common" / path), name)


upernet = base("models/upernet.py", "upernet")
semantic_fpn = base("models/semantic_fpn.py", "semantic_fpn")
segmentation_backbone = base("models/vit_adapter.py", "segmentation_backbone")
setr_pup = base("models/setr.py", "setr_pup")
setr_blocks = {size: tuple(base("models/setr.py", f"{size}_BLOCKS")) for size in ("BASE", "LARGE")}

TIMM = {
    "tiny": "deit_tiny_patch16_224",
    "small": "deit_small_patch16_224",
    "base": "deit_base_patch16_224",
    "large": "vit_large_patch16_224",
}


def count(cfg):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in instantiate(cfg).parameters())


def vit_backbone(size, timm_name=None, image_size=224):
    backbone = segmentation_backbone(size, timm_name or TIMM[size])
    backbone.vit.model.img_size = image_size
    return backbone


def light(backbone):
    """One interaction over all blocks, without feed-forward and extra extractors."""
    backbone.interactions.spans = [(0, backbone.interactions.spans[-1][1])]
    backbone.interactions.ffn_ratio = None
    backbone.interactions.num_extra_extractors = 0
    backbone.added_stages = None
    return backbone


def beit_backbone(image_size):
    backbone = segmentation_backbone("large", TIMM["large"])
    backbone.vit.model = L(Beit)(
        img_size=image_size,
        embed_dim=1024,
        depth=24,
        num_heads=16,
        init_values=1e-6,
        use_abs_pos_emb=False,
        use_rel_pos_bias=True,
        num_classes=0,
        drop_path_rate=0.3,
    )
    return backbone


@pytest.mark.parametrize(
    ("size", "image_size", "millions"),
    [
        ("tiny", 224, 36.062428),
        ("small", 224, 57.6149),
        ("base", 224, 133.6369),
        ("base", 384, 133.9287),
        ("large", 384, 363.8021),
    ],
)
def test_upernet_on_vit(size, image_size, millions):
    model = upernet(vit_backbone(size, image_size=image_size), num_classes=150)
    assert count(model) / 1e6 == pytest.approx(millions, abs=5e-5)


def test_upernet_on_light_base():
    model = upernet(light(vit_backbone("base")), num_classes=150)
    assert count(model) / 1e6 == pytest.approx(125.5359, abs=5e-5)


@pytest.mark.parametrize(
    ("image_size", "num_classes", "millions"),
    [(640, 150, 451.9199), (512, 171, 451.0743), (640, 171, 451.9468), (480, 59, 450.7434)],
)
def test_upernet_on_beit_large(image_size, num_classes, millions):
    model = upernet(beit_backbone(image_size), num_classes=num_classes, channels=1024)
    assert count(model) / 1e6 == pytest.approx(millions, abs=5e-5)


@pytest.mark.parametrize(
    ("size", "image_size", "parameters"),
    [
        ("tiny", 224, 12_167_750),
        ("small", 224, 31_901_606),
        ("base", 224, 104_286_326),
        ("large", 384, 332_026_710),
    ],
)
def test_semantic_fpn(size, image_size, parameters):
    model = semantic_fpn(vit_backbone(size, image_size=image_size), num_classes=150)
    assert count(model) == parameters


def pyramid(backbone, depth, **options):
    """The trunk of a ViT-Adapter alone, as the official baselines use it."""
    stages = [depth * part // 4 - 1 for part in (1, 2, 3, 4)]
    return L(PlainViTPyramid)(vit=backbone.vit, out_blocks=stages, **options)


@pytest.mark.parametrize(
    ("size", "image_size", "embed_dim", "upernet_millions", "fpn_millions"),
    [
        ("tiny", 224, 192, 34.1, 10.2),
        ("small", 224, 384, 53.6, 27.8),
        ("base", 384, 768, 127.3, 98.0),
    ],
)
def test_plain_vit_baselines_as_printed(
    size, image_size, embed_dim, upernet_millions, fpn_millions
):
    backbone = pyramid(vit_backbone(size, image_size=image_size), depth=12)
    model = upernet(backbone, num_classes=150, in_channels=embed_dim)
    assert round(count(model) / 1e6, 1) == upernet_millions
    backbone = pyramid(vit_backbone(size, image_size=image_size), depth=12)
    assert round(count(semantic_fpn(backbone, num_classes=150)) / 1e6, 1) == fpn_millions


def test_upernet_on_plain_beit_large():
    backbone = pyramid(beit_backbone(512), depth=24, token_norm=False, up_norm="BN")
    model = upernet(backbone, num_classes=150, channels=1024, in_channels=1024)
    assert count(model) / 1e6 == pytest.approx(440.3986, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "embed_dim", "blocks", "millions"),
    [
        ("vit_base_patch16_224", 768, setr_blocks["BASE"], 97.64),
        ("vit_large_patch16_224", 1024, setr_blocks["LARGE"], 318.31),
    ],
)
def test_setr_pup_is_the_printed_one_without_its_unused_classifiers(
    name, embed_dim, blocks, millions
):
    vit = L(plain_vit)(
        model=L(timm.create_model)(model_name=name, pretrained=False, num_classes=0, img_size=512),
        keep_prefix_tokens=True,
    )
    model = setr_pup(vit, embed_dim, num_classes=150, out_blocks=blocks)
    # Each of the original's five heads holds a second classifier, 512 -> 150, that it never uses.
    unused = 5 * (512 * 150 + 150)
    assert (count(model) + unused) / 1e6 == pytest.approx(millions, abs=5e-3)
