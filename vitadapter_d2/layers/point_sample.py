"""Values of maps at points, and the points worth a loss."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points; outside of a map lie zeros.

    Args:
        maps: ``(N, C, H, W)`` float. Cell ``(i, j)`` has its centre at
            ``((j + 0.5) / W, (i + 0.5) / H)``.
        points: ``(N, P, 2)`` as ``(x, y)`` in [0, 1]. float32 whatever ``maps`` is: half precision
            would move them by half a pixel at 160 columns.

    Returns:
        ``(N, C, P)`` in the wider type of the two.
    """
    dtype = torch.promote_types(maps.dtype, points.dtype)
    grid = points.to(dtype)[:, :, None] * 2 - 1
    return F.grid_sample(maps.to(dtype), grid, align_corners=False).squeeze(-1)


@torch.no_grad()
def uncertain_points(
    logits: Tensor, num_points: int, oversample_ratio: float = 3.0, importance_ratio: float = 0.75
) -> Tensor:
    """Draws points of which most lie where a mask is undecided.

    Of ``oversample_ratio * num_points`` uniform points those whose sampled logit is nearest to zero
    are kept for the share ``importance_ratio``; the rest is uniform.

    Reference: PointRend, Sec. 3.1, arXiv 1912.08193.

    Args:
        logits: ``(N, H, W)`` mask logits.
        num_points: points P to draw for each mask.
        oversample_ratio: candidates over ``num_points``, at least 1.
        importance_ratio: share of the points that is chosen, in [0, 1].

    Returns:
        ``(N, P, 2)`` float32, ``(x, y)`` in [0, 1).
    """
    count = logits.shape[0]
    num_important = int(importance_ratio * num_points)
    candidates = torch.rand(
        count, int(num_points * oversample_ratio), 2, device=logits.device, dtype=torch.float32
    )
    # Distance from zero is taken of the sampled logits: sampling distances instead would miss the
    # zero crossing between two confident pixels.
    distance = sample_points(logits[:, None], candidates)[:, 0].abs()
    chosen = distance.topk(num_important, dim=1, largest=False, sorted=False).indices
    important = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    uniform = torch.rand(
        count, num_points - num_important, 2, device=logits.device, dtype=torch.float32
    )
    return torch.cat((important, uniform), dim=1)
