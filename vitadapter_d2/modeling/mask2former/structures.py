"""What the parts of Mask2Former hand to each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MaskPrediction:
    """One set of predictions, of one supervised output.

    Attributes:
        pred_logits: ``(B, Q, K + 1)`` class logits, index K is "no object".
        pred_masks: ``(B, Q, H / 4, W / 4)`` mask logits.
    """

    pred_logits: Tensor
    pred_masks: Tensor


@dataclass(frozen=True)
class MaskTargets:
    """Ground truth of a batch, all images' masks one after the other.

    Attributes:
        labels: ``(N,)`` int64, in [0, K).
        masks: ``(N, H, W)`` float32, 0 or 1, at the size of the padded batch.
        counts: number of masks of each image; its sum is N.
    """

    labels: Tensor
    masks: Tensor
    counts: tuple[int, ...]

    @classmethod
    def pad(
        cls, labels: Sequence[Tensor], masks: Sequence[Tensor], size: tuple[int, int]
    ) -> "MaskTargets":
        """Joins images' targets, masks padded with zeros at the right and bottom.

        Args:
            labels: per image ``(N_i,)`` integers.
            masks: per image ``(N_i, H_i, W_i)``, bool or 0 / 1.
            size: ``(H, W)`` of the padded batch.

        Raises:
            ValueError: if a mask is larger than ``size``, or labels and masks differ in number.
        """
        counts = tuple(len(image) for image in labels)
        padded = masks[0].new_zeros((sum(counts), *size), dtype=torch.float32)
        start = 0
        for count, image in zip(counts, masks, strict=True):
            height, width = image.shape[-2:]
            if len(image) != count or height > size[0] or width > size[1]:
                raise ValueError(
                    f"masks must be ({count}, H <= {size[0]}, W <= {size[1]}), one for each label, "
                    f"got {tuple(image.shape)}"
                )
            padded[start : start + count, :height, :width] = image
            start += count
        return cls(torch.cat(list(labels)).long(), padded, counts)
