"""The recipes and test protocols of the COCO configurations against the official ones.

``batch`` is over all GPUs of the published run, 16 where their number is unknown.
"""

import math
from functools import cache

import config_recipes as ours
import official_recipes
import pytest
from config_recipes import setting, target

from vitadapter_d2 import model_zoo

RECIPES = official_recipes.read("det")
TRAINED = [name for name in RECIPES if not name.endswith("_ms")]
HTC = [name for name in RECIPES if name.startswith("htc")]
IMAGES = 117_266


@cache
def config(name):
    name = name.removesuffix("_ms").replace("++", "pp").replace("-", "_")
    return model_zoo.get_config(f"coco/{name}")


@pytest.mark.parametrize("name", TRAINED)
def test_optimizer_trunk_and_adapter_are_the_official_ones(name):
    recipe, cfg = RECIPES[name], config(name)
    ours.agree(ours.training(cfg), recipe)
    ema = cfg.train.ema
    assert ema.enabled == bool(recipe["ema"])
    if recipe["ema"]:
        assert ema.decay == pytest.approx(1 - recipe["ema"])
        assert ema.evaluate == recipe["evaluates_ema"]
    if recipe["head"]:
        assert ours.mask2former_head(cfg.model) == recipe["head"]


@pytest.mark.parametrize("name", TRAINED)
def test_the_schedule_is_the_official_one(name):
    recipe, cfg = RECIPES[name], config(name)
    batch, train = cfg.dataloader.train.total_batch_size, cfg.train
    assert batch == recipe["batch"]
    epochs = recipe["epochs"]
    assert train.max_iter == (recipe["iterations"] or epochs * IMAGES // batch)
    if recipe["iterations"]:
        assert train.eval_period == recipe["evaluation"]
    else:  # the last of them is the one at the end
        evaluations = math.ceil(train.max_iter / train.eval_period)
        assert evaluations == epochs // recipe["evaluation"]
        assert (evaluations - 1) * train.eval_period < train.max_iter - IMAGES // batch // 2
    assert (train.best_metric or None) == recipe["best"]
    scheduler = cfg.lr_multiplier.scheduler
    if recipe["steps"] is None:
        assert target(scheduler) == "ByEpoch" and scheduler.epochs == epochs
        assert target(scheduler.scheduler) == "CosineParamScheduler"
        assert scheduler.scheduler.end_value == recipe["lowest_rate"]
        return
    assert list(scheduler.milestones) == recipe["steps"]
    if recipe["steps"]:
        assert scheduler.num_updates == epochs or recipe["iterations"]


@pytest.mark.parametrize("name", TRAINED)
def test_files_and_numbers_are_the_published_ones(name):
    recipe, cfg = RECIPES[name], config(name)
    assert cfg.train.init_checkpoint == (recipe["load_from"] or recipe["pretrained"])
    assert cfg.zoo.get("load_from") == recipe["load_from"]
    assert cfg.zoo.released == (recipe["released"] or "")
    assert [cfg.zoo.metrics.get(key) for key in ("box_AP", "mask_AP")] == recipe["metrics"]


@pytest.mark.parametrize("name", TRAINED)
def test_images_are_the_official_ones(name):
    recipe, cfg = RECIPES[name], config(name)
    assert list(cfg.model.pixel_mean) == recipe["mean"]
    assert list(cfg.model.pixel_std) == recipe["std"]
    mapper = cfg.dataloader.train.mapper
    boost = {key: value for key, value in mapper.get("boost", {}).items() if key != "_target_"}
    assert {key: list(v) if hasattr(v, "__len__") else v for key, v in boost.items()} == (
        recipe["instaboost"] or {}
    )
    steps = list(mapper.augmentations)
    if recipe["train_mean"] != recipe["mean"]:
        other = steps.pop()
        assert [other.mean, other.std] == [recipe["train_mean"], recipe["train_std"]]
    scale = recipe["train_scale"]
    if scale is None:
        assert list(steps[2].short_edge_length) == list(range(480, 801, 32))
        assert [list(step.crop_size) for step in steps[3:]] == [c for c in [recipe["crop"]] if c]
    elif recipe["ratio_range"]:
        assert list(steps[0].scale) == scale == list(steps[1].crop_size) == recipe["crop"]
        assert list(steps[0].ratio_range) == recipe["ratio_range"]
    elif isinstance(scale[0], list):  # a range
        assert list(steps[0].short_edge_length) == [min(size) for size in scale]
        assert steps[0].max_size == max(scale[0])
    else:
        assert [steps[0].max_size, steps[0].short_edge_length] == scale


def suppressing(model):
    """The call that has the lowest score, the overlap and the number of boxes."""
    heads = model.get("roi_heads", {})
    if "box_predictors" in heads:
        return heads.box_predictors[0]
    return heads.get("box_predictor", model)


@pytest.mark.parametrize("name", TRAINED)
def test_at_one_size_it_is_tested_as_officially(name):
    recipe, cfg = RECIPES[name], config(name)
    call, is_dense = suppressing(cfg.model), name.startswith(("atss", "gfl"))
    keys = {
        "score": "test_score_thresh",
        "overlap": "test_nms_thresh",
        "boxes": "max_detections_per_image" if is_dense else "test_topk_per_image",
    }
    official = {key: recipe[key] for key in keys if recipe[key] is not None}
    assert {key: setting(call, keys[key]) for key in official} == official
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
