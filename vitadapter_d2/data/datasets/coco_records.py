"""Reading object annotations in COCO's format, refusing what Detectron2 would read wrongly."""

import logging
from typing import Any

from detectron2.data.datasets import load_coco_json

from vitadapter_d2.data.checking.coco import check_coco
from vitadapter_d2.data.checking.findings import refuse
from vitadapter_d2.data.coco_format import read_json

Record = dict[str, Any]

logger = logging.getLogger(__name__)


def load_coco_records(json_file: str, image_root: str, name: str | None = None) -> list[Record]:
    """Detectron2's ``load_coco_json`` for files that nobody has looked at yet.

    That one mixes up images with the same id, ends in an error without a file name where an id is
    repeated or unknown or a key is missing, and lets objects without a mask among others with one
    end the training when they turn up. Crowds, boxes of zero area and images without annotation
    stay: mapper and evaluator treat them as the COCO tools do.

    Args:
        json_file: annotations in COCO's format; it is read twice.
        image_root: folder of the images.
        name: of the data set, whose metadata get the classes; None leaves the category ids.

    Returns:
        Detectron2's records; objects without a mask are left out if others have one.

    Raises:
        FileNotFoundError: if the JSON file does not exist.
        ValueError: if it is damaged, or something in it has no meaning: every kind is named.
    """
    content = read_json(json_file)
    findings = check_coco(content)
    refuse(findings, json_file)
    has_masks = any(annotation.get("segmentation") for annotation in content.get("annotations", []))
    del content
    for finding in findings:
        if finding.is_error:
            logger.warning("%s: %s", json_file, finding)
    records = load_coco_json(json_file, image_root, name)
    if has_masks:
        for record in records:
            record["annotations"] = [a for a in record["annotations"] if a.get("segmentation")]
    return records
