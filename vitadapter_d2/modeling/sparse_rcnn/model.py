"""Sparse R-CNN as a Detectron2 meta-architecture."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from vitadapter_d2.modeling.image_model import IMAGENET_MEAN, IMAGENET_STD, ImageModel
from vitadapter_d2.modeling.sparse_rcnn.criterion import SetCriterion
from vitadapter_d2.modeling.sparse_rcnn.head import DynamicHead
from vitadapter_d2.modeling.sparse_rcnn.structures import BoxPrediction, BoxTargets


class SparseRCNN(ImageModel):
    """Object detection by learned proposals, without anchors and non-maximum suppression.

    Reference: Sparse R-CNN, Sec. 3.1, arXiv 2011.12450, as ViT-Adapter uses it. Weight names are
    those of PeizeSun/SparseR-CNN (MIT licence). As in the code of the released weights, boxes may
    reach beyond the image: Detectron2's other models clip them.

    Args:
        backbone: gives the levels of a pyramid.
        head: refines the proposals; decides width and classes.
        criterion: the losses, already weighted.
        in_features: names of the levels, those of the head's pooler.
        num_proposals: proposals Q.
        test_topk_per_image: detections of an image, at most Q x K.
        pixel_mean: of each channel.
        pixel_std: of each channel.

    Raises:
        ValueError: for fewer than one proposal or detection.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        head: DynamicHead,
        criterion: SetCriterion,
        in_features: Sequence[str] = ("p2", "p3", "p4", "p5"),
        num_proposals: int = 300,
        test_topk_per_image: int = 300,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        if num_proposals < 1 or test_topk_per_image < 1:
            raise ValueError(
                "num_proposals and test_topk_per_image must be at least 1, "
                f"got {num_proposals} and {test_topk_per_image}"
            )
        self.backbone = backbone
        self.head = head
        self.criterion = criterion
        self.in_features = tuple(in_features)
        self.test_topk_per_image = test_topk_per_image
        self.init_proposal_features = nn.Embedding(num_proposals, head.embed_dim)
        # cxcywh in parts of the image; at first all of it.
        self.init_proposal_boxes = nn.Embedding(num_proposals, 4)
        nn.init.constant_(self.init_proposal_boxes.weight[:, :2], 0.5)
        nn.init.constant_(self.init_proposal_boxes.weight[:, 2:], 1.0)

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
            ``pred_boxes``, ``scores`` and ``pred_classes``, the best first.

        Raises:
            ValueError: in training for missing or wrong targets.
        """
        images = self.preprocess_image(batched_inputs)
        image_whwh = torch.tensor(
            [(width, height, width, height) for height, width in images.image_sizes],
            dtype=torch.float32,
        ).to(self.device)
        if self.training:
            targets = self._targets(batched_inputs, image_whwh)  # first: bad ones cost no forward
            return self.criterion(self._predict(images, image_whwh), targets)
        prediction = self._predict(images, image_whwh)
        return self._postprocess(prediction, batched_inputs, images)

    def _predict(self, images: ImageList, image_whwh: Tensor) -> BoxPrediction:
        features = self.backbone(images.tensor)
        levels = [features[name] for name in self.in_features]
        boxes = box_convert(self.init_proposal_boxes.weight, "cxcywh", "xyxy")
        boxes = boxes * image_whwh[:, None]  # (B, Q, 4)
        proposal_features = self.init_proposal_features.weight.expand(len(boxes), -1, -1)
        return self.head(levels, boxes, proposal_features)

    def _targets(self, batched_inputs: list[dict[str, Any]], image_whwh: Tensor) -> BoxTargets:
        for item in batched_inputs:
            if "instances" not in item:
                raise ValueError(f"training needs 'instances' in every input, got {sorted(item)}")
        instances = [item["instances"] for item in batched_inputs]
        return BoxTargets.from_instances(instances, self.head.num_classes, image_whwh)

    def _postprocess(
        self,
        prediction: BoxPrediction,
        batched_inputs: list[dict[str, Any]],
        images: ImageList,
    ) -> list[dict[str, Instances]]:
        outputs = []
        for logits, boxes, item, image_size in zip(
            prediction.logits[-1],
            prediction.boxes[-1],
            batched_inputs,
            images.image_sizes,
            strict=True,
        ):
            size = item.get("height", image_size[0]), item.get("width", image_size[1])
            found = best_detections(logits, boxes, size, self.test_topk_per_image)
            found.pred_boxes.scale(size[1] / image_size[1], size[0] / image_size[0])
            outputs.append({"instances": found})
        return outputs


def best_detections(
    logits: Tensor, boxes: Tensor, image_size: tuple[int, int], topk: int
) -> Instances:
    """The best pairs of proposal and class; a proposal may be several detections.

    Args:
        logits: ``(Q, K)`` float.
        boxes: ``(Q, 4)`` float32, xyxy in pixels.
        image_size: height and width of the output.
        topk: number of detections, if there are so many pairs.

    Returns:
        ``pred_boxes``, ``scores`` in [0, 1], ``pred_classes``, the best first.
    """
    scores, index = logits.sigmoid().flatten().topk(min(topk, logits.numel()))
    num_classes = logits.shape[1]
    return Instances(
        image_size,
        pred_boxes=Boxes(boxes[index // num_classes]),
        scores=scores,
        pred_classes=index % num_classes,
    )
