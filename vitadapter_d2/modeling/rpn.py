"""The region proposal network, trained on the anchors that count."""

import math
from typing import Any

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.memory import retry_if_cuda_oom
from torch import Tensor


class ValidAnchorRPN(RPN):
    """Detectron2's RPN, which chooses its anchors before it matches them, as mmdetection does.

    An object's best anchor is then the best of those that may be trained. Anchors count whose cell
    lies in the image as it would be padded alone, not in the padding to the largest of the batch;
    and, with ``anchor_boundary_thresh`` of 0 or more, those alone that reach no more than this
    beyond the image without padding.

    Reference: Faster R-CNN, Sec. 3.1.2 and 3.3, arXiv 1506.01497.

    Args:
        pad_multiple: what both sides of an image alone are padded to a multiple of; None: all
            images are padded alike, and every cell counts.
        **rpn: of the parent.

    Raises:
        ValueError: ``pad_multiple`` is less than 1.
    """

    def __init__(self, *, pad_multiple: int | None = 32, **rpn: Any) -> None:
        if pad_multiple is not None and pad_multiple < 1:
            raise ValueError(f"pad_multiple must be at least 1 or None, got {pad_multiple}")
        super().__init__(**rpn)
        self.pad_multiple = pad_multiple

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What the anchors of each image are trained with.

        Args:
            anchors: of each level.
            gt_instances: per image, with ``gt_boxes``; their ``image_size`` is without padding.

        Returns:
            Per image labels ``(N,)`` int8 of all anchors: 1 object, 0 background, -1 not used;
            and boxes ``(N, 4)`` of the matched objects, of no meaning but where the label is 1.
        """
        every = Boxes.cat(anchors)
        labels, boxes = [], []
        for image in gt_instances:
            valid = self._valid(anchors, every, image.image_size)
            overlaps = retry_if_cuda_oom(pairwise_iou)(image.gt_boxes, every[valid])
            matches, found = retry_if_cuda_oom(self.anchor_matcher)(overlaps)
            label = torch.full((len(every),), -1, dtype=found.dtype, device=every.device)
            label[valid] = found.to(every.device)  # a matcher short of memory answers on the CPU
            matched = torch.zeros_like(every.tensor)
            if len(image):
                matched[valid] = image.gt_boxes.tensor[matches.to(every.device)]
            labels.append(self._subsample_labels(label))
            boxes.append(matched)
        return labels, boxes

    def _valid(self, anchors: list[Boxes], every: Boxes, image_size: tuple[int, int]) -> Tensor:
        """``(N,)`` bool, the anchors that count in an image."""
        valid = torch.ones(len(every), dtype=torch.bool, device=every.device)
        multiple = self.pad_multiple
        if multiple is not None:
            height, width = (math.ceil(side / multiple) * multiple for side in image_size)
            in_own_cells = []  # by column and by row
            for level, stride in zip(anchors, self.anchor_generator.strides, strict=True):
                cell = (level.get_centers() / stride - self.anchor_generator.offset).round()
                count = cell.new_tensor([math.ceil(width / stride), math.ceil(height / stride)])
                in_own_cells.append(cell < count)
            valid = torch.cat(in_own_cells).all(dim=1)
        if self.anchor_boundary_thresh >= 0:
            valid &= every.inside_box(image_size, self.anchor_boundary_thresh)
        return valid
