"""Projections of backbone levels to one width, and a coarser level."""

from collections.abc import Mapping, Sequence

from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn


class InputProjection(nn.Module):
    """Projects levels by 1x1 convolutions and adds one by a 3x3 convolution of stride 2.

    Reference: Deformable DETR, Appendix A.2, arXiv 2010.04159; DINO's four scales,
    arXiv 2203.03605, Sec. 4.1.

    Args:
        in_channels: channels of the backbone's levels, the same for all, or one for each.
        embed_dim: width C of the outputs.
        in_features: names of the levels, finest first, each with half the resolution of the last.
        norm: normalisation by Detectron2's ``get_norm``. "GN", the paper's, counts the padding of
            a batch in its statistics.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        embed_dim: int = 256,
        in_features: Sequence[str] = ("res3", "res4", "res5"),
        norm: str = "GN",
    ) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        if isinstance(in_channels, int):
            in_channels = [in_channels] * len(self.in_features)
        self.levels = nn.ModuleList(
            _projection(channels, embed_dim, norm, kernel_size=1) for channels in in_channels
        )
        self.extra = _projection(in_channels[-1], embed_dim, norm, 3, stride=2, padding=1)

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Backbone levels ``(B, in_channels, h, w)`` by name to one map more ``(B, C, h, w)``.

        The extra map has ``ceil(h / 2)`` rows and ``ceil(w / 2)`` columns of the coarsest.
        """
        maps = [features[name] for name in self.in_features]
        projected = [project(level) for project, level in zip(self.levels, maps, strict=True)]
        return [*projected, self.extra(maps[-1])]


def _projection(
    in_channels: int, embed_dim: int, norm: str, kernel_size: int, **options: int
) -> Conv2d:
    projection = Conv2d(
        in_channels, embed_dim, kernel_size, norm=get_norm(norm, embed_dim), **options
    )
    nn.init.xavier_uniform_(projection.weight)
    nn.init.zeros_(projection.bias)
    return projection
