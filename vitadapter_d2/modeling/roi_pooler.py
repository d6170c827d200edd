"""Regions of interest, cut out where their boxes are."""

import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor


class PreciseROIPooler(ROIPooler):
    """Detectron2's pooler with boxes that keep their digits whatever type the features have.

    Its parent rounds boxes to the features' type: in bfloat16 an edge beyond 512 pixels moves by
    up to 2, one beyond 1024 by up to 4. Here only the result is rounded; torchvision's kernel under
    autocast computes in float32 anyway. Arguments and, for float32 features, numbers are those of
    the parent.
    """

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Regions of all boxes.

        Args:
            x: levels ``(B, C, h, w)`` float, finest first.
            box_lists: for each image its boxes, xyxy in pixels, float32.

        Returns:
            ``(R, C, output_size, output_size)`` of the features' type, for R boxes in all images.
        """
        dtype = x[0].dtype
        precise = torch.promote_types(dtype, torch.float32)
        return super().forward([level.to(precise) for level in x], box_lists).to(dtype)
