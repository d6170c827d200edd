"""The recipes and test protocols of the segmentation configurations against the official ones.

``batch`` is over all GPUs of the published run, null where their number is unknown.
"""

from functools import cache

import config_recipes as ours
import official_recipes
import pytest
from config_recipes import setting, target

from vitadapter_d2 import model_zoo
from vitadapter_d2.inference.semantic import PUBLISHED_RATIOS

RECIPES = official_recipes.read("seg")
CONFIGS = {name.split("/")[1]: name for name in model_zoo.names()}


@cache
def config(name):
    return model_zoo.get_config(CONFIGS[name.removesuffix("_ss").removesuffix("_ms")])


@pytest.mark.weights
@pytest.mark.parametrize("task", ["seg", "det"])
def test_the_recipes_are_what_the_official_files_say(task):
    if official_recipes.facts_folder() is None:
        pytest.skip("what the files say: set VITADAPTER_REFERENCE to the folder of cases")
    assert official_recipes.derive(task) == official_recipes.read(task)


def trained(name):
    """The keys of a recipe that a configuration of one scale decides."""
    cfg = config(name)
    scale, crop, _, _, pad = cfg.dataloader.train.mapper.augmentations
    assert list(scale.ratio_range) == [0.5, 2.0] and crop.single_category_max_area == 0.75
    assert list(pad.pad_value) == list(cfg.model.pixel_mean)
    assert pad.size == crop.crop_size[0] == crop.crop_size[1]
    train, found = cfg.train, head(cfg.model)
    assert cfg.dataloader.train.mapper.num_classes == found["classes"]
    return {
        **ours.training(cfg),
        "iterations": train.max_iter,
        "power": cfg.lr_multiplier.scheduler.power,
        "evaluation": train.eval_period,
        "best": train.best_metric.removeprefix("sem_seg/"),
        "batch": cfg.dataloader.train.total_batch_size,
        "mean": list(cfg.model.pixel_mean),
        "std": list(cfg.model.pixel_std),
        "train_scale": sorted(scale.scale, reverse=True),
        "crop": crop.crop_size[0],
        "head": found,
    }


def head(model):
    if "criterion" in model:
        first = setting(model, "sem_seg_product_before_upsampling")
        return {**ours.mask2former_head(model), "product_before_upsampling": first}
    decoder, auxiliary = model.sem_seg_head, model.auxiliary_head
    assert auxiliary.num_classes == decoder.num_classes
    assert auxiliary.dropout == decoder.dropout
    return {
        "classes": decoder.num_classes,
        "width": decoder.channels,
        "dropout": decoder.dropout,
        "auxiliary_width": auxiliary.channels,
        "auxiliary_weight": auxiliary.loss_weight,
        "average_over_ignored": model.average_over_ignored,
    }


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if "lr" in recipe])
def test_the_recipe_is_the_official_one(name):
    found = trained(name)
    if RECIPES[name]["batch"] is None:
        del found["batch"]
    ours.agree(found, RECIPES[name])


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
