"""The convolutional branch of ViT-Adapter."""

from collections.abc import Callable

from detectron2.layers import get_norm
from torch import Tensor, nn

Norm = str | Callable[[int], nn.Module]


class SpatialPriorModule(nn.Module):
    """A small convolutional stem that gives local features at strides 4, 8, 16 and 32.

    Reference: ViT-Adapter, Sec. 3.2, arXiv 2205.08534.

    Args:
        embed_dim: width C of the four outputs (the trunk's).
        channels: width of the stem; the strides 8, 16, 32 have 2, 4 and 4 times as many.
        norm: normalisation of Detectron2's ``get_norm``.
    """

    def __init__(self, embed_dim: int, channels: int = 64, norm: Norm = "BN") -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.stem = nn.Sequential(
            *_conv3x3(3, channels, 2, norm),
            *_conv3x3(channels, channels, 1, norm),
            *_conv3x3(channels, channels, 1, norm),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.res3 = nn.Sequential(*_conv3x3(channels, 2 * channels, 2, norm))
        self.res4 = nn.Sequential(*_conv3x3(2 * channels, 4 * channels, 2, norm))
        self.res5 = nn.Sequential(*_conv3x3(4 * channels, 4 * channels, 2, norm))
        self.proj_res2 = nn.Conv2d(channels, embed_dim, kernel_size=1)
        self.proj_res3 = nn.Conv2d(2 * channels, embed_dim, kernel_size=1)
        self.proj_res4 = nn.Conv2d(4 * channels, embed_dim, kernel_size=1)
        self.proj_res5 = nn.Conv2d(4 * channels, embed_dim, kernel_size=1)

    def forward(self, image: Tensor, needs_res2: bool = True) -> tuple[Tensor, ...]:
        """Local features.

        Args:
            image: ``(B, 3, H, W)`` normalised float, sides multiples of 32.
            needs_res2: False leaves out the first map.

        Returns:
            maps ``(B, C, H/s, W/s)`` for s = 4, 8, 16, 32.
        """
        res2 = self.stem(image)
        res3 = self.res3(res2)
        res4 = self.res4(res3)
        res5 = self.res5(res4)
        coarser = (self.proj_res3(res3), self.proj_res4(res4), self.proj_res5(res5))
        return (self.proj_res2(res2), *coarser) if needs_res2 else coarser


def _conv3x3(in_channels: int, out_channels: int, stride: int, norm: Norm) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        get_norm(norm, out_channels),
        nn.ReLU(inplace=True),
    ]
