"""The recipes and test protocols of the segmentation configurations against the official ones.

``data/segmentation_recipes.json`` holds what the configuration files of czczup/ViT-Adapter say, by
their names; ``batch`` is over all GPUs of the published run, null where their number is unknown.
"""

import json
from pathlib import Path

import pytest

from vitadapter_d2 import model_zoo
from vitadapter_d2.inference.semantic import PUBLISHED_RATIOS

RECIPES = json.loads((Path(__file__).parent / "data" / "segmentation_recipes.json").read_text())
CONFIGS = {name.split("/")[1]: name for name in model_zoo.names()}


def config(name):
    return model_zoo.get_config(CONFIGS[name.removesuffix("_ss").removesuffix("_ms")])


def target(rule):
    return rule._target_.rpartition(".")[2]


def trained(name):
    """The keys of a recipe that a configuration of one scale decides."""
    cfg = config(name)
    scale, crop, _, _, pad = cfg.dataloader.train.mapper.augmentations
    lr_factor = cfg.optimizer.params.get("lr_factor", {})
    schedule, mapper = cfg.lr_multiplier, cfg.dataloader.train.mapper
    assert list(scale.ratio_range) == [0.5, 2.0] and crop.single_category_max_area == 0.75
    assert list(pad.pad_value) == list(cfg.model.pixel_mean)
    assert pad.size == crop.crop_size[0] == crop.crop_size[1]
    return {
        "lr": cfg.optimizer.lr,
        "weight_decay": cfg.optimizer.weight_decay,
        "layer_decay": [lr_factor.rate, lr_factor.depth] if "rate" in lr_factor else None,
        "iterations": cfg.train.max_iter,
        "warmup": round(schedule.warmup_length * cfg.train.max_iter),
        "power": schedule.scheduler.power,
        "batch": cfg.dataloader.train.total_batch_size,
        "float16": cfg.train.amp.enabled,
        "drop_path": cfg.model.backbone.vit.model.drop_path_rate,
        "checkpointing": cfg.model.backbone.vit.recompute_blocks,
        "mean": list(cfg.model.pixel_mean),
        "std": list(cfg.model.pixel_std),
        "train_scale": sorted(scale.scale, reverse=True),
        "crop": crop.crop_size[0],
        "head": head(cfg.model),
        "classes": mapper.num_classes,
    }


def head(model):
    """Widths, and the number of queries."""
    if "pixel_decoder" not in model.sem_seg_head:
        return [model.sem_seg_head.channels, model.auxiliary_head.channels]
    decoder, predictor = model.sem_seg_head.pixel_decoder, model.sem_seg_head.predictor
    return [
        decoder.embed_dim,
        predictor.num_queries,
        decoder.feedforward_dim,
        predictor.feedforward_dim,
    ]


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if "lr" in recipe])
def test_the_recipe_is_the_official_one(name):
    official, ours = RECIPES[name], trained(name)
    if official["batch"] is None:
        del ours["batch"]
    assert ours == {key: official[key] for key in ours}


def rule_steps(rule):
    """What the official pipeline calls the steps of a rule; normalisation last but for padding."""
    if target(rule) == "ClampedToCrop":
        return ["SETR_Resize", "Normalize"]
    if target(rule) == "PaddedShortSide":
        steps = rule_steps(rule.resize)
        steps.insert(len(steps) - 1 if rule.is_padded_raw else len(steps), "PadShortSide")
        return steps
    return ["Resize", *["ResizeToMultiple"] * (rule.divisor == 32), "Normalize"]


def scale_of(rule):
    return sorted(rule.resize.scale if "resize" in rule else rule.scale)


@pytest.mark.parametrize("name", RECIPES)
def test_the_test_protocol_is_the_official_one(name):
    recipe, test = RECIPES[name], config(name).test
    assert test.mode == "slide"
    assert [test.window.crop_size, test.window.stride] == recipe["window"]
    rule = (test.ms_resize or test.resize) if name.endswith("_ms") else test.resize
    assert rule_steps(rule) == recipe["test_steps"]
    assert scale_of(rule) == sorted(recipe["test_scale"])
    assert rule.get("crop_size", test.window.crop_size) == test.window.crop_size
    if recipe["ratios"]:
        assert list(test.ms_ratios) == pytest.approx(recipe["ratios"])
    else:
        assert test.get("flip", False) == recipe["flip"]


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in RECIPES
        if f"{name.removesuffix('_ss').removesuffix('_ms')}_ms" not in RECIPES
    ],
)
def test_the_official_script_sets_the_ratios_where_no_file_does(name):
    test = config(name).test
    assert tuple(test.ms_ratios) == PUBLISHED_RATIOS
    assert test.ms_resize is None
