"""Detections by Soft-NMS."""

from dataclasses import dataclass

from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import Tensor

from vitadapter_d2.layers.soft_nms import soft_nms


class SoftNMSOutputLayers(FastRCNNOutputLayers):
    """Detectron2's box predictor with linear Soft-NMS at test.

    ``test_nms_thresh`` is the overlap from which scores fall; boxes whose score falls below
    ``test_score_thresh`` are dropped.
    """

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Detections of each image.

        Args:
            predictions: class logits ``(R, K + 1)`` and box deltas ``(R, 4K)`` or ``(R, 4)``.
            proposals: for each image, with ``proposal_boxes``.

        Returns:
            For each image ``pred_boxes``, ``scores``, ``pred_classes``, best first; and the places
            of the proposals that they come from.
        """
        boxes = self.predict_boxes(predictions, proposals)
        scores = self.predict_probs(predictions, proposals)
        results = [
            detect(
                own_boxes,
                own_scores,
                image.image_size,
                score_threshold=self.test_score_thresh,
                iou_threshold=self.test_nms_thresh,
                max_boxes=self.test_topk_per_image if self.test_topk_per_image >= 0 else None,
            )
            for own_boxes, own_scores, image in zip(boxes, scores, proposals, strict=True)
        ]
        return [result.instances for result in results], [result.rows for result in results]


@dataclass(frozen=True)
class Detections:
    """Detections of one image.

    Attributes:
        instances: ``pred_boxes``, ``scores``, ``pred_classes``, best first.
        rows: ``(M,)`` int64, which candidate each one comes from.
    """

    instances: Instances
    rows: Tensor


def detect(
    boxes: Tensor,
    scores: Tensor,
    image_size: tuple[int, int],
    *,
    score_threshold: float,
    iou_threshold: float,
    max_boxes: int | None,
) -> Detections:
    """Soft-NMS of each class.

    Args:
        boxes: ``(R, 4K)`` or, the same for all classes, ``(R, 4)`` float, x0 y0 x1 y1.
        scores: ``(R, K + 1)`` float, probabilities, the last of background.
        image_size: ``(height, width)`` that boxes are clipped to.
        score_threshold: scores must exceed it, before and after they are lowered.
        iou_threshold: overlap from which scores fall.
        max_boxes: how many to give at most; None gives all.
    """
    rows, classes = (scores[:, :-1] > score_threshold).nonzero(as_tuple=True)
    per_class = boxes.unflatten(1, (-1, 4))
    candidates = Boxes(per_class[rows, classes if per_class.shape[1] > 1 else 0])
    candidates.clip(image_size)
    kept = soft_nms(
        candidates.tensor,
        scores[rows, classes],
        classes,
        iou_threshold=iou_threshold,
        min_score=score_threshold,
        max_boxes=max_boxes,
    )
    instances = Instances(
        image_size,
        pred_boxes=candidates[kept.indices],
        scores=kept.scores,
        pred_classes=classes[kept.indices],
    )
    return Detections(instances, rows[kept.indices])
