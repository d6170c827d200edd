"""What our configurations say, in the form of ``official_recipes.py``."""

import inspect

from detectron2.utils.registry import locate

from vitadapter_d2.solver import MASK2FORMER_FIRST_LAYER

OUR_NAMES = {"rpn_head": "init_proposal"}  # official custom keys that name a part of the model


def target(call):
    """Calls in lists have the object, others its name."""
    name = getattr(call._target_, "__name__", call._target_)
    return name.rpartition(".")[2]


def setting(call, name):
    """What a call is given, or the default of what it calls; classes may leave it to a base."""
    if name in call:
        return call[name]
    called = call._target_
    called = locate(called) if isinstance(called, str) else called
    signatures = map(inspect.signature, getattr(called, "__mro__", [called]))
    return next(known.parameters[name].default for known in signatures if name in known.parameters)


def training(cfg):
    optimizer, train, schedule = cfg.optimizer, cfg.train, cfg.lr_multiplier
    params = optimizer.params
    factor, decay = params.get("lr_factor", {}), params.decay_factor
    by_depth = target(decay) == "ExemptVectors"
    backbone = cfg.model.backbone.get("bottom_up", cfg.model.backbone)
    return {
        "lr": optimizer.lr,
        "weight_decay": optimizer.weight_decay,
        "betas": list(optimizer.betas),
        "layer_decay": [factor.rate, factor.depth] if by_depth else None,
        "queries_first": tuple(factor.get("first_layer", ())) == MASK2FORMER_FIRST_LAYER,
        "rules": {} if by_depth else rules(factor, decay),
        "clip": train.clip_grad_norm,
        "warmup": [round(schedule.warmup_length * train.max_iter), schedule.warmup_factor],
        "float16": train.amp.enabled and train.amp.dtype == "float16",
        "trunk": trunk(backbone.vit),
        "adapter": adapter(backbone) if "interactions" in backbone else None,
    }


def rules(factor, decay):
    """Keys of names with their factors of learning rate and weight decay."""
    assert target(decay) == "DecayByKey"
    rates = factor.get("factors", {})
    decays = decay.factors if "factors" in decay else {}
    if not decays:  # the default
        decays = dict.fromkeys(("norm", "bias", "level_embed", "pos_embed"), 0.0)
    return {key: [rates.get(key, 1.0), decays.get(key, 1.0)] for key in {*rates, *decays}}


def trunk(vit):
    return {
        "drop_path": vit.model.drop_path_rate,
        "checkpointing": vit.recompute_blocks,
        "windows": list(vit.get("window_sizes", [None])),
        "keeps_class_token": vit.get("keep_prefix_tokens", False),
        "table_grid": list(vit.table_grid) if "table_grid" in vit else None,
        "layer_scale": vit.model.get("init_values"),
    }


def adapter(backbone):
    blocks, added = backbone.interactions, backbone.added_stages
    return {
        "channels": backbone.spatial_prior.channels,
        "spans": [list(span) for span in blocks.spans],
        "heads": blocks.num_heads,
        "points": blocks.num_points,
        "value_ratio": blocks.deform_ratio,
        "ffn_ratio": blocks.ffn_ratio,
        "extra_extractors": setting(blocks, "num_extra_extractors"),
        "injector_init": setting(blocks, "injector_init"),
        "drop_path": blocks.drop_path_rate,
        "norm_eps": setting(blocks, "norm_eps"),
        "added_stages": None if added is None else list(added),
        "checkpointing": blocks.recompute_attention,
    }


def mask2former_head(model):
    encoder, decoder = model.sem_seg_head.pixel_decoder, model.sem_seg_head.predictor
    criterion = model.criterion
    weights = ("class_weight", "mask_weight", "dice_weight")
    points = ("num_points", "oversample_ratio", "importance_ratio")
    assert criterion.num_classes == decoder.num_classes
    assert criterion.matcher.num_points == criterion.num_points
    return {
        "classes": criterion.num_classes,
        "queries": decoder.num_queries,
        "width": encoder.embed_dim,
        "mask_width": encoder.mask_dim,
        "heads": [encoder.num_heads, decoder.num_heads],
        "feedforward": [encoder.feedforward_dim, decoder.feedforward_dim],
        "layers": [encoder.num_layers, decoder.num_layers],
        "attention_points": setting(encoder, "num_points"),
        "losses": [criterion[name] for name in weights],
        "costs": [criterion.matcher[name] for name in weights],
        "no_object": criterion.no_object_weight,
        "loss_points": [setting(criterion, name) for name in points],
    }


def agree(ours, official):
    """Asserts that everything of ``ours`` is official; numbers, texts, lists and tables of them."""
    official = {key: official[key] for key in ours}
    depth = len(official["trunk"]["windows"])
    windows = ours["trunk"]["windows"]
    windows = [windows[block % len(windows)] for block in range(depth)]
    renamed = {OUR_NAMES.get(key, key): value for key, value in official["rules"].items()}
    assert {**ours, "trunk": {**ours["trunk"], "windows": windows}} == {
        **official,
        "rules": renamed,
    }
