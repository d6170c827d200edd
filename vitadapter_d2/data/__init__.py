"""Data sets (registered by this import), mappers and augmentations."""

from . import datasets
from .mappers import InstanceMapper, PanopticMapper, SemanticMapper
from .metadata import get_metadata
from .transforms import ChannelShuffle, PadToMultiple, PhotometricDistortion

__all__ = [
    "ChannelShuffle",
    "InstanceMapper",
    "PadToMultiple",
    "PanopticMapper",
    "PhotometricDistortion",
    "SemanticMapper",
    "datasets",
    "get_metadata",
]
