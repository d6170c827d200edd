"""Pixel decoder of Mask2Former: deformable attention at three strides, an FPN step to stride 4.

Module names are those of facebookresearch/Mask2Former (MIT licence), so that its weights load.
"""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from vitadapter_d2.layers.deformable_encoder import DeformableEncoderLayer
from vitadapter_d2.layers.levels import Shapes, flatten_levels, level_centers, split_levels
from vitadapter_d2.layers.ms_deform_attn import MSDeformAttn
from vitadapter_d2.layers.position_encoding import sine_position_encoding

NUM_GROUPS = 32  # of every GroupNorm


class EncoderStack(nn.Module):
    """Encoder layers one after the other; a module of its own in the released key names.

    Args:
        layers: the layers.
    """

    def __init__(self, layers: Iterable[DeformableEncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self, tokens: Tensor, positions: Tensor, reference_points: Tensor, shapes: Shapes
    ) -> Tensor:
        """As :meth:`DeformableEncoderLayer.forward`."""
        for layer in self.layers:
            tokens = layer(tokens, positions, reference_points, shapes)
        return tokens


class DeformableEncoder(nn.Module):
    """Encodes levels together, each marked by a learned vector.

    Args:
        embed_dim: width C.
        num_levels: feature levels L.
        num_heads: attention heads.
        num_points: sampling points for each head and level.
        feedforward_dim: hidden width of the feed-forward networks.
        num_layers: number of layers.
    """

    def __init__(
        self,
        embed_dim: int,
        num_levels: int,
        num_heads: int,
        num_points: int,
        feedforward_dim: int,
        num_layers: int,
    ) -> None:
        super().__init__()
        self.encoder = EncoderStack(
            DeformableEncoderLayer(embed_dim, num_levels, num_heads, num_points, feedforward_dim)
            for _ in range(num_layers)
        )
        self.level_embed = nn.Parameter(torch.empty(num_levels, embed_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform matrices, ring-shaped sampling offsets, normal level vectors."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MSDeformAttn):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Encodes the levels.

        Args:
            maps: L maps ``(B, C, H_l, W_l)``.

        Returns:
            The same shapes, in the type of the parameters.
        """
        shapes = [(level.shape[2], level.shape[3]) for level in maps]
        device, dtype = maps[0].device, self.level_embed.dtype
        positions = torch.cat(
            [
                sine_position_encoding(shape, embed.shape[0], device).to(dtype) + embed
                for shape, embed in zip(shapes, self.level_embed, strict=True)
            ]
        )
        # Under autocast the residual stream stays in float32, whatever the convolutions gave.
        tokens = flatten_levels(maps).to(dtype)
        tokens = self.encoder(tokens, positions, level_centers(shapes, device), shapes)
        return split_levels(tokens, shapes)


class MSDeformAttnPixelDecoder(nn.Module):
    """Turns four backbone levels into mask features at stride 4 and memory at strides 32, 16, 8.

    Reference: Mask2Former, Sec. 3.2.2 and 4.1, arXiv 2112.01527. Departures: it runs under autocast
    (the original switches it off) with sampling locations and the residual stream in float32; the
    feed-forward width is a parameter (fixed at 1024 there); there is no dropout (0 in every
    released configuration).

    Args:
        in_channels: channels of the backbone's levels: one number for all, or by name, as numbers
            or as the backbone's ``output_shape()``.
        embed_dim: width C of the encoder and its three maps, a multiple of 32.
        mask_dim: channels of the mask features.
        num_heads: heads of the deformable attention.
        num_layers: encoder layers.
        feedforward_dim: hidden width of their feed-forward networks.
        num_points: sampling points for each head and level.
        in_features: names of the four levels, stride 4 first.
    """

    def __init__(
        self,
        *,
        in_channels: int | Mapping[str, int | ShapeSpec],
        embed_dim: int = 256,
        mask_dim: int = 256,
        num_heads: int = 8,
        num_layers: int = 6,
        feedforward_dim: int = 1024,
        num_points: int = 4,
        in_features: tuple[str, str, str, str] = ("res2", "res3", "res4", "res5"),
    ) -> None:
        super().__init__()
        if embed_dim % NUM_GROUPS:
            raise ValueError(f"embed_dim must be a multiple of {NUM_GROUPS}, got {embed_dim}")
        self.in_features = tuple(in_features)
        finest, *encoded = (_channels(in_channels, name) for name in self.in_features)
        self.input_proj = nn.ModuleList(
            _input_projection(channels, embed_dim) for channels in reversed(encoded)
        )
        self.transformer = DeformableEncoder(
            embed_dim, len(encoded), num_heads, num_points, feedforward_dim, num_layers
        )
        self.adapter_1 = Conv2d(
            finest, embed_dim, 1, bias=False, norm=nn.GroupNorm(NUM_GROUPS, embed_dim)
        )
        self.layer_1 = Conv2d(
            embed_dim,
            embed_dim,
            3,
            padding=1,
            bias=False,
            norm=nn.GroupNorm(NUM_GROUPS, embed_dim),
            activation=F.relu,
        )
        self.mask_features = nn.Conv2d(embed_dim, mask_dim, 1)
        for convolution in (self.adapter_1, self.layer_1, self.mask_features):
            c2_xavier_fill(convolution)

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decodes the backbone's levels.

        Args:
            features: the four levels ``(B, in_channels, H / s, W / s)`` by name; sizes are taken
                as they are, no exact ratio is needed.

        Returns:
            Mask features ``(B, mask_dim, H / 4, W / 4)`` and the encoder's maps
            ``(B, C, H / s, W / s)`` at strides 32, 16 and 8, in this order.
        """
        finest, *encoded = (features[name] for name in self.in_features)
        maps = self.transformer(
            [project(level) for project, level in zip(self.input_proj, encoded[::-1], strict=True)]
        )
        lateral = self.adapter_1(finest)
        # Bilinear, although the original's comment says nearest: released weights need it.
        upsampled = F.interpolate(maps[-1], lateral.shape[-2:], mode="bilinear")
        return self.mask_features(self.layer_1(lateral + upsampled)), maps


def _input_projection(in_channels: int, embed_dim: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, embed_dim, 1)
    nn.init.xavier_uniform_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.GroupNorm(NUM_GROUPS, embed_dim))


def _channels(in_channels: int | Mapping[str, int | ShapeSpec], name: str) -> int:
    level = in_channels[name] if isinstance(in_channels, Mapping) else in_channels
    return level.channels if isinstance(level, ShapeSpec) else level
