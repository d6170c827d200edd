"""Pictures of training samples, as they leave the mapper."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode, Instances
from omegaconf import DictConfig

from vitadapter_d2.data.coco_format import encode_mask
from vitadapter_d2.data.reading import Tolerant
from vitadapter_d2.data.seeding import seed_everything
from vitadapter_d2.engine.config.calls import instantiate
from vitadapter_d2.engine.errors import ConfigError
from vitadapter_d2.files import write_image
from vitadapter_d2.inference.drawing import draw_annotation, side_by_side, stack

_MOST_ROWS = 6  # of the gallery

Record = dict[str, Any]


def draw_samples(
    cfg: DictConfig, folder: Path, count: int, *, seed: int = 0, before: bool = False
) -> list[Path]:
    """Draws training samples of a config after augmentation.

    Args:
        cfg: a LazyConfig; its ``dataloader.train`` has a ``dataset`` and a ``mapper``.
        folder: where the pictures and ``gallery.png`` are written.
        count: how many; of fewer images, each is drawn several times.
        seed: of the choice of images and of the augmentations.
        before: put the raw image with its annotations to the left.

    Returns:
        The pictures, in the order in which they were drawn.

    Raises:
        ConfigError: ``count`` is not positive, or no image with annotations came out.
        ValueError, FileNotFoundError: the data are wrong.
    """
    if count < 1:
        raise ConfigError(f"the number of samples must be at least 1, got {count}")
    loader = cfg.dataloader.train
    records = list(instantiate(loader.dataset))
    mapper = Tolerant(instantiate(loader.mapper), loader.get("on_error", "raise"))
    names = loader.dataset.get("names")
    metadata = MetadataCatalog.get(names if isinstance(names, str) else names[0])
    seed_everything(seed)
    order = np.random.default_rng(seed).permutation(len(records))
    paths: list[Path] = []
    rows: list[np.ndarray] = []
    for number in range(count):
        record = records[order[number % len(order)]]
        sample = mapper(record)
        if sample is None:  # an unreadable image that the config says to skip
            continue
        row = [_draw_sample(sample, _image_format(loader.mapper), metadata)]
        if before:
            image = read_image(record["file_name"], format="RGB")
            row.insert(0, draw_annotation(image, record, metadata))
        path = folder / f"{number:03d}_{Path(record['file_name']).stem}.png"
        write_image(path, side_by_side(row))
        paths.append(path)
        if len(rows) < _MOST_ROWS:
            rows.append(side_by_side(row))
    if not paths:
        raise ConfigError(f"none of {count} training images could be read")
    write_image(folder / "gallery.png", stack(rows))
    return paths


def _image_format(mapper: DictConfig) -> str:
    """Of the innermost mapper, where one wraps another."""
    inner = mapper.get("mapper")
    return _image_format(inner) if inner is not None else str(mapper.get("image_format", "RGB"))


def _draw_sample(sample: Mapping[str, Any], image_format: str, metadata: Metadata) -> np.ndarray:
    image = sample["image"].permute(1, 2, 0).numpy()
    rgb = image[:, :, ::-1] if image_format == "BGR" else image
    return draw_annotation(np.ascontiguousarray(rgb), as_record(sample, metadata), metadata)


def as_record(sample: Mapping[str, Any], metadata: Metadata) -> Record:
    """The targets of a mapped sample as a record that Detectron2's Visualizer draws.

    Args:
        sample: what a mapper gives: ``image`` and ``instances``, ``sem_seg`` or both.
        metadata: tells panoptic segments, which have both and stuff among the instances.

    Returns:
        ``annotations`` of objects, ``sem_seg``, or ``pan_seg`` with ``segments_info``.
    """
    instances = sample.get("instances")
    stuff, things = metadata.get("stuff_classes"), metadata.get("thing_classes")
    if instances is None or (stuff and not things):
        labels = sample.get("sem_seg")
        return {} if labels is None else {"sem_seg": labels.numpy()}
    if stuff and instances.has("gt_masks"):
        return _panoptic(instances, metadata)
    return {"annotations": _objects(instances)}


def _panoptic(instances: Instances, metadata: Metadata) -> Record:
    things = set(metadata.thing_dataset_id_to_contiguous_id.values())
    ids = np.zeros(instances.image_size, np.int32)
    infos = []
    pairs = zip(instances.gt_masks, instances.gt_classes.tolist(), strict=True)
    for number, (mask, label) in enumerate(pairs, start=1):
        ids[mask.numpy()] = number
        infos.append({"id": number, "category_id": label, "isthing": label in things})
    return {"pan_seg": ids, "segments_info": infos}


def _objects(instances: Instances) -> list[Record]:
    masks = _masks(instances)
    return [
        {
            "bbox": box,
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": label,
            **({"segmentation": masks[index]} if masks else {}),
        }
        for index, (box, label) in enumerate(
            zip(instances.gt_boxes.tensor.tolist(), instances.gt_classes.tolist(), strict=True)
        )
    ]


def _masks(instances: Instances) -> list[Any]:
    """Polygons, or run lengths of bit masks."""
    if not instances.has("gt_masks"):
        return []
    masks = instances.gt_masks
    if hasattr(masks, "polygons"):
        return list(masks.polygons)
    return [encode_mask(mask.numpy()) for mask in masks]
