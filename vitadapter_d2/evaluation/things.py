"""Box and mask AP of data sets whose things are not their first classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata

from vitadapter_d2.evaluation.coco import DetectionEvaluator


class ThingEvaluator(DetectionEvaluator):
    """A ``DetectionEvaluator`` for things that lie among the stuff, as ADE20K's do.

    That one and Detectron2's expect the contiguous ids of n things to be 0 to n - 1. Here a
    predicted class is numbered among the things first; instances of stuff, which no annotation can
    match, are left out. The idea is that of Mask2Former's ``InstanceSegEvaluator``.

    Args:
        dataset_name: registered name; its metadata have ``json_file`` (objects in COCO's format),
            ``thing_dataset_id_to_contiguous_id`` and names of all classes.
        output_dir: where results are written.
        arguments: further ones of ``DetectionEvaluator``.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, **arguments: Any) -> None:
        super().__init__(dataset_name, output_dir, **arguments)
        registered = MetadataCatalog.get(dataset_name)
        # COCO's tools go through the categories in the order of their ids.
        ids = sorted(registered.thing_dataset_id_to_contiguous_id.items())
        names = registered.get("stuff_classes") or registered.thing_classes
        self._num_classes = len(names)
        self._things = torch.tensor([contiguous for _, contiguous in ids])
        self._metadata = Metadata(
            name=dataset_name,
            json_file=registered.json_file,
            thing_classes=[names[contiguous] for _, contiguous in ids],
            thing_dataset_id_to_contiguous_id={id_: n for n, (id_, _) in enumerate(ids)},
        )

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keeps the instances of some images.

        Args:
            inputs: each with the ``image_id`` of the annotation file.
            outputs: each with ``instances``, whose ``pred_classes`` are contiguous ids.

        Raises:
            ValueError: a predicted class or an image is none of the data set.
        """
        numbered = []
        for record, output in zip(inputs, outputs, strict=True):
            name = record.get("file_name", record["image_id"])
            if record["image_id"] not in self._coco_api.imgs:
                raise ValueError(
                    f"{self._metadata.json_file} has no image {record['image_id']!r}, which is the "
                    f"image_id of {name}"
                )
            numbered.append({"instances": self._numbered(output["instances"], name)})
        super().process(inputs, numbered)

    def _numbered(self, instances: Any, name: Any) -> Any:
        """The things of one image, with classes 0 to n - 1."""
        classes = instances.pred_classes
        wrong = classes[(classes < 0) | (classes >= self._num_classes)]
        if len(wrong):
            raise ValueError(
                f"the prediction of {name} has class {wrong[0]}, expected one of 0 to "
                f"{self._num_classes - 1}"
            )
        number = torch.full((self._num_classes,), -1)
        number[self._things] = torch.arange(len(self._things))
        number = number.to(classes.device)[classes]
        things = instances[number >= 0]
        things.pred_classes = number[number >= 0]
        return things
