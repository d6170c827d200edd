"""The meta-architecture that ATSS and GFL share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from detectron2.layers import batched_nms
from detectron2.modeling import Backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from vitadapter_d2.layers.levels import flatten_levels
from vitadapter_d2.modeling.dense.anchors import AnchorGrid, DenseTargets
from vitadapter_d2.modeling.dense.assigner import ATSSAssigner
from vitadapter_d2.modeling.dense.head import DenseHead

Predictions = Sequence[Sequence[Tensor]]


class AnchorDetector(DenseDetector, ABC):
    """A dense detector with a square anchor around the upper left corner of each cell.

    As in mmdetection 2.22, by which the published models were trained: cells beyond an image's own
    padding do not count; classes are chosen before their scores meet the box's quality.

    Args:
        backbone: gives the levels.
        head: its predictions are class logits, boxes, and optionally a logit of their quality.
        head_in_features: names of the levels, finest first.
        assigner: anchors to objects.
        anchor_scale: side of an anchor over the stride.
        box_loss_weight: weight of the GIoU loss.
        test_score_thresh: class scores up to it are dropped.
        test_topk_candidates: best classes of all cells that each level keeps.
        test_nms_thresh: boxes of a class that overlap more than this are dropped.
        max_detections_per_image: how many boxes are kept.
        pixel_mean: of each channel.
        pixel_std: of each channel.

    Raises:
        ValueError: the head is made for another number of levels.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        head: DenseHead,
        head_in_features: Sequence[str] = ("p3", "p4", "p5", "p6", "p7"),
        assigner: ATSSAssigner,
        anchor_scale: float = 8.0,
        box_loss_weight: float = 2.0,
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.6,
        max_detections_per_image: int = 100,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        features = list(head_in_features)
        super().__init__(backbone, head, features, pixel_mean=pixel_mean, pixel_std=pixel_std)
        if len(features) != len(head.scales):
            raise ValueError(
                f"head_in_features must name the head's {len(head.scales)} levels, got {features}"
            )
        self.assigner = assigner
        shapes = backbone.output_shape()
        self.strides = [shapes[name].stride for name in features]
        self.anchor_generator = DefaultAnchorGenerator(
            sizes=[[anchor_scale * stride] for stride in self.strides],
            aspect_ratios=[1.0],
            strides=self.strides,
            offset=0.0,
        )
        self.box_loss_weight = box_loss_weight
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image

    @abstractmethod
    def losses(
        self, predictions: Sequence[Tensor], grid: AnchorGrid, targets: DenseTargets
    ) -> dict[str, Tensor]:
        """Weighted losses of a batch.

        Args:
            predictions: of the head, ``(B * N, ...)`` float32.
            grid: the anchors.
            targets: what the predictions should be.

        Returns:
            Scalars by name.
        """

    @abstractmethod
    def decode(self, boxes: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
        """Predictions of boxes to boxes.

        Args:
            boxes: ``(P, D)`` float32.
            anchors: ``(P, 4)`` x0 y0 x1 y1 in pixels.
            strides: ``(P,)`` of their levels.

        Returns:
            ``(P, 4)`` x0 y0 x1 y1 in pixels.
        """

    def forward_training(
        self,
        images: ImageList,
        features: Sequence[Tensor],
        predictions: Predictions,
        gt_instances: Sequence[Instances],
    ) -> dict[str, Tensor]:
        """Losses, in float32 also under autocast.

        Args:
            images: the batch.
            features: its levels.
            predictions: of the head, by level.
            gt_instances: with ``gt_boxes`` and ``gt_classes``; none in an image is allowed.

        Returns:
            Scalars by name.

        Raises:
            ValueError: a class is not in [0, num_classes).
        """
        grid = self._grid(features)
        targets = self._targets(grid, images, gt_instances)
        flat = [flatten_levels(maps).flatten(0, 1).float() for maps in predictions]
        return self.losses(flat, grid, targets)

    def forward_inference(
        self, images: ImageList, features: Sequence[Tensor], predictions: Predictions
    ) -> list[Instances]:
        """Detections at the size of the network's input, best first.

        Args:
            images: the batch.
            features: its levels.
            predictions: of the head, by level.

        Returns:
            For each image ``pred_boxes``, ``scores`` and ``pred_classes``.
        """
        grid = self._grid(features)
        logits, boxes, *rest = [flatten_levels(maps).float() for maps in predictions]
        quality = rest[0].sigmoid() if rest else torch.ones_like(boxes[..., :1])
        parts = zip(logits.sigmoid(), boxes, quality.squeeze(2), images.image_sizes, strict=True)
        return [self._detect(*part, grid) for part in parts]

    def _grid(self, features: Sequence[Tensor]) -> AnchorGrid:
        boxes = torch.cat([level.tensor for level in self.anchor_generator(features)])
        shapes = [(feature.shape[2], feature.shape[3]) for feature in features]
        return AnchorGrid(boxes, shapes, self.strides)

    def _targets(
        self, grid: AnchorGrid, images: ImageList, gt_instances: Sequence[Instances]
    ) -> DenseTargets:
        self._check_classes(torch.cat([instances.gt_classes for instances in gt_instances]))
        total = len(grid.boxes)
        inside = torch.zeros(len(gt_instances), total, dtype=torch.bool, device=self.device)
        anchors, objects = [], []
        for row, size, instances in zip(inside, images.image_sizes, gt_instances, strict=True):
            cells, level_sizes = grid.inside(*self._padded(size))
            row[cells] = True
            boxes = instances.gt_boxes.tensor
            matched = self.assigner(grid.boxes[cells], level_sizes, boxes)
            positive = (matched >= 0).nonzero().squeeze(1)
            anchors.append(cells[positive])
            objects.append(matched[positive])
        pairs = list(zip(gt_instances, objects, strict=True))
        return DenseTargets(
            inside=inside.flatten(),
            rows=torch.cat([part + index * total for index, part in enumerate(anchors)]),
            anchors=torch.cat(anchors),
            classes=torch.cat([instances.gt_classes[index] for instances, index in pairs]),
            boxes=torch.cat([instances.gt_boxes.tensor[index] for instances, index in pairs]),
            num_positive=sum(max(len(part), 1) for part in anchors),
        )

    def _check_classes(self, classes: Tensor) -> None:
        num_classes = self.head.num_classes
        illegal = classes[(classes < 0) | (classes >= num_classes)].unique().tolist()
        if illegal:
            raise ValueError(f"gt_classes must be in [0, {num_classes}), got {illegal}")

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size that an image alone would be padded to."""
        divisor = max(self.backbone.size_divisibility, 1)
        height, width = (math.ceil(side / divisor) * divisor for side in size)
        return height, width

    def _detect(
        self,
        scores: Tensor,
        boxes: Tensor,
        quality: Tensor,
        image_size: tuple[int, int],
        grid: AnchorGrid,
    ) -> Instances:
        """From ``(N, K)``, ``(N, D)`` and ``(N,)`` of one image to its detections."""
        cells, classes = self._best(scores, grid.level_sizes).unbind(1)
        decoded = Boxes(self.decode(boxes[cells], grid.boxes[cells], grid.strides[cells]))
        decoded.clip(image_size)
        found = Instances(
            image_size,
            pred_boxes=decoded,
            scores=scores[cells, classes] * quality[cells],
            pred_classes=classes,
        )[decoded.nonempty()]
        kept = batched_nms(
            found.pred_boxes.tensor, found.scores, found.pred_classes, self.test_nms_thresh
        )
        return found[kept[: self.max_detections_per_image]]

    def _best(self, scores: Tensor, level_sizes: Sequence[int]) -> Tensor:
        """``(M, 2)`` cells and classes, on each level those of the highest scores."""
        best, start = [], 0
        for level in scores.split(list(level_sizes)):
            above = (level > self.test_score_thresh).nonzero()
            count = min(self.test_topk_candidates, len(above))
            above = above[level[above[:, 0], above[:, 1]].topk(count).indices]
            best.append(above + above.new_tensor([start, 0]))
            start += len(level)
        return torch.cat(best)
