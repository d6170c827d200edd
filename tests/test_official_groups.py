"""Whole published models against the official ones' names: they fit, and learn at their rates."""

import official_recipes
import pytest
import torch
from detectron2.config import instantiate
from official_lists import key_lists, state_dict_of

from vitadapter_d2 import model_zoo
from vitadapter_d2.checkpoint.official import convert_official

CONFIGS = {name.split("/")[1]: name for name in model_zoo.names()}
FIRST = ("cls_token", "mask_token", "pos_embed", "visual_embed", "patch_embed")
QUERIES = ("mask_embed", "cls_embed", "level_embed", "query_embed", "query_feat")


def rule_by_depth(recipe):
    """The official constructor: layers by name, everything of one dimension without decay."""
    rate, depth = recipe["layer_decay"]
    first = tuple(f"backbone.{name}" for name in FIRST)
    if recipe["queries_first"]:
        first += tuple(f"decode_head.{name}" for name in QUERIES)

    def factors(name, shape):
        layer = depth + 1
        if name.startswith(first):
            layer = 0
        elif name.startswith(("backbone.blocks.", "backbone.layers.")):
            layer = int(name.split(".")[2]) + 1
        return rate ** (depth + 1 - layer), float(len(shape) > 1 or not shape)

    return factors


def rule_by_key(recipe):
    """mmcv's constructor: of the keys in a name the longest decides, then the first by alphabet."""
    keys = sorted(sorted(recipe["rules"]), key=len, reverse=True)

    def factors(name, shape):
        return next((recipe["rules"][key] for key in keys if key in name), (1.0, 1.0))

    return factors


def differing():
    """One list of each that are alike in names and in what the rule is given."""
    chosen = {}
    for name, official in key_lists().items():
        task, _, official_name = name.partition("__")
        recipe = official_recipes.read(task)[official_name]
        if "lr" in recipe:
            rule = (recipe["layer_decay"], recipe["queries_first"], recipe["rules"])
            chosen.setdefault((frozenset(official["keys"]), repr(rule)), name)
    return list(chosen.values())


@pytest.mark.parametrize("name", differing())
def test_every_parameter_has_the_official_rate_and_decay(name):
    task, _, official_name = name.partition("__")
    recipe = official_recipes.read(task)[official_name]
    official = state_dict_of(key_lists()[name]["keys"])
    names = {id(tensor): key for key, tensor in official.items()}
    converted = convert_official(dict(official))
    name = official_name.removesuffix("_ss").replace("++", "pp").replace("-", "_")
    cfg = model_zoo.get_config(CONFIGS[name])
    with torch.device("meta"):
        model = instantiate(cfg.model)
    held = model.state_dict()
    held.pop("criterion.empty_weight", None)
    assert {key: tensor.shape for key, tensor in converted.items()} == {
        key: tensor.shape for key, tensor in held.items()
    }
    cfg.optimizer.params.model = model
    ours = {
        id(parameter): (group["lr"] / recipe["lr"], group["weight_decay"] / recipe["weight_decay"])
        for group in instantiate(cfg.optimizer).param_groups
        for parameter in group["params"]
    }
    rule = rule_by_depth(recipe) if recipe["layer_decay"] else rule_by_key(recipe)
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            official_key = names[id(converted[key])]
            expected = rule(official_key, official[official_key].shape)
            assert ours[id(parameter)] == pytest.approx(expected), official_key
