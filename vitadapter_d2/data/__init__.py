"""Data sets (registered by this import), mappers and augmentations."""

from vitadapter_d2.data import datasets
from vitadapter_d2.data.mappers import InstanceMapper, PanopticMapper, SemanticMapper
from vitadapter_d2.data.metadata import get_metadata
from vitadapter_d2.data.transforms import (
    ChannelShuffle,
    PadShortSide,
    PadToMultiple,
    PhotometricDistortion,
    ResizeToMultiple,
    ResizeToScale,
)

__all__ = [
    "ChannelShuffle",
    "InstanceMapper",
    "PadShortSide",
    "PadToMultiple",
    "PanopticMapper",
    "PhotometricDistortion",
    "ResizeToMultiple",
    "ResizeToScale",
    "SemanticMapper",
    "datasets",
    "get_metadata",
]
