"""The recipes of detectors beyond Mask R-CNN and Cascade, and of the panoptic model.

``data/detection_recipes.json`` holds what the configuration files of czczup/ViT-Adapter say, by
their names; ``batch`` is over all GPUs of the published run, 16 where their number is unknown.
"""

import json
from pathlib import Path

import pytest

from vitadapter_d2 import model_zoo

RECIPES = json.loads((Path(__file__).parent / "data" / "detection_recipes.json").read_text())
TRAINED = [name for name in RECIPES if not name.endswith("_ms")]
HTC = [name for name in RECIPES if name.startswith("htc")]
IMAGES = 117_266


def config(name):
    ours = name.removesuffix("_ms").replace("++", "pp").replace("-", "_")
    return model_zoo.get_config(f"coco/{ours}")


def target(call):
    """Calls in lists have the object, others its name."""
    name = getattr(call._target_, "__name__", call._target_)
    return name.rpartition(".")[2]


@pytest.mark.parametrize("name", TRAINED)
def test_the_optimizer_is_the_official_one(name):
    recipe, cfg = RECIPES[name], config(name)
    optimizer, params = cfg.optimizer, cfg.optimizer.params
    assert (optimizer.lr, optimizer.weight_decay) == (recipe["lr"], recipe["weight_decay"])
    if recipe["layer_decay"]:
        assert [params.lr_factor.rate, params.lr_factor.depth] == recipe["layer_decay"]
        assert target(params.decay_factor) == "ExemptVectors"
    else:
        assert target(params.decay_factor) == "DecayByKey"
        rates = {key: rule["lr_mult"] for key, rule in recipe["rules"].items() if "lr_mult" in rule}
        assert sorted(rates.values()) == [
            factor
            for factor in params.get("lr_factor", {}).get("factors", {}).values()
            if factor < 1
        ]
    train = cfg.train
    assert train.clip_grad_norm == recipe["clip"]
    assert train.amp.enabled == recipe["float16"]
    assert train.ema.enabled == bool(recipe["ema"])
    if recipe["ema"]:
        assert train.ema.decay == pytest.approx(1 - recipe["ema"])


@pytest.mark.parametrize("name", TRAINED)
def test_the_schedule_is_the_official_one(name):
    recipe, cfg = RECIPES[name], config(name)
    batch = cfg.dataloader.train.total_batch_size
    assert batch == recipe["batch"]
    epochs = recipe["epochs"]
    assert cfg.train.max_iter == (recipe["iterations"] or epochs * IMAGES // batch)
    multiplier = cfg.lr_multiplier
    assert round(multiplier.warmup_length * cfg.train.max_iter) == recipe["warmup"]
    assert list(multiplier.scheduler.milestones) == recipe["steps"]
    if recipe["steps"]:
        assert multiplier.scheduler.num_updates == epochs or recipe["iterations"]


@pytest.mark.parametrize("name", TRAINED)
def test_trunk_weights_and_images_are_the_official_ones(name):
    recipe, cfg = RECIPES[name], config(name)
    trunk = cfg.model.backbone.get("bottom_up", cfg.model.backbone).vit
    assert trunk.model.drop_path_rate == recipe["drop_path"]
    assert trunk.get("recompute_blocks", False) == recipe["checkpointing"]
    assert cfg.train.init_checkpoint == (recipe["load_from"] or recipe["pretrained"])
    assert cfg.zoo.get("load_from") == recipe["load_from"]
    assert cfg.zoo.released == (recipe["released"] or "")
    assert list(cfg.model.pixel_mean) == recipe["mean"]
    assert list(cfg.model.pixel_std) == recipe["std"]
    mapper = cfg.dataloader.train.mapper
    boost = {key: value for key, value in mapper.get("boost", {}).items() if key != "_target_"}
    assert {key: list(v) if hasattr(v, "__len__") else v for key, v in boost.items()} == (
        recipe["instaboost"] or {}
    )
    steps = list(mapper.augmentations)
    if recipe["train_scale"]:
        (shortest, longest), resize = recipe["train_scale"], steps[0]
        assert [min(shortest), min(longest)] == list(resize.short_edge_length)
        assert resize.max_size == max(longest)
    else:
        assert list(steps[2].short_edge_length) == list(range(480, 801, 32))
        assert [list(step.crop_size) for step in steps[3:]] == [c for c in [recipe["crop"]] if c]


def suppression_of(model):
    """Lowest score, overlap and number of boxes; None where the model has no such setting."""
    heads = model.get("roi_heads", {})
    where = heads["box_predictors"][0] if "box_predictors" in heads else model
    keys = ("test_score_thresh", "test_nms_thresh", "test_topk_per_image")
    return [where.get(key) for key in keys]


@pytest.mark.parametrize("name", TRAINED)
def test_at_one_size_it_is_tested_as_officially(name):
    recipe, cfg = RECIPES[name], config(name)
    score, overlap, boxes = suppression_of(cfg.model)
    assert (score, overlap) == (recipe["score"], recipe["overlap"])
    assert (boxes or 100) == recipe["boxes"]
    is_soft = name in HTC
    assert (recipe["nms"] == "soft_nms") == is_soft
    if is_soft:
        predictor = cfg.model.roi_heads.box_predictors[0]
        assert target(predictor) == "SoftNMSOutputLayers"
        assert cfg.test.mode == "whole" and list(cfg.test.scale) == recipe["test_scale"]
        assert not cfg.dataloader.test.mapper.augmentations
    else:
        (resize,) = cfg.dataloader.test.mapper.augmentations
        assert [resize.max_size, resize.short_edge_length] == recipe["test_scale"]
        assert "test" not in cfg or (cfg.test.mode, cfg.test.scale) == ("whole", None)


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("_ms")])
def test_at_many_sizes_it_is_tested_as_officially(name):
    recipe, test = RECIPES[name], config(name).test
    merge = recipe["merge"]
    assert [sorted(view.scale) for view in test.ms_views] == [
        sorted(scale) for scale in recipe["test_scale"]
    ]
    assert [sorted(view.areas) for view in test.ms_views] == [
        sorted(names) for names in merge["scale_ranges"]
    ]
    assert recipe["flip"] and test.get("ms_flip", True)
    assert target(test.ms_merge) == "SoftNMS"
    assert test.ms_merge.iou_threshold == merge["nms"]["iou_threshold"]
    assert test.ms_merge.min_score == merge["score_thr"]
    assert test.ms_max_boxes == merge["max_per_img"]


@pytest.mark.parametrize(
    "name", [name for name in model_zoo.names() if name.startswith(("coco/", "lvis/"))]
)
def test_every_evaluation_leaves_pictures(name):
    written = [
        evaluator
        for evaluator in model_zoo.get_config(name).dataloader.evaluator
        if target(evaluator) == "PictureWriter"
    ]
    assert len(written) == 1
