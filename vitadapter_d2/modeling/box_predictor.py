"""Detections of ROI heads by Soft-NMS, and the two steps that lead to any detections."""

from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import Tensor

from vitadapter_d2.layers.suppression import SoftNMS, Suppression


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
        suppression = SoftNMS(self.test_nms_thresh, self.test_score_thresh)
        max_boxes = self.test_topk_per_image if self.test_topk_per_image >= 0 else None
        detections, rows = [], []
        for boxes, scores, image in zip(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            proposals,
            strict=True,
        ):
            found, places = candidates(boxes, scores, image.image_size, self.test_score_thresh)
            best, kept = suppress(found, suppression, max_boxes)
            detections.append(best)
            rows.append(places[kept])
        return detections, rows


def candidates(
    boxes: Tensor, scores: Tensor, image_size: tuple[int, int], score_threshold: float
) -> tuple[Instances, Tensor]:
    """All pairs of a box and a class that is likely enough.

    Args:
        boxes: ``(R, 4K)`` or, the same for all classes, ``(R, 4)`` float, x0 y0 x1 y1.
        scores: ``(R, K + 1)`` float, probabilities, the last of background.
        image_size: ``(height, width)`` that boxes are clipped to.
        score_threshold: that scores must exceed.

    Returns:
        ``pred_boxes``, ``scores``, ``pred_classes``; and the row of each, ``(M,)`` int64.
    """
    rows, classes = (scores[:, :-1] > score_threshold).nonzero(as_tuple=True)
    per_class = boxes.unflatten(1, (-1, 4))
    found = Boxes(per_class[rows, classes if per_class.shape[1] > 1 else 0])
    found.clip(image_size)
    return (
        Instances(image_size, pred_boxes=found, scores=scores[rows, classes], pred_classes=classes),
        rows,
    )


def suppress(
    found: Instances, suppression: Suppression, max_boxes: int | None
) -> tuple[Instances, Tensor]:
    """The best of some candidates.

    Args:
        found: ``pred_boxes``, ``scores``, ``pred_classes`` of one image.
        suppression: chooses.
        max_boxes: how many to give at most; None gives all.

    Returns:
        Detections with the scores that are left, best first; and their places in ``found``.
    """
    kept = suppression(found.pred_boxes.tensor, found.scores, found.pred_classes, max_boxes)
    best = found[kept.indices]
    best.scores = kept.scores
    return best, kept.indices
