"""Training any config on a user's own data.

source = OwnSource(folder=Path("my_folder"))
cfg = model_zoo.get_config("shapes/mask_rcnn_vit_adapter_shapes")
apply_own_data(cfg, find_own_data(cfg, source))
do_train(cfg)
"""

import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator
from omegaconf import DictConfig, ListConfig

from vitadapter_d2.checkpoint.report import some
from vitadapter_d2.data.own import (
    KINDS,
    MADE_FOLDER,
    OwnData,
    OwnSource,
    find_places,
    prepare_own_data,
)
from vitadapter_d2.engine.config.calls import target_of
from vitadapter_d2.engine.errors import ConfigError
from vitadapter_d2.engine.own.classes import (
    FITTING,
    WHAT,
    calls,
    check_same,
    classes_of_file,
    set_classes,
    trained_kind,
)
from vitadapter_d2.engine.records.pictures import PictureWriter
from vitadapter_d2.evaluation import SemanticEvaluator

__all__ = ["OwnSource", "add_own_data_flags", "apply_own_data", "find_own_data", "use_own_data"]

logger = logging.getLogger(__name__)

_EVALUATORS = {
    "instances": COCOEvaluator,
    "semantic": (SemSegEvaluator, SemanticEvaluator),
    "panoptic": COCOPanopticEvaluator,
}


def add_own_data_flags(parser: ArgumentParser) -> None:
    """Adds ``--data`` and its like to a command line."""
    group = parser.add_argument_group(
        "your own data", "names and number of classes are taken from it, the heads follow"
    )
    group.add_argument("--data", type=Path, metavar="DIR", help="folder with train and val parts")
    group.add_argument("--train-json", type=Path, metavar="FILE", help="COCO annotations instead")
    group.add_argument("--val-json", type=Path, metavar="FILE", help="the same to evaluate on")
    group.add_argument("--images", type=Path, metavar="DIR", help="where the images are")
    group.add_argument("--val-images", type=Path, metavar="DIR", help="if others; of the val part")
    group.add_argument(
        "--val-fraction", type=float, metavar="F", help="hold out this share where there is no val"
    )


def use_own_data(cfg: DictConfig, args: Namespace) -> OwnData | None:
    """Does what the flags say: finds the data once, then registers and applies them.

    Args:
        cfg: a LazyConfig, overridden; changed in place.
        args: with the flags of :func:`add_own_data_flags`. What was found is kept in
            ``args.own_data``, for the processes that are started later.

    Returns:
        The data; None without such flags.

    Raises:
        ConfigError, FileNotFoundError, ValueError: see :func:`find_own_data`.
    """
    if getattr(args, "own_data", None) is None:
        source = _source(args)
        if source is None:
            args.own_data = None
            return None
        is_trained = not getattr(args, "eval_only", False)
        args.own_data = find_own_data(cfg, source, needs_train=is_trained)
    apply_own_data(cfg, args.own_data)
    return args.own_data


def _source(args: Namespace) -> OwnSource | None:
    values = {
        "folder": args.data,
        "train_json": args.train_json,
        "val_json": args.val_json,
        "images": args.images,
        "val_images": args.val_images,
        "val_fraction": args.val_fraction,
    }
    if all(value is None for value in values.values()):
        return None
    return OwnSource(**values)


def find_own_data(cfg: DictConfig, source: OwnSource, *, needs_train: bool = True) -> OwnData:
    """Finds and checks data of the kind that a config trains on.

    Args:
        cfg: a LazyConfig; below its ``train.output_dir`` mended annotations are written.
        source: where to look.
        needs_train: False for evaluation alone.

    Returns:
        The data; nothing is registered or changed yet.

    Raises:
        ConfigError: the data are of another kind.
        FileNotFoundError: files are missing.
        ValueError: there are no data or no val part, or the annotations are wrong.
    """
    kind = trained_kind(cfg)
    if not find_places(source, kind) and not find_places(source, "panoptic"):
        for other in KINDS:
            if other != kind and find_places(source, other):
                raise ConfigError(
                    f"{source.title} has {WHAT[other]}, this config learns from {WHAT[kind]}; "
                    f"configs that fit: {FITTING[other]}"
                )
    evaluated = {_compared_with(evaluator) for evaluator in _evaluators(cfg)} & {*KINDS}
    folder = Path(cfg.train.output_dir, MADE_FOLDER)
    return prepare_own_data(source, kind, folder, needs_train=needs_train, evaluated=evaluated)


def apply_own_data(cfg: DictConfig, own: OwnData) -> None:
    """Registers the data and makes a config train and evaluate on them, in place.

    Heads get the number of classes, loaders and evaluators the names; mapper and augmentations
    stay. ``train.classes`` holds the classes for the checkpoints.

    Args:
        cfg: a LazyConfig.
        own: what :func:`find_own_data` found for this config.

    Raises:
        ConfigError: the config's model does not learn from such annotations.
    """
    set_classes(cfg, own.classes)
    names = own.register()
    loader = cfg.dataloader
    for part, name in (("train", names.get("train", names["val"])), ("test", names["val"])):
        if "names" not in loader[part].dataset:
            raise ConfigError(f"dataloader.{part}.dataset has no names: own data cannot go there")
        loader[part].dataset.names = name
    for name, mapper in calls(loader.train.mapper):
        if "num_classes" in mapper:
            mapper.num_classes = len(own.classes)
        if mapper.get("use_instance_mask") and own.has_run_lengths:
            mapper.instance_mask_format = "bitmask"  # Detectron2 makes no polygons of run lengths
        if name == "SemanticMapper":
            mapper.allow_palette = True
            mapper.ignore_label = own.classes.metadata()["ignore_label"]
    _follow(cfg, own, names["val"])


def _evaluators(cfg: DictConfig) -> list[DictConfig]:
    evaluator = cfg.dataloader.evaluator
    return list(evaluator) if isinstance(evaluator, ListConfig) else [evaluator]


def _compared_with(evaluator: DictConfig) -> str:
    """The kind of annotations that it wants; empty for pictures, ``one`` for one data set's own."""
    target: Any = target_of("dataloader.evaluator", evaluator)
    if not isinstance(target, type) or target is PictureWriter:
        return ""
    for kind, classes in _EVALUATORS.items():
        if issubclass(target, classes):
            return kind
    return "one"


def _follow(cfg: DictConfig, own: OwnData, val: str) -> None:
    """Lets the evaluators follow; what has nothing to compare with is left out."""
    kept = []
    for evaluator in _evaluators(cfg):
        kind = _compared_with(evaluator)
        if kind == "one":  # of Cityscapes or LVIS, whose files it reads
            kind = "instances"
            output = "${train.output_dir}/inference"
            evaluator = LazyCall(COCOEvaluator)(dataset_name=val, output_dir=output)
        if "dataset_name" in evaluator:
            evaluator.dataset_name = val
        if kind == "instances" and not MetadataCatalog.get(val).get("json_file"):
            continue  # panoptic segments without things
        if kind == "instances" and not own.classes.has_masks and evaluator.get("tasks"):
            evaluator.tasks = ["bbox"]
        kept.append(evaluator)
    is_list = isinstance(cfg.dataloader.evaluator, ListConfig)
    cfg.dataloader.evaluator = kept if is_list else kept[0]


def tell(cfg: DictConfig, own: OwnData) -> None:
    """Logs what was found and how often the schedule goes over it."""
    for line in own.lines:
        logger.info("%s", line)
    for note in own.notes:
        logger.warning("%s", note)
    if own.classes.kind == "instances" and not own.classes.has_masks:
        logger.info("The objects have boxes alone: there is no mask head.")
    train = own.parts.get("train")
    if train:
        seen = cfg.train.max_iter * cfg.dataloader.train.total_batch_size
        logger.info(
            "train.max_iter=%d with %d images each goes over the %d training images %.1f times.",
            cfg.train.max_iter,
            cfg.dataloader.train.total_batch_size,
            train.num_images,
            seen / train.num_images,
        )


def check_weights_for(own: OwnData | None, weights: str | Path) -> None:
    """Asks whether a trained model knows the classes of the data it is to be evaluated on.

    Raises:
        ConfigError: it was trained on others, or on own data where there are none.
    """
    remembered = classes_of_file(weights)
    if remembered is None:
        return
    if own is None:
        raise ConfigError(
            f"{weights} was trained on own data with the {len(remembered)} classes "
            f"{some(remembered.names)}: --data DIR says where they are"
        )
    check_same(own.classes, remembered, weights)
