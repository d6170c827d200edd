"""What the configuration files of czczup/ViT-Adapter say, in the short form that tests compare.

``python tests/official_recipes.py`` writes ``data/*_recipes.json`` anew; it needs
``VITADAPTER_REFERENCE``.
"""

import json
from functools import cache
from pathlib import Path

from official_lists import facts_folder

DATA = Path(__file__).parent / "data"
FILES = {"seg": DATA / "segmentation_recipes.json", "det": DATA / "detection_recipes.json"}
TEST_STEPS = ("SETR_Resize", "Resize", "ResizeToMultiple", "PadShortSide", "Normalize")


@cache
def read(task):
    """The committed recipes of ``"seg"`` or ``"det"``, by official name."""
    return json.loads(FILES[task].read_text())


def derive(task):
    """The same from what is known of the official files, which lies beside the cases."""
    entries = json.loads((facts_folder() / "zoo.json").read_text())["entries"]
    derived = segmentation if task == "seg" else detection
    return {entry["name"]: derived(entry) for entry in entries if entry["task"] == task}


def segmentation(entry):
    """Of the files for several scales only how they test: training is that of the others."""
    tested = semantic_test(entry)
    if entry["name"].endswith("_ms"):
        return tested
    train = entry["train_summary"]
    return {
        **training(entry),
        "iterations": entry["runner"]["max_iters"],
        "power": entry["lr_config"]["power"],
        "batch": entry["total_batch"],
        "mean": train["normalize"]["mean"],
        "std": train["normalize"]["std"],
        "train_scale": sorted(train["resize"]["img_scale"], reverse=True),
        "crop": train["random_crop"]["crop_size"][0],
        **tested,
        "head": semantic_head(entry),
    }


def semantic_test(entry):
    test = entry["test_summary"]
    steps = entry["test_pipeline"][1]["transforms"]
    return {
        "test_scale": test["img_scale"],
        "ratios": test["img_ratios"],
        "flip": test["flip"],
        "test_steps": [step["type"] for step in steps if step["type"] in TEST_STEPS],
        "window": [test["crop_size"][0], test["stride"][0]],
    }


def semantic_head(entry):
    head = entry["decode_head"]
    if head["type"] == "Mask2FormerHead":
        # The official segmentors multiply classes and masks at stride 4.
        return {**mask2former_head(head, entry["train_cfg"]), "product_before_upsampling": True}
    auxiliary = entry["auxiliary_head"]
    return {
        "classes": head["num_classes"],
        "width": head["channels"],
        "dropout": head["dropout_ratio"],
        "auxiliary_width": auxiliary["channels"],
        "auxiliary_weight": auxiliary["loss_decode"]["loss_weight"],
        # mmsegmentation's cross entropy divides by all pixels, unless it is told not to.
        "average_over_ignored": not head["loss_decode"].get("avg_non_ignore", False),
    }


def mask2former_head(head, train):
    encoder, decoder = head["pixel_decoder"]["encoder"], head["transformer_decoder"]
    layers = [stack["transformerlayers"] for stack in (encoder, decoder)]
    weights = head["loss_cls"]["class_weight"]  # long lists are shortened in the source
    costs = [train["assigner"][name]["weight"] for name in ("cls_cost", "mask_cost", "dice_cost")]
    return {
        "classes": head["num_things_classes"] + head["num_stuff_classes"],
        "queries": head["num_queries"],
        "width": head["feat_channels"],
        "mask_width": head["out_channels"],
        "heads": [layer["attn_cfgs"]["num_heads"] for layer in layers],
        "feedforward": [layer["ffn_cfgs"]["feedforward_channels"] for layer in layers],
        "layers": [encoder["num_layers"], decoder["num_layers"]],
        "attention_points": layers[0]["attn_cfgs"]["num_points"],
        "losses": [head[name]["loss_weight"] for name in ("loss_cls", "loss_mask", "loss_dice")],
        "costs": costs,
        "no_object": weights["last"] if isinstance(weights, dict) else weights[-1],
        "loss_points": [
            train[name] for name in ("num_points", "oversample_ratio", "importance_sample_ratio")
        ],
    }


def detection(entry):
    train, test = entry["train_summary"], entry["test_summary"]
    (normalize,) = [
        step for step in entry["test_pipeline"][1]["transforms"] if step["type"] == "Normalize"
    ]
    ema = [hook for hook in entry["custom_hooks"] or [] if "EMA" in hook["type"]]
    resize, boost = train["resize"] or {}, train["instaboost"]
    boosted = {key: value for key, value in (boost or {}).items() if key not in ("type", "hflag")}
    return {
        **training(entry),
        "iterations": entry["runner"].get("max_iters"),
        "epochs": entry["runner"].get("max_epochs"),
        "steps": entry["lr_config"].get("step"),
        "lowest_rate": entry["lr_config"].get("min_lr_ratio"),
        "batch": entry["total_batch"] or 16,
        "ema": ema[0]["momentum"] if ema else None,
        # Hooks swap the weights for their averages around epochs, and runs by iteration have none.
        "evaluates_ema": bool(ema) and entry["runner"]["type"] != "IterBasedRunner",
        "pretrained": entry["pretrained_url"],
        "load_from": entry["load_from_url"],
        "released": entry["released_url"],
        "metrics": [entry["published"].get(key) for key in ("box_ap", "mask_ap")],
        "mean": normalize["mean"],
        "std": normalize["std"],
        "train_mean": train["normalize"]["mean"],
        "train_std": train["normalize"]["std"],
        "train_scale": resize.get("img_scale"),
        "ratio_range": resize.get("ratio_range"),
        "crop": (train["random_crop"] or {}).get("crop_size"),
        "instaboost": boosted or None,
        "test_scale": test["img_scale"],
        "flip": test["flip"],
        **suppression(entry["test_cfg"]),
        "merge": entry["test_cfg"].get("aug"),
        "head": mask2former_head(entry["panoptic_head"], entry["train_cfg"])
        if "panoptic_head" in entry
        else None,
    }


def suppression(test):
    found = test.get("rcnn", test)
    nms = found.get("nms", {})
    return {
        "score": found.get("score_thr"),
        "overlap": nms.get("iou_threshold"),
        "nms": nms.get("type"),
        "boxes": found.get("max_per_img") or found.get("max_per_image"),
    }


def training(entry):
    """What both kinds of recipe have: optimizer, trunk, adapter, how often a run is evaluated."""
    optimizer, backbone = entry["optimizer"], entry["backbone"]
    rule, schedule = optimizer["paramwise_cfg"], entry["lr_config"]
    layers = [rule["layer_decay_rate"], rule["num_layers"]] if "num_layers" in rule else None
    return {
        "lr": optimizer["lr"],
        "weight_decay": optimizer["weight_decay"],
        "betas": optimizer.get("betas", [0.9, 0.999]),
        "layer_decay": layers,
        # Of the segmentation code's constructor; of the heads here, Mask2Former's has such names.
        "queries_first": bool(layers)
        and entry.get("decode_head", {}).get("type") == "Mask2FormerHead",
        "rules": {
            key: [factors.get("lr_mult", 1.0), factors.get("decay_mult", 1.0)]
            for key, factors in rule.get("custom_keys", {}).items()
        },
        "clip": (entry["optimizer_config"].get("grad_clip") or {}).get("max_norm"),
        "warmup": [schedule["warmup_iters"], schedule["warmup_ratio"]],
        "float16": entry["fp16"] is not None,
        # In iterations, or in epochs of the runs by epoch.
        "evaluation": entry["evaluation"].get("interval", 1),
        "best": entry["evaluation"].get("save_best"),
        "trunk": trunk(entry["task"], backbone),
        "adapter": adapter(entry["task"], backbone) if "Adapter" in backbone["type"] else None,
    }


def trunk(task, backbone):
    """Those of the segmentation code's BEiT have a class token and one bias table per crop."""
    is_beit = backbone["type"].startswith("BEiT")
    whole = task == "seg" and is_beit
    scaled = backbone.get("layer_scale", True) and not backbone["type"].startswith("Uni")
    return {
        "drop_path": backbone["drop_path_rate"],
        "checkpointing": backbone.get("with_cp", False),
        "windows": backbone.get("window_size", [None]),
        "keeps_class_token": whole,
        "table_grid": [backbone["img_size"] // backbone["patch_size"]] * 2 if whole else None,
        "layer_scale": (backbone["init_values"] if is_beit else 1.0) if scaled else None,
    }


def adapter(task, backbone):
    added = [0, 1, 2, 3] if task == "seg" or backbone.get("version") == "old" else [-1] * 4
    return {
        "channels": backbone["conv_inplane"],
        "spans": backbone["interaction_indexes"],
        "heads": backbone["deform_num_heads"],
        "points": backbone["n_points"],
        "value_ratio": backbone["deform_ratio"],
        "ffn_ratio": backbone["cffn_ratio"] if backbone["with_cffn"] else None,
        "extra_extractors": 2 if backbone.get("use_extra_extractor", True) else 0,
        "injector_init": backbone["init_values"],
        "drop_path": backbone["drop_path_rate"],
        "norm_eps": 1e-5 if backbone["type"].startswith("Uni") else 1e-6,
        "added_stages": added if backbone["add_vit_feature"] else None,
        "checkpointing": backbone["with_cp"],
    }


def write():
    for task, file in FILES.items():
        rows = (f"{json.dumps(name)}: {json.dumps(row)}" for name, row in derive(task).items())
        file.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    write()
