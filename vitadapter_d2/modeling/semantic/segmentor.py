"""Semantic segmentation as a Detectron2 meta-architecture."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn

from vitadapter_d2.compat import image_list_from_tensors
from vitadapter_d2.layers.losses import semantic_cross_entropy
from vitadapter_d2.modeling.image_model import IMAGENET_MEAN, IMAGENET_STD, ImageModel
from vitadapter_d2.modeling.semantic.head import SemanticHead, resize
from vitadapter_d2.modeling.semantic.semantic_fpn import SemanticFPNHead

Head = SemanticHead | SemanticFPNHead


class SemanticSegmentor(ImageModel):
    """A backbone, a head that gives logits, and heads that only help training.

    Detectron2's class of the same name leaves loss and upsampling to its head and has no auxiliary
    heads; inputs and outputs are the same.

    Args:
        backbone: gives the maps that the heads want.
        sem_seg_head: maps by name -> logits ``(B, K, h, w)``.
        auxiliary_head: one more such head, or several, used in training alone.
        ignore_value: label of pixels that cost nothing.
        average_over_ignored: the mean of the losses counts the ignored pixels too, those of the
            padding included, as the official training does; otherwise they are left out of it.
        pixel_mean: of each channel.
        pixel_std: of each channel.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: Head,
        auxiliary_head: Head | Sequence[Head] | None = None,
        ignore_value: int = 255,
        average_over_ignored: bool = True,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.auxiliary_head = (
            nn.ModuleList(auxiliary_head)
            if isinstance(auxiliary_head, Sequence)
            else auxiliary_head
        )
        counts = {head.num_classes for head in self._heads().values()}
        if len(counts) > 1:
            raise ValueError(f"all heads must have the same num_classes, got {sorted(counts)}")
        self.ignore_value = ignore_value
        self.average_over_ignored = average_over_ignored

    @property
    def num_classes(self) -> int:
        """K."""
        return self.sem_seg_head.num_classes

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, scores otherwise.

        Args:
            batched_inputs: a dict for each image, in Detectron2's format: ``image`` ``(3, H, W)``,
                not normalised; for training ``sem_seg`` ``(H, W)`` integers in [0, K) or
                ``ignore_value``; for inference ``height`` and ``width`` of the output, those of
                ``image`` if missing.

        Returns:
            In training the weighted losses, ``loss_sem_seg`` and ``loss_auxiliary`` (with several
            heads ``loss_auxiliary_0``, ...). Otherwise for each image ``sem_seg``, logits
            ``(K, height, width)`` float32; every image is seen alone, whatever its batch.

        Raises:
            ValueError: in training for missing or wrong labels.
        """
        images = [self.normalize(item["image"]) for item in batched_inputs]
        if self.training:
            return self._losses(images, [self._labels(item) for item in batched_inputs])
        if len({image.shape for image in images}) == 1:
            scores = list(self.semantic_scores(torch.stack(images)))
        else:
            scores = [self.semantic_scores(image[None])[0] for image in images]
        return [
            {"sem_seg": _at_output_size(score, item)}
            for score, item in zip(scores, batched_inputs, strict=True)
        ]

    def semantic_scores(self, images: Tensor) -> Tensor:
        """Class logits of every pixel.

        Args:
            images: ``(B, 3, H, W)`` normalised float, H and W at least 1; padded with zeros to the
                backbone's ``size_divisibility``.

        Returns:
            ``(B, K, H, W)`` float32.
        """
        height, width = images.shape[-2:]
        padded = image_list_from_tensors(list(images), self.backbone).tensor
        logits = self.sem_seg_head(self.backbone(padded)).float()
        return resize(logits, (padded.shape[2], padded.shape[3]))[..., :height, :width]

    def _losses(self, images: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
        batch = image_list_from_tensors(images, self.backbone).tensor
        height, width = batch.shape[-2:]
        targets = labels[0].new_full((len(labels), height, width), self.ignore_value)
        for target, label in zip(targets, labels, strict=True):
            target[: label.shape[0], : label.shape[1]] = label
        targets = targets.to(self.device)
        features = self.backbone(batch)
        losses = {}
        for name, head in self._heads().items():
            # In float32 before the resize: half precision would round the logits twice.
            logits = resize(head(features).float(), (height, width))
            losses[name] = head.loss_weight * semantic_cross_entropy(
                logits, targets, self.ignore_value, self.average_over_ignored
            )
        return losses

    def _heads(self) -> dict[str, Any]:
        heads: dict[str, Any] = {"loss_sem_seg": self.sem_seg_head}
        if isinstance(self.auxiliary_head, nn.ModuleList):
            for index, head in enumerate(self.auxiliary_head):
                heads[f"loss_auxiliary_{index}"] = head
        elif self.auxiliary_head is not None:
            heads["loss_auxiliary"] = self.auxiliary_head
        return heads

    def _labels(self, item: dict[str, Any]) -> Tensor:
        """The label map ``(H, W)`` of one image, int64, checked."""
        source = item.get("file_name", "an image")
        if "sem_seg" not in item:
            raise ValueError(f"training needs 'sem_seg' of {source}, got {sorted(item)}")
        labels, size = item["sem_seg"], tuple(item["image"].shape[-2:])
        if tuple(labels.shape) != size or labels.is_floating_point():
            raise ValueError(
                f"sem_seg of {source} must be integers of the image's size {size}, "
                f"got {tuple(labels.shape)} {labels.dtype}"
            )
        labels = labels.long()
        legal = (labels >= 0) & (labels < self.num_classes) | (labels == self.ignore_value)
        if not legal.all():
            raise ValueError(
                f"sem_seg of {source} must be in [0, {self.num_classes}) or {self.ignore_value}, "
                f"got {labels[~legal].unique().tolist()}"
            )
        return labels


def _at_output_size(score: Tensor, item: dict[str, Any]) -> Tensor:
    height, width = score.shape[-2:]
    return resize(score[None], (item.get("height", height), item.get("width", width)))[0]
