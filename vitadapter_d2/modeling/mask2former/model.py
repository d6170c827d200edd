"""Mask2Former as a Detectron2 meta-architecture."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.data.catalog import Metadata
from detectron2.modeling import Backbone
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import Tensor

from vitadapter_d2.compat import image_list_from_tensors
from vitadapter_d2.modeling.image_model import IMAGENET_MEAN, IMAGENET_STD, ImageModel
from vitadapter_d2.modeling.mask2former.criterion import SetCriterion
from vitadapter_d2.modeling.mask2former.head import MaskFormerHead
from vitadapter_d2.modeling.mask2former.postprocess import (
    MaskUpsampler,
    Size,
    instance_inference,
    panoptic_inference,
    scores_at_input_size,
    semantic_inference,
)
from vitadapter_d2.modeling.mask2former.structures import MaskPrediction, MaskTargets


class Mask2Former(ImageModel):
    """Semantic, panoptic and instance segmentation by classified masks, all from one forward.

    Reference: Mask2Former, arXiv 2112.01527. Weight names are those of
    facebookresearch/Mask2Former. Departures: instances get boxes from their masks (zeros there) and
    are sorted by score, panoptic segments carry a ``score``.

    Args:
        backbone: gives ``res2`` to ``res5``.
        sem_seg_head: predicts classes and masks from them.
        criterion: the losses, already weighted.
        metadata: of the data set; its ``thing_dataset_id_to_contiguous_id`` tells things from
            stuff, which only panoptic output needs.
        semantic_on: give ``sem_seg``.
        panoptic_on: give ``panoptic_seg``; instances are then limited to thing classes.
        instance_on: give ``instances``.
        object_mask_threshold: class probability that a panoptic segment must exceed.
        overlap_threshold: share of its mask that a panoptic segment must own.
        sem_seg_postprocess_before_inference: resize the masks of all queries to the output size
            before they are summed to class scores, instead of the scores after it. Slower and not
            numerically equal; always so if panoptic or instance output is on, unless the next
            option is.
        sem_seg_product_before_upsampling: form the semantic scores at the masks' resolution and
            resize these, as ViT-Adapter does, rather than the masks, as Mask2Former does. Not
            numerically equal.
        test_topk_per_image: instances of an image.
        pixel_mean: of each channel.
        pixel_std: of each channel.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: MaskFormerHead,
        criterion: SetCriterion,
        metadata: Metadata | None = None,
        semantic_on: bool = True,
        panoptic_on: bool = False,
        instance_on: bool = False,
        object_mask_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
        sem_seg_postprocess_before_inference: bool = False,
        sem_seg_product_before_upsampling: bool = False,
        test_topk_per_image: int = 100,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        if not (semantic_on or panoptic_on or instance_on):
            raise ValueError("one of semantic_on, panoptic_on, instance_on must be True")
        if sem_seg_postprocess_before_inference and sem_seg_product_before_upsampling:
            raise ValueError(
                "sem_seg_postprocess_before_inference and sem_seg_product_before_upsampling "
                "contradict each other, only one may be True"
            )
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.metadata = metadata
        self.semantic_on = semantic_on
        self.panoptic_on = panoptic_on
        self.instance_on = instance_on
        self.object_mask_threshold = object_mask_threshold
        self.overlap_threshold = overlap_threshold
        self.sem_seg_product_before_upsampling = sem_seg_product_before_upsampling
        self.sem_seg_postprocess_before_inference = sem_seg_postprocess_before_inference or (
            (panoptic_on or instance_on) and not sem_seg_product_before_upsampling
        )
        self.test_topk_per_image = test_topk_per_image

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses in training, outputs otherwise.

        Args:
            batched_inputs: a dict for each image, in Detectron2's format: ``image`` ``(3, H, W)``,
                not normalised; for training ``instances`` with ``gt_classes`` and ``gt_masks``
                (``BitMasks``, or ``(N, H, W)`` bool); for inference ``height`` and ``width`` of
                the output, those of ``image`` if missing.

        Returns:
            In training the weighted losses. Otherwise a dict for each image: ``sem_seg``
            ``(K, H, W)`` scores, ``panoptic_seg`` with ids ``(H, W)`` and segment dicts,
            ``instances``, as far as switched on.

        Raises:
            ValueError: in training for missing or wrong targets; at inference if panoptic output
                is on and the metadata does not know the thing classes.
        """
        images = self.preprocess_image(batched_inputs)
        if self.training:
            targets = self._targets(batched_inputs, images)  # first: bad ones cost no forward
            return self.criterion(self.sem_seg_head(self.backbone(images.tensor)), targets)
        predictions = self.sem_seg_head(self.backbone(images.tensor))
        return self._postprocess(predictions[-1], batched_inputs, images)

    def semantic_scores(self, images: Tensor) -> Tensor:
        """Semantic scores of images of one size, whatever outputs are switched on.

        Args:
            images: ``(B, 3, H, W)``, normalised, any H and W.

        Returns:
            ``(B, K, H, W)`` float32 in [0, Q]: sums of masks weighted by class probability.
        """
        batch = image_list_from_tensors(list(images), self.backbone)
        prediction = self.sem_seg_head(self.backbone(batch.tensor))[-1]
        padded = (batch.tensor.shape[-2], batch.tensor.shape[-1])
        scores = [
            scores_at_input_size(*logits, padded, self.sem_seg_product_before_upsampling)
            for logits in zip(prediction.pred_logits, prediction.pred_masks, strict=True)
        ]
        return torch.stack(scores)[..., : images.shape[-2], : images.shape[-1]]

    def _targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> MaskTargets:
        labels, masks = [], []
        for item, size in zip(batched_inputs, images.image_sizes, strict=True):
            image_labels, image_masks = _image_targets(item, size, self.criterion.num_classes)
            labels.append(image_labels.to(self.device))
            masks.append(image_masks.to(self.device))
        height, width = images.tensor.shape[-2:]
        return MaskTargets.pad(labels, masks, (height, width))

    def _postprocess(
        self,
        prediction: MaskPrediction,
        batched_inputs: list[dict[str, Any]],
        images: ImageList,
    ) -> list[dict[str, Any]]:
        height, width = images.tensor.shape[-2:]
        outputs = []
        for class_logits, mask_logits, item, image_size in zip(
            prediction.pred_logits,
            prediction.pred_masks,
            batched_inputs,
            images.image_sizes,
            strict=True,
        ):
            output_size = (item.get("height", image_size[0]), item.get("width", image_size[1]))
            masks = MaskUpsampler(mask_logits, (height, width), tuple(image_size), output_size)
            outputs.append(self._image_outputs(class_logits, masks))
        return outputs

    def _image_outputs(self, class_logits: Tensor, masks: MaskUpsampler) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        if self.semantic_on:
            outputs["sem_seg"] = self._semantic(class_logits, masks)
        if self.panoptic_on:
            outputs["panoptic_seg"] = panoptic_inference(
                class_logits,
                masks,
                self._thing_ids(),
                self.object_mask_threshold,
                self.overlap_threshold,
            )
        if self.instance_on:
            class_ids = self._thing_ids() if self.panoptic_on else None
            outputs["instances"] = instance_inference(
                class_logits, masks, self.test_topk_per_image, class_ids
            )
        return outputs

    def _semantic(self, class_logits: Tensor, masks: MaskUpsampler) -> Tensor:
        if self.sem_seg_postprocess_before_inference:
            return semantic_inference(class_logits, masks)
        scores = scores_at_input_size(
            class_logits,
            masks.mask_logits,
            masks.padded_size,
            self.sem_seg_product_before_upsampling,
        )
        return sem_seg_postprocess(scores, masks.image_size, *masks.output_size)

    def _thing_ids(self) -> frozenset[int]:
        # Read when needed: Detectron2 completes some data sets' metadata when it loads them.
        ids = None
        if self.metadata is not None:
            ids = self.metadata.get("thing_dataset_id_to_contiguous_id")
        if ids is None:
            raise ValueError(
                "panoptic output needs metadata with thing_dataset_id_to_contiguous_id, "
                f"got {self.metadata}"
            )
        return frozenset(ids.values())


def _image_targets(item: dict[str, Any], size: Size, num_classes: int) -> tuple[Tensor, Tensor]:
    """Labels ``(N,)`` and masks ``(N, H, W)`` of one image, checked."""
    if "instances" not in item:
        raise ValueError(f"training needs 'instances' in every input, got {sorted(item)}")
    instances = item["instances"]
    if not instances.get_fields() or not len(instances):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, *size, dtype=torch.bool)
    if not instances.has("gt_classes"):
        raise ValueError(f"instances need gt_classes, got {sorted(instances.get_fields())}")
    masks = instances.gt_masks if instances.has("gt_masks") else None
    masks = getattr(masks, "tensor", masks)
    if not isinstance(masks, Tensor):
        raise ValueError(
            "gt_masks must be BitMasks or a (N, H, W) tensor (instance_mask_format='bitmask'), "
            f"got {type(masks).__name__}"
        )
    if tuple(masks.shape[-2:]) != tuple(size):  # smaller ones would be padded without a word
        raise ValueError(
            f"gt_masks must have the size of their image, {tuple(size)}, got {tuple(masks.shape)}"
        )
    labels = instances.gt_classes
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"gt_classes must be in [0, {num_classes}), got {labels.min()} to {labels.max()}"
        )
    return labels, masks
