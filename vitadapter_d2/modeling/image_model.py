"""What the meta-architectures share: from raw images to the network's input."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from vitadapter_d2.compat import image_list_from_tensors

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class ImageModel(nn.Module):
    """A model that normalises its images itself; subclasses set ``backbone``.

    Args:
        pixel_mean: of each of the three channels.
        pixel_std: of each of the three channels.
    """

    backbone: Backbone
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            channels = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, channels, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model lies; inputs are moved there."""
        return self.pixel_mean.device

    def normalize(self, image: Tensor) -> Tensor:
        """Raw ``(3, H, W)`` to zero mean and unit variance, float32 on the model's device.

        Raises:
            ValueError: the image has another shape.
        """
        if image.ndim != 3 or len(image) != len(self.pixel_mean):
            raise ValueError(
                f"image must be ({len(self.pixel_mean)}, H, W), got {tuple(image.shape)}"
            )
        return (image.to(self.device) - self.pixel_mean) / self.pixel_std

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalises the images and pads them, with zeros, to a size that the backbone takes."""
        images = [self.normalize(item["image"]) for item in batched_inputs]
        return image_list_from_tensors(images, self.backbone)
