"""Pixels for a model that subtracts another mean than the one wanted."""

from collections.abc import Sequence
from functools import partial

import detectron2.data.transforms as T
import numpy as np


class Renormalize(T.Augmentation):
    """Shift and scale the channels so that a model's own normalisation amounts to another one.

    It belongs at the end, since it makes an image float32. For the released Mask R-CNN with
    DINOv2-L, which was trained with other statistics than it is tested with.

    Args:
        mean: what is to be subtracted in effect, per channel, in raw units.
        std: what is to be divided by in effect.
        model_mean: what the model subtracts.
        model_std: what the model divides by.

    Raises:
        ValueError: if a deviation is not positive.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        model_mean: Sequence[float],
        model_std: Sequence[float],
    ) -> None:
        super().__init__()
        for name, deviations in (("std", std), ("model_std", model_std)):
            if min(deviations) <= 0:
                raise ValueError(f"{name} must be positive, got {tuple(deviations)}")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The same for every image."""
        del image
        scale = np.divide(self.model_std, self.std)
        shift = self.model_mean - scale * np.asarray(self.mean)
        return T.ColorTransform(partial(_affine, scale=scale, shift=shift))


def _affine(image: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return (image * scale + shift).astype(np.float32)
