"""The meta-architecture of Hybrid Task Cascade."""

from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor

Input = dict[str, Any]


class HybridTaskCascade(GeneralizedRCNN):
    """Detectron2's ``GeneralizedRCNN`` that also trains on label maps.

    Reference: Hybrid Task Cascade, arXiv 1901.07518; with ``AttentionFPN``, Soft-NMS and a wider
    range of sizes it is the HTC++ of ViT-Adapter, Sec. 4.1, arXiv 2205.08534.

    Its arguments are those of ``GeneralizedRCNN``; ``roi_heads`` is an ``HTCROIHeads``.
    """

    def forward(self, batched_inputs: list[Input]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses in training, detections otherwise.

        Args:
            batched_inputs: a dict for each image in Detectron2's format: ``image``, ``instances``
                and, for training, ``sem_seg`` ``(H, W)`` integers, the class of each pixel.

        Returns:
            See ``GeneralizedRCNN``.

        Raises:
            ValueError: in training for missing or wrong label maps.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        labels = self._labels(batched_inputs, images.tensor)
        targets = [item["instances"].to(self.device) for item in batched_inputs]
        features = self.backbone(images.tensor)
        proposals, losses = self.proposal_generator(images, features, targets)
        _, roi_losses = self.roi_heads(images, features, proposals, targets, labels)
        return losses | roi_losses

    def _labels(self, batched_inputs: list[Input], images: Tensor) -> Tensor:
        """Label maps ``(B, H, W)`` int64 of the batch; padding is ignored."""
        head = self.roi_heads.semantic_head
        shape = (len(images), *images.shape[-2:])
        labels = torch.full(shape, head.ignore_value, dtype=torch.int64)
        for label, item in zip(labels, batched_inputs, strict=True):
            source = item.get("file_name", "an image")
            size = tuple(item["image"].shape[-2:])
            given = item.get("sem_seg")
            if given is None or tuple(given.shape) != size:
                got = "none" if given is None else f"one of size {tuple(given.shape)}"
                raise ValueError(f"training needs a sem_seg of size {size} of {source}, got {got}")
            legal = (given >= 0) & (given < head.num_classes) | (given == head.ignore_value)
            if not legal.all():
                raise ValueError(
                    f"sem_seg of {source} must be in [0, {head.num_classes}) or "
                    f"{head.ignore_value}, got {given[~legal].unique().tolist()}"
                )
            label[: size[0], : size[1]] = given
        return labels.to(images.device)
