"""A detector that trains on squares."""

from typing import Any

import torch.nn.functional as F
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import ImageList


class PaddedRCNN(GeneralizedRCNN):
    """Detectron2's ``GeneralizedRCNN`` that pads all images to one size in training.

    Padding is not part of an image, so proposals end where the image does; padded by the mapper
    they would not. Large-scale jitter wants it, Ghiasi et al., arXiv 2012.07177, Sec. 3.

    Args:
        train_side: height and width in pixels; larger images stay as they are.
        **rcnn: of the parent.

    Raises:
        ValueError: ``train_side`` is less than 1.
    """

    def __init__(self, *, train_side: int, **rcnn: Any) -> None:
        if train_side < 1:
            raise ValueError(f"train_side must be at least 1, got {train_side}")
        super().__init__(**rcnn)
        self.train_side = train_side

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalises and batches the images, with zeros at the right and the bottom."""
        images = super().preprocess_image(batched_inputs)
        if not self.training:
            return images
        height, width = images.tensor.shape[-2:]
        missing = (0, max(self.train_side - width, 0), 0, max(self.train_side - height, 0))
        return ImageList(F.pad(images.tensor, missing), images.image_sizes)
