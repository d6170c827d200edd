"""Necks that Detectron2 lacks."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import Backbone
from fvcore.nn import weight_init
from torch import Tensor, nn

from vitadapter_d2.modeling.backbone.spatial_prior import Norm


class ChannelMapper(Backbone):
    """1x1 projections of a backbone's levels in place of an FPN, and a pooled level.

    A ReLU follows each projection. Nothing flows from level to level: those of a ViT-Adapter have
    been in exchange before. Names are those of Detectron2's ``FPN``: ``bottom_up``,
    ``fpn_lateral2``, ...; outputs ``p2``, ...

    Reference: the official ViT-Adapter's ``ChannelMapperWithPooling`` (Apache-2.0), the detector
    "without FPN" of its code; the paper, arXiv 2205.08534, has none. Departure from it: the
    coarsest level may have one row or column, which is kept where pooling would leave none.

    Args:
        bottom_up: gives the levels.
        in_features: names of its levels, finest first, each with half the resolution of the last.
        out_channels: width of the outputs.
        norm: normalisation after the projections, by Detectron2's ``get_norm``.

    Raises:
        ValueError: if no level is named.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: Norm = "",
    ) -> None:
        super().__init__()
        if not in_features:
            raise ValueError("in_features must name at least one level, got none")
        self.bottom_up = bottom_up
        shapes = bottom_up.output_shape()
        self._projections: dict[str, str] = {}
        for name in in_features:
            level = int(math.log2(shapes[name].stride))
            projection = Conv2d(
                shapes[name].channels,
                out_channels,
                kernel_size=1,
                bias=norm == "",
                norm=get_norm(norm, out_channels),
                activation=nn.ReLU(),
            )
            weight_init.c2_xavier_fill(projection)
            self.add_module(f"fpn_lateral{level}", projection)
            self._projections[name] = f"fpn_lateral{level}"
        levels = [int(math.log2(shapes[name].stride)) for name in in_features]
        levels.append(levels[-1] + 1)
        self._out_features = [f"p{level}" for level in levels]
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def size_divisibility(self) -> int:
        """What ``bottom_up`` asks for."""
        return self.bottom_up.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The same, as detectron2 main asks for it."""
        return {"size_divisibility": self.size_divisibility}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Levels of a batch.

        Args:
            image: what ``bottom_up`` takes.

        Returns:
            ``{"p2": ..., "p6": ...}``, each ``(B, out_channels, h, w)``; the last has
            ``max(h // 2, 1)`` rows and ``max(w // 2, 1)`` columns of the one before.
        """
        features = self.bottom_up(image)
        levels = [
            self.get_submodule(projection)(features[name])
            for name, projection in self._projections.items()
        ]
        levels.append(_halved(levels[-1]))
        return dict(zip(self._out_features, levels, strict=True))


def _halved(level: Tensor) -> Tensor:
    height, width = level.shape[-2:]
    return F.max_pool2d(level, kernel_size=(min(height, 2), min(width, 2)), stride=2)
