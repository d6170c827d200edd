"""Queries made of noisy ground truth, in training only.

The design is that of IDEA-Research/DINO (Apache-2.0) and its paper.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from vitadapter_d2.modeling.dino.coordinates import EPSILON
from vitadapter_d2.modeling.dino.structures import BoxTargets


@dataclass(frozen=True)
class DenoisingQueries:
    """Groups of T queries that should find their box, then T that should say "nothing".

    T is the largest number of boxes of an image; D = 2 T times the number of groups.

    Attributes:
        content: ``(B, D, C)``.
        boxes: ``(B, D, 4)`` float32, cxcywh in (0, 1).
        is_real: ``(B, D)`` bool, False for what fills up images with fewer than T boxes.
        num_groups: groups G.
    """

    content: Tensor
    boxes: Tensor
    is_real: Tensor
    num_groups: int

    def target_queries(self, targets: BoxTargets) -> Tensor:
        """``(G, N)`` int64: the query of each group, within its image, that should find a box."""
        group_size = self.is_real.shape[1] // self.num_groups
        groups = torch.arange(self.num_groups, device=self.is_real.device)
        return groups[:, None] * group_size + targets.slot

    def allowed(self, num_queries: int) -> Tensor:
        """Who may see whom, with the other queries behind these.

        A group sees itself and the other queries; these do not see the groups, which know the
        truth.

        Args:
            num_queries: how many queries follow.

        Returns:
            ``(B, D + num_queries, D + num_queries)`` bool, True where the row may see the column.
        """
        batch, num_noisy = self.is_real.shape
        device = self.is_real.device
        others = torch.full((num_queries,), -1, device=device)
        groups = torch.arange(self.num_groups, device=device)
        groups = groups.repeat_interleave(num_noisy // self.num_groups)
        groups = torch.cat((groups, others))
        is_seen = torch.cat((self.is_real, (others < 0).expand(batch, -1)), dim=1)
        return ((groups[:, None] == groups) | (groups < 0)) & is_seen[:, None]


class ContrastiveDenoising(nn.Module):
    """Makes queries from boxes moved a little, to be found, and moved more, to be refused.

    Reference: DINO, Sec. 3.3, arXiv 2203.03605; DN-DETR, Sec. 4.3, arXiv 2203.01305. Corners move
    by less than ``box_noise`` half sides, or by one to two times that. Departure from the released
    code: what fills up images with fewer boxes than others of the batch is seen by no query and
    not supervised.

    Args:
        num_classes: classes K.
        embed_dim: width C.
        num_queries: pairs of queries over all groups, approximately; at least one group is made.
        label_noise: half of it is the probability of a random class, in [0, 1].
        box_noise: see above, at least 0.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int = 256,
        num_queries: int = 100,
        label_noise: float = 0.5,
        box_noise: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_noise <= 1:
            raise ValueError(f"label_noise must be in [0, 1], got {label_noise}")
        if box_noise < 0:
            raise ValueError(f"box_noise must be at least 0, got {box_noise}")
        self.num_queries = num_queries
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.label_embed = nn.Embedding(num_classes, embed_dim)

    def forward(self, targets: BoxTargets) -> DenoisingQueries:
        """Draws the queries; none, but with their graph, for a batch without boxes."""
        largest = max(targets.counts)
        num_groups = max(self.num_queries // max(largest, 1), 1)
        place = (targets.image_index, targets.slot)
        labels = targets.labels.new_zeros(len(targets.counts), largest)
        boxes = targets.boxes.new_full((*labels.shape, 4), 0.5)
        is_real = torch.zeros_like(labels, dtype=torch.bool)
        labels[place], boxes[place], is_real[place] = targets.labels, targets.boxes, True
        repeats = (-1, num_groups, 2, -1)  # (B, G, 2, T)
        labels = self._noisy_labels(labels[:, None, None].expand(repeats)).flatten(1)
        boxes = self._noisy_boxes(boxes[:, None, None].expand(*repeats, -1)).flatten(1, 3)
        is_real = is_real[:, None, None].expand(repeats).flatten(1)
        return DenoisingQueries(self.label_embed(labels), boxes, is_real, num_groups)

    def _noisy_labels(self, labels: Tensor) -> Tensor:
        drawn = torch.randint_like(labels, self.label_embed.num_embeddings)
        is_noisy = torch.rand(labels.shape, device=labels.device) < self.label_noise / 2
        return torch.where(is_noisy, drawn, labels)

    def _noisy_boxes(self, boxes: Tensor) -> Tensor:
        """``(B, G, 2, T, 4)``: positive and negative queries along the third axis."""
        amounts = torch.rand_like(boxes)
        amounts[:, :, 1] += 1
        signs = torch.randint_like(boxes, 2) * 2 - 1
        half_sides = boxes[..., 2:].repeat(*[1] * (boxes.ndim - 1), 2) / 2
        corners = box_convert(boxes, "cxcywh", "xyxy")
        corners = (corners + amounts * signs * half_sides * self.box_noise).clamp(0, 1)
        # Corners that passed each other give a side of less than nothing.
        return box_convert(corners, "xyxy", "cxcywh").clamp(EPSILON, 1 - EPSILON)
