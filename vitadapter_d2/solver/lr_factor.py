"""Learning-rate factors by parameter name."""

import re
from dataclasses import dataclass

_BLOCK = re.compile(r"backbone\.(?:.+\.)?vit\.blocks\.(\d+)\.")
_EMBEDDING = re.compile(r"backbone\.(?:.+\.)?vit\.")


@dataclass(frozen=True)
class LayerDecay:
    """Learning-rate factor by depth: the deeper into the trunk, the slower.

    Reference: BEiT, arXiv 2106.08254; embeddings are layer 0, block i is layer i + 1, adapter and
    heads are layer ``depth + 1`` with factor 1, as in the official configurations.

    Args:
        rate: factor per layer, in (0, 1].
        depth: number of ViT blocks.
    """

    rate: float
    depth: int

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 1.0:
            raise ValueError(f"rate must be in (0, 1], got {self.rate}")

    def __call__(self, name: str) -> float:
        """Factor of the parameter with this full name."""
        if block := _BLOCK.match(name):
            layer = int(block.group(1)) + 1
            if layer > self.depth:
                raise ValueError(f"{name} is beyond the {self.depth} blocks that depth says")
        elif _EMBEDDING.match(name):
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
