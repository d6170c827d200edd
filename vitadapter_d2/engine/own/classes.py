"""Classes of a user's own data in a config, in a checkpoint and in a prediction.

Names and counts are set in one place, ``train.classes``; the heads of every model follow.
"""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyCall
from detectron2.data import Metadata, MetadataCatalog
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from vitadapter_d2.checkpoint.fetching import local_path
from vitadapter_d2.checkpoint.reading import CheckpointError, harmless_allowed, read_file
from vitadapter_d2.data import get_metadata
from vitadapter_d2.data.own import OwnClasses
from vitadapter_d2.engine.config.calls import name_of, parameters, target_of
from vitadapter_d2.engine.errors import ConfigError

_ENTRY = "classes"  # in a checkpoint and in ``train`` of a config
FITTING = {
    "instances": "shapes/mask_rcnn_*, coco/mask_rcnn_*, coco/cascade_mask_rcnn_*, coco/atss_*, "
    "coco/gfl_*, coco/sparse_rcnn_*, coco/dino_*, coco/mask2former_*_coco_instance",
    "semantic": "shapes/upernet_*, ade20k/upernet_*, ade20k/semantic_fpn_*, ade20k/setr_pup_*, "
    "ade20k/mask2former_*_ade20k",
    "panoptic": "shapes/mask2former_vit_*, coco/mask2former_*_coco_panoptic",
}
"""Names of the zoo that learn from a kind of annotations."""
WHAT = {"instances": "objects", "semantic": "label maps", "panoptic": "panoptic segments"}
"""What the kinds are called in messages."""


def trained_kind(cfg: DictConfig) -> str:
    """The kind of annotations that a config trains on: its training mapper knows."""
    names = {name for name, _ in calls(cfg.dataloader.train.mapper)}
    if "SemanticMapper" in names:
        return "semantic"
    return "panoptic" if "PanopticMapper" in names else "instances"


def calls(node: Any) -> Iterator[tuple[str, DictConfig]]:
    """Every call in a part of a config: the name of what is called, and the node."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield name_of(target_of("", node)).rsplit(".", 1)[-1], node
        keys: list[Any] = list(node)
        children = [node[key] for key in keys if not OmegaConf.is_interpolation(node, key)]
    elif isinstance(node, ListConfig):
        children = list(node)
    else:
        return
    for child in children:
        yield from calls(child)


def set_classes(cfg: DictConfig, classes: OwnClasses) -> None:
    """Makes the model of a config one of these classes, in place.

    Args:
        cfg: a LazyConfig with ``model``, ``dataloader`` and ``train``.
        classes: go to ``train.classes`` too.

    Raises:
        ConfigError: the config's model does not learn from such annotations.
    """
    kind = trained_kind(cfg)
    if kind != classes.kind:
        raise ConfigError(
            f"the classes are those of {WHAT[classes.kind]}, this config learns from "
            f"{WHAT[kind]}; configs that fit: {FITTING[classes.kind]}"
        )
    targets = {name for name, _ in calls(cfg.model)}
    if "HybridTaskCascade" in targets:
        raise ConfigError(
            "HTC learns from label maps beside the objects, which own data do not have; "
            "cascade_mask_rcnn is the same without them"
        )
    set_num_classes(cfg.model, len(classes))
    if cfg.model.get("metadata") is not None:
        cfg.model.metadata = LazyCall(get_metadata)(name=classes.register())
    if classes.kind == "instances" and not classes.has_masks:
        _leave_out_masks(cfg)
    cfg.train[_ENTRY] = classes.to_dict()


def set_num_classes(model: DictConfig, num_classes: int) -> None:
    """Sets the number of classes of all heads of a model, in place.

    That is ``num_classes`` of everything outside of the backbone that takes such an argument;
    references to another place stay what they are.

    Args:
        model: the ``model`` of a LazyConfig.
        num_classes: without "no object" or background, as everywhere in Detectron2; at least 1.

    Raises:
        ConfigError: the number is not positive, or there is no head.
    """
    if num_classes < 1:
        raise ConfigError(f"a model needs at least 1 class, got {num_classes}")
    heads = [node for node in _heads(model) if _takes_num_classes(node)]
    for head in heads:
        if "num_classes" not in head or not OmegaConf.is_interpolation(head, "num_classes"):
            head.num_classes = num_classes
    wrong = {head.num_classes for head in heads} - {num_classes}
    if wrong or not heads:
        raise ConfigError(
            f"num_classes refers to a place in the config that is {wrong.pop()} still"
            if wrong
            else "nothing in this model takes num_classes"
        )


def _heads(model: DictConfig) -> Iterator[DictConfig]:
    yield model
    keys: list[Any] = list(model)
    for key in keys:
        if key != "backbone" and not OmegaConf.is_interpolation(model, key):
            yield from (node for _, node in calls(model[key]))


def _takes_num_classes(node: DictConfig) -> bool:
    # Detectron2's ROI heads hand it on to their parent, unseen in their signature.
    return "num_classes" in node or "num_classes" in parameters(target_of("model", node))


def _leave_out_masks(cfg: DictConfig) -> None:
    """Turns a Mask R-CNN into a Faster R-CNN."""
    mapper = cfg.dataloader.train.mapper
    heads = cfg.model.get("roi_heads")
    if heads is not None and heads.get("mask_in_features") is not None:
        heads.mask_in_features = heads.mask_pooler = None
        if "mask_heads" in heads:
            heads.mask_heads = []
        else:
            heads.mask_head = None
        for _, node in calls(mapper):
            for key in ("use_instance_mask", "recompute_boxes"):  # from masks
                if node.get(key):
                    node[key] = False
    elif any(node.get("use_instance_mask") for _, node in calls(mapper)) or any(
        name == "InstanceMapper" for name, _ in calls(mapper)
    ):
        raise ConfigError(
            "this config learns masks, the data have boxes; configs that fit: "
            f"{FITTING['instances']}"
        )


class RememberedClasses:
    """The classes as a part of checkpoints, see ``Checkpointer``."""

    def __init__(self, classes: OwnClasses) -> None:
        self.classes = classes

    def state_dict(self) -> dict[str, Any]:
        """Plain lists."""
        return self.classes.to_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Compares the classes of a run that is resumed with those of today's data."""
        check_same(self.classes, OwnClasses.from_dict(state_dict, "the checkpoint"), "checkpoint")


def check_same(data: OwnClasses, remembered: OwnClasses, source: object) -> None:
    """Raises a ConfigError if a model was trained on other classes or in another order."""
    if data.names == remembered.names:
        return
    pairs = [*zip(data.names, remembered.names, strict=False)]
    place = next((i for i, (one, other) in enumerate(pairs) if one != other), len(pairs))
    names = [(one.names[place : place + 1] or ["nothing"])[0] for one in (data, remembered)]
    raise ConfigError(
        f"the data have {len(data)} classes, {source} was trained on {len(remembered)} others or "
        f"in another order: class {place} is {names[0]!r} here and {names[1]!r} there"
    )


def remembered_classes(cfg: DictConfig) -> dict[str, RememberedClasses]:
    """What a ``Checkpointer`` is to save beside the model: the classes, if the config has some."""
    classes = classes_of_config(cfg)
    return {_ENTRY: RememberedClasses(classes)} if classes else {}


def classes_of_config(cfg: DictConfig) -> OwnClasses | None:
    """``train.classes``; None if the config is one of a registered data set."""
    content = cfg.train.get(_ENTRY)
    if content is None:
        return None
    return OwnClasses.from_dict(OmegaConf.to_container(content), "train.classes")


def classes_of_file(weights: str | Path) -> OwnClasses | None:
    """The classes that a checkpoint remembers; of an ordinary file the tensors are not read.

    Args:
        weights: file or URL.

    Returns:
        None if it remembers none, or cannot be read: loading it says why.

    Raises:
        FileNotFoundError: there is no such file, or no way to the URL.
        ValueError: what it remembers is damaged.
    """
    path = local_path(str(weights))
    try:
        with harmless_allowed():
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # other containers, older formats, damage
        try:
            content = read_file(path)
        except (CheckpointError, OSError):
            return None
    if not isinstance(content, dict) or _ENTRY not in content:
        return None
    return OwnClasses.from_dict(content[_ENTRY], path)


def with_classes_of(cfg: DictConfig, weights: str | Path) -> DictConfig:
    """The config with the classes that a checkpoint remembers; the same object if there are none.

    Raises:
        ConfigError: the checkpoint is of a model that learns from other annotations.
    """
    classes = classes_of_file(weights)
    if classes is None:
        return cfg
    # After a training the optimizer's config holds the model, which is not to be copied.
    model: Any = OmegaConf.select(cfg, "optimizer.params.model")
    cfg = copy.deepcopy(cfg, {id(model): model} if isinstance(model, nn.Module) else None)
    if (kind := trained_kind(cfg)) != classes.kind:
        raise ConfigError(
            f"{weights} was trained on {WHAT[classes.kind]}, this config learns from {WHAT[kind]}: "
            "take the config that it was trained with"
        )
    set_classes(cfg, classes)
    return cfg


def shown_metadata(cfg: DictConfig) -> Metadata:
    """Class names and colours of what a config's model predicts."""
    classes = classes_of_config(cfg)
    names = classes.register() if classes else cfg.dataloader.test.dataset.names
    return MetadataCatalog.get(names if isinstance(names, str) else names[0])
