"""Transformer decoder whose queries are boxes that move from layer to layer.

The design is that of IDEA-Research/DINO (Apache-2.0) and its paper.
"""

import torch
from torch import Tensor, nn

from vitadapter_d2.layers.mlp import MLP
from vitadapter_d2.layers.ms_deform_attn import MSDeformAttn
from vitadapter_d2.modeling.dino.coordinates import encode_coordinates, inverse_sigmoid
from vitadapter_d2.modeling.dino.heads import box_head, class_head
from vitadapter_d2.modeling.dino.structures import BoxPrediction, PaddedLevels
from vitadapter_d2.modeling.mask2former.transformer_decoder import FFNLayer, MultiheadAttention

TEMPERATURE = 10000.0  # of the query boxes


class DecoderLayer(nn.Module):
    """Self-attention of the queries, deformable attention to the memory, feed-forward network.

    Reference: Deformable DETR, Sec. 4.1, arXiv 2010.04159.

    Args:
        embed_dim: width C.
        num_levels: levels L of the memory.
        num_heads: attention heads.
        num_points: sampling points for each head and level.
        feedforward_dim: hidden width of the feed-forward network.
    """

    def __init__(
        self,
        embed_dim: int,
        num_levels: int,
        num_heads: int,
        num_points: int,
        feedforward_dim: int,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(embed_dim, num_heads)
        self.self_norm = nn.LayerNorm(embed_dim)
        self.cross_attn = MSDeformAttn(embed_dim, num_levels, num_heads, num_points)
        self.cross_norm = nn.LayerNorm(embed_dim)
        self.ffn = FFNLayer(embed_dim, feedforward_dim)

    def forward(
        self,
        queries: Tensor,
        positions: Tensor,
        boxes: Tensor,
        memory: Tensor,
        levels: PaddedLevels,
        allowed: Tensor | None,
    ) -> Tensor:
        """Updates the queries.

        Args:
            queries: ``(B, Q, C)``.
            positions: ``(B, Q, C)``, added where queries ask or are compared.
            boxes: ``(B, Q, L, 4)`` cxcywh in [0, 1] of the padded maps.
            memory: ``(B, S, C)``.
            levels: layout of the batch.
            allowed: ``(B, Q, Q)`` bool, True where a query (row) may see another.

        Returns:
            ``(B, Q, C)``.
        """
        placed = queries + positions
        queries = self.self_norm(queries + self.self_attn(placed, placed, queries, allowed))
        sampled = self.cross_attn(queries + positions, boxes, memory, levels.shapes, levels.padding)
        return self.ffn(self.cross_norm(queries + sampled))


class DeformableDecoder(nn.Module):
    """Refines boxes layer by layer, each supervised through its own and the next layer.

    Look forward twice: a layer moves its boxes, cut from the graph, for the next layer; what it
    predicts is its move of the same boxes with their graph, so that the layer before learns from
    its loss too. One classifier and one box head serve all layers.

    Reference: DINO, Sec. 3.5 and Fig. 6, arXiv 2203.03605; positions of the queries from their
    boxes as in DAB-DETR, arXiv 2201.12329. As in the released models a predicted move is read from
    normalised queries and the move of the reference from the queries themselves. Departures: the
    positions encode boxes relative to the image, not to the padded batch; no dropout (0 in the
    recipe).

    Args:
        num_classes: classes K.
        embed_dim: width C, a multiple of 4.
        num_levels: levels L of the memory.
        num_heads: attention heads.
        num_points: sampling points for each head and level.
        feedforward_dim: hidden width of the feed-forward networks.
        num_layers: number of layers.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int = 256,
        num_levels: int = 4,
        num_heads: int = 8,
        num_points: int = 4,
        feedforward_dim: int = 2048,
        num_layers: int = 6,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(embed_dim, num_levels, num_heads, num_points, feedforward_dim)
            for _ in range(num_layers)
        )
        self.position_head = MLP(2 * embed_dim, embed_dim, embed_dim, num_layers=2)
        for parameter in self.position_head.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.norm = nn.LayerNorm(embed_dim)
        self.class_embed = class_head(embed_dim, num_classes)
        self.bbox_embed = box_head(embed_dim)

    def forward(
        self,
        queries: Tensor,
        boxes: Tensor,
        memory: Tensor,
        levels: PaddedLevels,
        allowed: Tensor | None = None,
    ) -> BoxPrediction:
        """Predicts after every layer.

        Args:
            queries: ``(B, Q, C)``.
            boxes: ``(B, Q, 4)`` float32, cxcywh in [0, 1] of the image.
            memory: ``(B, S, C)``, of the encoder.
            levels: layout of the batch.
            allowed: ``(B, Q, Q)`` bool, True where a query (row) may see another; None for all.

        Returns:
            One output for each layer, the final one last.
        """
        logits, predicted = [], []
        for layer in self.layers:
            reference = boxes.detach()
            queries = layer(
                queries,
                self._positions(reference),
                levels.in_batch(reference),
                memory,
                levels,
                allowed,
            )
            normed = self.norm(queries)
            logits.append(self.class_embed(normed))
            predicted.append(self._moved(boxes, normed))
            boxes = self._moved(reference, queries)
        return BoxPrediction(torch.stack(logits), torch.stack(predicted))

    def _moved(self, boxes: Tensor, queries: Tensor) -> Tensor:
        return (inverse_sigmoid(boxes) + self.bbox_embed(queries).float()).sigmoid()

    def _positions(self, boxes: Tensor) -> Tensor:
        y_x_w_h = boxes[..., [1, 0, 2, 3]]
        return self.position_head(
            encode_coordinates(y_x_w_h, self.norm.normalized_shape[0] // 2, TEMPERATURE)
        )
