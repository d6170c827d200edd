"""Coordinates in [0, 1] as logits and as waves."""

import math

import torch
from torch import Tensor

EPSILON = 1e-3  # of the released models; keeps logits within about 7


def inverse_sigmoid(x: Tensor) -> Tensor:
    """Logits of values in [0, 1], which are first kept ``EPSILON`` away from both ends."""
    return torch.logit(x, eps=EPSILON)


def encode_coordinates(coordinates: Tensor, dim: int, temperature: float) -> Tensor:
    """Sines and cosines, on even and odd channels, of falling frequency.

    Reference: DAB-DETR, Eq. 4, arXiv 2201.12329.

    Args:
        coordinates: ``(..., n)`` float32; 1 is one full turn of the fastest wave.
        dim: channels of each coordinate, even.
        temperature: ratio of the highest to the lowest frequency.

    Returns:
        ``(..., n * dim)`` float32, one coordinate after the other.
    """
    exponents = torch.arange(dim // 2, device=coordinates.device, dtype=torch.float32)
    periods = temperature ** (exponents / (dim // 2))
    phases = coordinates[..., None] * (2 * math.pi) / periods
    return torch.stack((phases.sin(), phases.cos()), dim=-1).flatten(-3)
