"""Data sets (registered by this import), mappers and augmentations."""

from vitadapter_d2.data import datasets
from vitadapter_d2.data.instaboost import InstaBoost
from vitadapter_d2.data.loading import build_train_loader
from vitadapter_d2.data.mappers import (
    BoostedMapper,
    InstanceMapper,
    PanopticMapper,
    SemanticMapper,
)
from vitadapter_d2.data.metadata import get_metadata
from vitadapter_d2.data.reading import Tolerant
from vitadapter_d2.data.resizing import ResizeShortSide, ResizeToMultiple, ResizeToScale
from vitadapter_d2.data.transforms import (
    ChannelShuffle,
    PadShortSide,
    PadToMultiple,
    PhotometricDistortion,
)

__all__ = [
    "BoostedMapper",
    "ChannelShuffle",
    "InstaBoost",
    "InstanceMapper",
    "PadShortSide",
    "PadToMultiple",
    "PanopticMapper",
    "PhotometricDistortion",
    "ResizeShortSide",
    "ResizeToMultiple",
    "ResizeToScale",
    "SemanticMapper",
    "Tolerant",
    "build_train_loader",
    "datasets",
    "get_metadata",
]
