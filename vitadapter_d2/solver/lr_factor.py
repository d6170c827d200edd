"""Learning-rate factors by parameter name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_BLOCK = re.compile(r"backbone\.(?:.+\.)?vit\.blocks\.(\d+)\.")
_EMBEDDING = re.compile(r"backbone\.(?:.+\.)?vit\.")


# What the official segmentation code calls decode_head.{mask_embed,cls_embed,level_embed,
# query_embed,query_feat}.
MASK2FORMER_FIRST_LAYER = tuple(
    f"sem_seg_head.predictor.{part}."
    for part in ("mask_embed", "class_embed", "level_embed", "query_embed", "query_feat")
)


@dataclass(frozen=True)
class LayerDecay:
    """Learning-rate factor by depth: the deeper into the trunk, the slower.

    Reference: BEiT, arXiv 2106.08254; embeddings are layer 0, block i is layer i + 1, adapter and
    heads are layer ``depth + 1`` with factor 1, as in the official configurations.

    Args:
        rate: factor per layer, in (0, 1].
        depth: number of ViT blocks.
        first_layer: prefixes of names outside of the trunk that are layer 0 too. The official
            segmentation models with Mask2Former have ``MASK2FORMER_FIRST_LAYER``, all others none.
    """

    rate: float
    depth: int
    first_layer: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 1.0:
            raise ValueError(f"rate must be in (0, 1], got {self.rate}")

    def __call__(self, name: str) -> float:
        """Factor of the parameter with this full name."""
        if block := _BLOCK.match(name):
            layer = int(block.group(1)) + 1
            if layer > self.depth:
                raise ValueError(f"{name} is beyond the {self.depth} blocks that depth says")
        elif _EMBEDDING.match(name) or name.startswith(tuple(self.first_layer)):
            layer = 0
        else:
            layer = self.depth + 1
        return self.rate ** (self.depth + 1 - layer)


@dataclass(frozen=True)
class PrefixFactor:
    """One learning-rate factor for everything below a prefix, 1 for the rest.

    Reference: Mask2Former trains its backbones at a tenth of the rate, arXiv 2112.01527, Sec. 4.1.
    """

    prefix: str
    factor: float

    def __call__(self, name: str) -> float:
        """Factor of the parameter with this full name."""
        return self.factor if name.startswith(self.prefix) else 1.0


@dataclass(frozen=True)
class LrByKey:
    """Learning-rate factor by what occurs in a name; the longest key that does decides.

    Reference: mmcv's ``custom_keys``, as the official configurations use them. There a key stands
    for learning rate and weight decay together, so the keys of :class:`DecayByKey` belong in here
    too, with a factor of 1.

    Attributes:
        factors: part of a name -> factor; 1 where none occurs.
    """

    factors: Mapping[str, float]

    def __call__(self, name: str) -> float:
        """Factor of the parameter with this full name."""
        return factor_by_key(self.factors, name)


def factor_by_key(factors: Mapping[str, float], name: str) -> float:
    """Factor of the longest key in ``name``, of equals the first by alphabet; 1 without one."""
    keys = sorted((key for key in factors if key in name), key=lambda key: (-len(key), key))
    return factors[keys[0]] if keys else 1.0
