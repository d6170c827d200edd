"""Choice of the queries that the decoder starts from.

The design is that of IDEA-Research/DINO (Apache-2.0) and its paper.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitadapter_d2.modeling.dino.coordinates import inverse_sigmoid
from vitadapter_d2.modeling.dino.heads import box_head, class_head
from vitadapter_d2.modeling.dino.structures import BoxPrediction, PaddedLevels

BASE_SIZE = 0.05  # side of the proposals of the finest level, over the image's
MARGIN = 0.01  # proposals with a number closer to 0 or 1 than this are not used


@dataclass(frozen=True)
class Selection:
    """The queries of a batch.

    Attributes:
        content: ``(B, Q, C)``.
        boxes: ``(B, Q, 4)`` float32, cxcywh in (0, 1), without gradient.
        prediction: class and box of the selected cells, L = 1, to be supervised.
    """

    content: Tensor
    boxes: Tensor
    prediction: BoxPrediction


class QuerySelection(nn.Module):
    """Mixed query selection: boxes from the best cells of the encoder, content learned.

    Reference: DINO, Sec. 3.4, arXiv 2203.03605; two-stage Deformable DETR, Appendix A.4,
    arXiv 2010.04159. Its heads are not those of the decoder, as in the released models. Departures
    from them: cells in the padding or near the border score lowest (there they keep the score of
    an empty cell and an infinite box), and boxes are computed for the selected cells only.

    Args:
        num_classes: classes K.
        embed_dim: width C.
        num_queries: queries Q; fewer if the maps have fewer cells.
    """

    def __init__(self, num_classes: int, embed_dim: int = 256, num_queries: int = 900) -> None:
        super().__init__()
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.class_embed = class_head(embed_dim, num_classes)
        self.bbox_embed = box_head(embed_dim)
        self.content = nn.Embedding(num_queries, embed_dim)
        for weight in (self.proj.weight, self.content.weight):
            nn.init.xavier_uniform_(weight)

    def forward(self, memory: Tensor, levels: PaddedLevels) -> Selection:
        """Selects by the score of the best class.

        Args:
            memory: ``(B, S, C)``, of the encoder.
            levels: layout of the batch.

        Returns:
            The queries, best first.
        """
        num_queries = min(self.content.num_embeddings, memory.shape[1])
        features = self.norm(self.proj(memory))
        logits = self.class_embed(features)
        proposals, is_usable = make_proposals(levels)
        scores = logits.detach().float().amax(-1).masked_fill(~is_usable, -torch.inf)
        chosen = scores.topk(num_queries, dim=1).indices[..., None]  # (B, Q, 1)
        offsets = self.bbox_embed(features.take_along_dim(chosen, dim=1)).float()
        boxes = (offsets + inverse_sigmoid(proposals.take_along_dim(chosen, dim=1))).sigmoid()
        prediction = BoxPrediction(logits.take_along_dim(chosen, dim=1)[None], boxes[None])
        content = self.content.weight[:num_queries].expand(len(memory), -1, -1)
        return Selection(content, boxes.detach(), prediction)


def make_proposals(levels: PaddedLevels) -> tuple[Tensor, Tensor]:
    """A square box at every cell, of a size that doubles from level to level.

    Args:
        levels: layout of the batch.

    Returns:
        ``(B, S, 4)`` float32 cxcywh, and ``(B, S)`` bool: inside the image and off its border.
    """
    sides = [
        BASE_SIZE * 2**level
        for level, (height, width) in enumerate(levels.shapes)
        for _ in range(height * width)
    ]
    sizes = levels.centers.new_tensor(sides)[:, None].expand_as(levels.centers)
    proposals = torch.cat((levels.centers, sizes), dim=-1)
    is_usable = ((proposals > MARGIN) & (proposals < 1 - MARGIN)).all(-1)
    return proposals, is_usable
