"""DINO as a Detectron2 meta-architecture.

The design is that of IDEA-Research/DINO (Apache-2.0) and its paper.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor
from torchvision.ops import box_convert

from vitadapter_d2.modeling.dino.criterion import SetCriterion
from vitadapter_d2.modeling.dino.decoder import DeformableDecoder
from vitadapter_d2.modeling.dino.denoising import ContrastiveDenoising
from vitadapter_d2.modeling.dino.encoder import DeformableEncoder
from vitadapter_d2.modeling.dino.neck import InputProjection
from vitadapter_d2.modeling.dino.query_selection import QuerySelection
from vitadapter_d2.modeling.dino.structures import BoxPrediction, BoxTargets, PaddedLevels
from vitadapter_d2.modeling.image_model import IMAGENET_MEAN, IMAGENET_STD, ImageModel


class DINO(ImageModel):
    """Detection by queries that start at the encoder's best cells; no anchors, no NMS.

    Reference: DINO, arXiv 2203.03605.

    Args:
        backbone: gives the neck's ``in_features``.
        neck: brings them to one width and adds a level.
        encoder: mixes the levels.
        query_selection: chooses the queries.
        decoder: turns them into objects.
        denoising: adds queries in training.
        criterion: the losses, already weighted.
        test_topk_per_image: detections of an image, of all queries and classes.
        pixel_mean: of each channel.
        pixel_std: of each channel.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: InputProjection,
        encoder: DeformableEncoder,
        query_selection: QuerySelection,
        decoder: DeformableDecoder,
        denoising: ContrastiveDenoising,
        criterion: SetCriterion,
        test_topk_per_image: int = 300,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone = backbone
        self.neck = neck
        self.encoder = encoder
        self.query_selection = query_selection
        self.decoder = decoder
        self.denoising = denoising
        self.criterion = criterion
        self.test_topk_per_image = test_topk_per_image
        output_shape = backbone.output_shape()
        strides = [output_shape[name].stride for name in neck.in_features]
        self.strides = (*strides, 2 * strides[-1])

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Losses in training, detections otherwise.

        Args:
            batched_inputs: a dict for each image, in Detectron2's format: ``image`` ``(3, H, W)``,
                not normalised; for training ``instances`` with ``gt_classes`` and ``gt_boxes``;
                for inference ``height`` and ``width`` of the output, those of ``image`` if missing.

        Returns:
            In training the weighted losses. Otherwise a dict for each image with ``instances``:
            ``pred_boxes``, ``scores``, ``pred_classes``, best first.

        Raises:
            ValueError: in training for missing or wrong targets.
        """
        images = self.preprocess_image(batched_inputs)
        if self.training:  # first: bad targets cost no forward
            targets = self._targets(batched_inputs, images)
            return self._losses(images, targets)
        memory, levels = self._encode(images)
        selection = self.query_selection(memory, levels)
        prediction = self.decoder(selection.content, selection.boxes, memory, levels)
        return self._postprocess(prediction, batched_inputs, images)

    def _encode(self, images: ImageList) -> tuple[Tensor, PaddedLevels]:
        maps = self.neck(self.backbone(images.tensor))
        shapes = [(level.shape[2], level.shape[3]) for level in maps]
        levels = PaddedLevels.of(shapes, self.strides, images.image_sizes, self.device)
        return self.encoder(maps, levels), levels

    def _losses(self, images: ImageList, targets: BoxTargets) -> dict[str, Tensor]:
        memory, levels = self._encode(images)
        selection = self.query_selection(memory, levels)
        noise = self.denoising(targets)
        prediction = self.decoder(
            torch.cat((noise.content, selection.content), dim=1),
            torch.cat((noise.boxes, selection.boxes), dim=1),
            memory,
            levels,
            noise.allowed(selection.content.shape[1]),
        )
        denoised, matching = prediction.split_queries(noise.content.shape[1])
        return self.criterion(selection.prediction, matching, denoised, noise, targets)

    def _targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> BoxTargets:
        labels, boxes = zip(
            *(
                _image_targets(item, size, self.criterion.num_classes)
                for item, size in zip(batched_inputs, images.image_sizes, strict=True)
            ),
            strict=True,
        )
        counts = tuple(map(len, labels))
        return BoxTargets(
            torch.cat(labels).to(self.device), torch.cat(boxes).to(self.device), counts
        )

    def _postprocess(
        self,
        prediction: BoxPrediction,
        batched_inputs: list[dict[str, Any]],
        images: ImageList,
    ) -> list[dict[str, Instances]]:
        outputs = []
        for logits, boxes, item, size in zip(
            prediction.logits[-1],
            prediction.boxes[-1],
            batched_inputs,
            images.image_sizes,
            strict=True,
        ):
            instances = top_detections(logits, boxes, size, self.test_topk_per_image)
            height, width = item.get("height", size[0]), item.get("width", size[1])
            outputs.append({"instances": detector_postprocess(instances, height, width)})
        return outputs


def top_detections(
    logits: Tensor, boxes: Tensor, image_size: tuple[int, int], count: int
) -> Instances:
    """The best pairs of query and class; a query may give several classes.

    Args:
        logits: ``(Q, K)``.
        boxes: ``(Q, 4)`` cxcywh in [0, 1].
        image_size: ``(H, W)`` that the boxes are scaled to.
        count: detections that are kept, if there are as many.

    Returns:
        ``pred_boxes``, ``scores`` in (0, 1) and ``pred_classes``, best first.
    """
    scores = logits.float().sigmoid().flatten()
    scores, pairs = scores.topk(min(count, len(scores)))
    queries, classes = pairs // logits.shape[1], pairs % logits.shape[1]
    height, width = image_size
    corners = box_convert(boxes[queries], "cxcywh", "xyxy")
    instances = Instances((height, width))
    instances.pred_boxes = Boxes(corners * corners.new_tensor((width, height, width, height)))
    instances.scores = scores
    instances.pred_classes = classes
    return instances


def _image_targets(
    item: dict[str, Any], size: tuple[int, int], num_classes: int
) -> tuple[Tensor, Tensor]:
    """Labels ``(N,)`` and boxes ``(N, 4)``, cxcywh in [0, 1], of one image, checked."""
    if "instances" not in item:
        raise ValueError(f"training needs 'instances' in every input, got {sorted(item)}")
    instances = item["instances"]
    fields = instances.get_fields()
    if not fields or not len(instances):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)
    for name in ("gt_classes", "gt_boxes"):
        if name not in fields:
            raise ValueError(f"instances need {name}, got {sorted(fields)}")
    labels, corners = instances.gt_classes.cpu(), instances.gt_boxes.tensor.cpu().float()
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"gt_classes must be in [0, {num_classes}), got {labels.min()} to {labels.max()}"
        )
    is_box = corners.isfinite().all(1) & (corners[:, 2:] > corners[:, :2]).all(1)
    if not is_box.all():
        raise ValueError(
            f"gt_boxes must be finite xyxy with x2 > x1 and y2 > y1, got {corners[~is_box][0]}"
        )
    height, width = size
    boxes = box_convert(corners, "xyxy", "cxcywh") / corners.new_tensor(
        (width, height, width, height)
    )
    return labels, boxes
