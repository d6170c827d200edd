"""Losses of generalised focal loss."""

import torch.nn.functional as F
from torch import Tensor


def quality_focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Binary cross entropy with soft targets, weighted by the distance from them.

    Reference: GFL, Eq. 4, arXiv 2006.04388.

    Args:
        logits: ``(..., K)`` float.
        targets: ``(..., K)`` in [0, 1].
        gamma: power of the distance; the paper's beta.

    Returns:
        ``(..., K)``, non-negative.
    """
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return losses * (targets - logits.sigmoid()).abs().pow(gamma)


def distribution_focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of the two bins around a number, weighted by its nearness to each.

    Reference: GFL, Eq. 6, arXiv 2006.04388.

    Args:
        logits: ``(..., R + 1)`` float, of the numbers 0 to R.
        targets: ``(...)`` float in [0, R).

    Returns:
        ``(...)``, non-negative.
    """
    scores = logits.log_softmax(-1)
    lower = targets.floor()
    left = scores.gather(-1, lower.long()[..., None]).squeeze(-1)
    right = scores.gather(-1, lower.long()[..., None] + 1).squeeze(-1)
    fraction = targets - lower
    return -(left * (1 - fraction) + right * fraction)
