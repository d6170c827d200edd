"""Losses of masks given by their logits at points, and of label maps."""

import torch.nn.functional as F
from torch import Tensor


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the soft Dice overlap, with one added to numerator and denominator.

    Reference: V-Net, Sec. 3, arXiv 1606.04797, linear denominator as in MaskFormer,
    arXiv 2107.06278.

    Args:
        logits: ``(..., P)`` float.
        targets: ``(..., P)`` in [0, 1].

    Returns:
        ``(...)``, in [0, 1).
    """
    probabilities = logits.sigmoid()
    overlap = (probabilities * targets).sum(-1)
    return 1 - (2 * overlap + 1) / (probabilities.sum(-1) + targets.sum(-1) + 1)


def mask_bce_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy, mean over points.

    Args:
        logits: ``(..., P)`` float.
        targets: ``(..., P)`` in [0, 1].

    Returns:
        ``(...)``, non-negative.
    """
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)


def semantic_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_value: int = 255, average_over_ignored: bool = True
) -> Tensor:
    """Cross entropy of a label map.

    Args:
        logits: ``(B, K, H, W)`` float.
        labels: ``(B, H, W)`` int64 in [0, K) or ``ignore_value``.
        ignore_value: label of pixels that cost nothing.
        average_over_ignored: divide the sum by the number of all pixels, as the official
            segmentation training does; otherwise by the number of those that are not ignored.

    Returns:
        Scalar, 0 when every pixel is ignored.
    """
    total = F.cross_entropy(logits, labels, ignore_index=ignore_value, reduction="sum")
    if average_over_ignored:
        return total / labels.numel()
    return total / (labels != ignore_value).sum().clamp(min=1)


def focal_class_cost(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of a class that is the target's, less that of a class that is not.

    Reference: Deformable DETR, Appendix A.3, arXiv 2010.04159; what matching costs a class.

    Args:
        logits: of any shape, float32.
        alpha: weight of targets against background, in [0, 1].
        gamma: focus on hard ones, at least 0.

    Returns:
        As ``logits``.
    """
    probability = logits.sigmoid()
    as_target = alpha * (1 - probability) ** gamma * F.softplus(-logits)
    as_background = (1 - alpha) * probability**gamma * F.softplus(logits)
    return as_target - as_background
