"""Losses of masks given by their logits at points."""

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
