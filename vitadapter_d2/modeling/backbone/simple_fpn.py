"""Plain ViTs as Detectron2 backbones, without adapter: the baselines of the paper.

``PlainViTPyramid`` follows the design of the official ViT-Adapter's ``ViTBaseline`` (Apache-2.0),
``SimpleFeaturePyramid`` design and parameter names of the class of the same name in Detectron2's
main branch (Apache-2.0); release 0.6 has none.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import Backbone
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from vitadapter_d2.layers.levels import flatten_levels, split_levels
from vitadapter_d2.layers.resample import Grid
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT
from vitadapter_d2.modeling.backbone.spatial_prior import Norm
from vitadapter_d2.modeling.backbone.vit_adapter import STRIDES, init_weights, select_outputs


class ConvPropagation(nn.Module):
    """A residual bottleneck that carries information between attention windows.

    Its last norm starts at zero, so that it leaves a pre-trained trunk as it is.

    Reference: ViTDet, Sec. 3 "Backbone adaptation" (convolutional propagation), arXiv 2203.16527.

    Args:
        embed_dim: width C; the bottleneck has half of it.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        hidden = embed_dim // 2
        self.conv1 = nn.Conv2d(embed_dim, hidden, kernel_size=1, bias=False)
        self.norm1 = LayerNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, bias=False)
        self.norm2 = LayerNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, embed_dim, kernel_size=1, bias=False)
        self.norm3 = LayerNorm2d(embed_dim)
        for conv in (self.conv1, self.conv2, self.conv3):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.norm3.weight)

    def forward(self, feature: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C, H, W)``."""
        hidden = F.gelu(self.norm1(self.conv1(feature)))
        hidden = F.gelu(self.norm2(self.conv2(hidden)))
        return feature + self.norm3(self.conv3(hidden))


class PlainBackbone(Backbone):
    """What the two pyramids share: the trunk, images of any size, Detectron2's description.

    Args:
        vit: the trunk, with patches of 16 pixels.
        channels: width of the outputs.
        propagation_blocks: blocks of the trunk that a :class:`ConvPropagation` follows.
    """

    def __init__(self, vit: PlainViT, channels: int, propagation_blocks: Sequence[int]) -> None:
        super().__init__()
        if vit.patch_size != STRIDES["res4"]:
            raise ValueError(f"the trunk's patch_size must be 16, got {vit.patch_size}")
        if not all(0 <= block < vit.depth for block in propagation_blocks):
            raise ValueError(
                f"propagation_blocks must lie in [0, {vit.depth - 1}], got {[*propagation_blocks]}"
            )
        self.vit = vit
        self.propagation = nn.ModuleDict(
            {str(block): ConvPropagation(vit.embed_dim) for block in sorted(propagation_blocks)}
        )
        self._out_features = list(STRIDES)
        self._out_feature_strides = dict(STRIDES)
        self._out_feature_channels = dict.fromkeys(STRIDES, channels)

    @property
    def size_divisibility(self) -> int:
        """Detectron2 pads batches to it, which makes the padding in here a no-op."""
        return 32

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The same, as detectron2 main asks for it."""
        return {"size_divisibility": self.size_divisibility}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features of a batch.

        Args:
            image: ``(B, 3, H, W)`` normalised float, H and W at least 1.

        Returns:
            The outputs by name, finest first, each ``(B, C, ceil(H/stride), ceil(W/stride))``.
        """
        height, width = image.shape[-2:]
        outputs = self.pyramid(F.pad(image, (0, -width % 32, 0, -height % 32)))
        strides = [self._out_feature_strides[name] for name in self._out_features]
        return {
            name: output[..., : -(-height // stride), : -(-width // stride)]
            for name, stride, output in zip(self._out_features, strides, outputs, strict=True)
        }

    @abstractmethod
    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Features of an image whose sides are multiples of 32, in the order of the outputs."""

    def run_trunk(self, image: Tensor, stops: Sequence[int]) -> tuple[dict[int, Tensor], Grid]:
        """The trunk with its propagation.

        Args:
            image: ``(B, 3, H, W)``, sides multiples of 32.
            stops: indices of blocks.

        Returns:
            for each of these the patch tokens ``(B, N, C)`` after it, and their grid.
        """
        tokens, grid = self.vit.embed(image)
        stages = {}
        first = 0
        for last in sorted({*stops, *map(int, self.propagation)}):
            tokens = self.vit.run(tokens, grid, first, last)
            prefix, patches = tokens.tensor_split([self.vit.num_prefix_tokens], dim=1)
            if str(last) in self.propagation:
                (feature,) = split_levels(patches, [grid])
                patches = flatten_levels([self.propagation[str(last)](feature)])
                tokens = torch.cat((prefix, patches), dim=1)
            stages[last] = patches
            first = last + 1
        return stages, grid


class PlainViTPyramid(PlainBackbone):
    """A plain ViT whose tokens at four depths are resampled to strides 4, 8, 16 and 32.

    Reference: the ViT rows of ViT-Adapter, Sec. 4, arXiv 2205.08534 (official ``ViTBaseline``
    and, with ``token_norm=False`` and ``up_norm="BN"``, ``BEiTBaseline``). With four
    ``propagation_blocks`` it has the size of the paper's ViTDet rows.

    Args:
        vit: the trunk, with patches of 16 pixels.
        out_blocks: for each output the block whose tokens feed it; the last of the trunk must be
            among those of ``out_features``, as later ones would not be used.
        token_norm: a LayerNorm on the tokens of each output.
        up_norm: normalisation between the two transposed convolutions of ``res2``, by
            Detectron2's ``get_norm``.
        propagation_blocks: blocks that a :class:`ConvPropagation` follows.
        out_features: the outputs that are used, as of :class:`ViTAdapter`.
    """

    def __init__(
        self,
        vit: PlainViT,
        out_blocks: Sequence[int],
        *,
        token_norm: bool = True,
        up_norm: Norm = "GN",
        propagation_blocks: Sequence[int] = (),
        out_features: Sequence[str] = tuple(STRIDES),
    ) -> None:
        super().__init__(vit, vit.embed_dim, propagation_blocks)
        self.out_blocks = dict(zip(STRIDES, out_blocks, strict=False))
        used = [block for name, block in self.out_blocks.items() if name in out_features]
        if (
            len(out_blocks) != len(STRIDES)
            or min(out_blocks) < 0
            or max(out_blocks) >= vit.depth
            or vit.depth - 1 not in used
        ):
            raise ValueError(
                f"out_blocks needs 4 indices in [0, {vit.depth - 1}], {vit.depth - 1} among them, "
                f"got {[*out_blocks]} for the outputs {[*out_features]}"
            )
        width = vit.embed_dim
        self.norms = nn.ModuleDict(
            {name: nn.LayerNorm(width, eps=1e-6) for name in STRIDES} if token_norm else {}
        )
        self.up1 = nn.Sequential(
            _twice_as_large(width, width),
            get_norm(up_norm, width),
            nn.GELU(),
            _twice_as_large(width, width),
        )
        self.up2 = _twice_as_large(width, width)
        for part in (self.up1, self.up2):
            part.apply(init_weights)
        own: dict[str, list[nn.Module]] = {name: [] for name in STRIDES}
        for name, norm in self.norms.items():
            own[name].append(norm)
        own["res2"].append(self.up1)
        own["res3"].append(self.up2)
        self._out_features = select_outputs(out_features, own)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """See :meth:`PlainBackbone.pyramid`."""
        stages, grid = self.run_trunk(image, [self.out_blocks[name] for name in self._out_features])
        maps = []
        for name in self._out_features:
            tokens = stages[self.out_blocks[name]]
            tokens = self.norms[name](tokens) if self.norms else tokens
            # A BatchNorm that follows needs it at batch 1: see ViTAdapter.forward.
            maps.append(self._resample(name, split_levels(tokens, [grid])[0].contiguous()))
        return maps

    def _resample(self, name: str, feature: Tensor) -> Tensor:
        if name == "res2":
            return self.up1(feature)
        if name == "res3":
            return self.up2(feature)
        return feature if name == "res4" else F.max_pool2d(feature, kernel_size=2)


class SimpleFeaturePyramid(PlainBackbone):
    """A pyramid from the last map of a plain ViT alone, to be used without an FPN.

    Reference: ViTDet, Sec. 3 "Simple feature pyramid", arXiv 2203.16527. Departures from
    Detectron2's class: the trunk is ``vit`` (there ``net``), the outputs are ``res2`` to ``res5``
    (there ``p2`` to ``p5``), any image size is accepted.

    Args:
        vit: the trunk, with patches of 16 pixels; in the paper with four global blocks at equal
            distances, e.g. ``window_sizes=(14, 14, None)`` for 12 blocks.
        out_channels: width of the outputs.
        norm: normalisation after each convolution, by Detectron2's ``get_norm``.
        top_block: Detectron2's ``LastLevelMaxPool`` or the like: more outputs from ``res5``.
        propagation_blocks: blocks that a :class:`ConvPropagation` follows.
    """

    def __init__(
        self,
        vit: PlainViT,
        out_channels: int = 256,
        *,
        norm: Norm = LayerNorm2d,
        top_block: nn.Module | None = None,
        propagation_blocks: Sequence[int] = (),
    ) -> None:
        super().__init__(vit, out_channels, propagation_blocks)
        width = vit.embed_dim
        enlarged = [
            _twice_as_large(width, width // 2),
            get_norm(norm, width // 2),
            nn.GELU(),
            _twice_as_large(width // 2, width // 4),
        ]
        self.simfp_2 = _to_output(enlarged, width // 4, out_channels, norm)
        self.simfp_3 = _to_output(
            [_twice_as_large(width, width // 2)], width // 2, out_channels, norm
        )
        self.simfp_4 = _to_output([], width, out_channels, norm)
        self.simfp_5 = _to_output([nn.MaxPool2d(kernel_size=2)], width, out_channels, norm)
        self.top_block = top_block
        if top_block is not None:
            levels: Any = top_block.num_levels
            for level in range(6, 6 + levels):
                self._out_features.append(f"res{level}")
                self._out_feature_strides[f"res{level}"] = 2**level
                self._out_feature_channels[f"res{level}"] = out_channels

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """See :meth:`PlainBackbone.pyramid`."""
        last = self.vit.depth - 1
        stages, grid = self.run_trunk(image, [last])
        (feature,) = split_levels(stages[last], [grid])
        outputs = [
            stage(feature) for stage in (self.simfp_2, self.simfp_3, self.simfp_4, self.simfp_5)
        ]
        return outputs if self.top_block is None else [*outputs, *self.top_block(outputs[-1])]


def _twice_as_large(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)


def _to_output(
    layers: list[nn.Module], in_channels: int, out_channels: int, norm: Norm
) -> nn.Sequential:
    without_norm = norm == ""
    return nn.Sequential(
        *layers,
        Conv2d(
            in_channels,
            out_channels,
            kernel_size=1,
            bias=without_norm,
            norm=get_norm(norm, out_channels),
        ),
        Conv2d(
            out_channels,
            out_channels,
            kernel_size=3,
            padding=1,
            bias=without_norm,
            norm=get_norm(norm, out_channels),
        ),
    )
