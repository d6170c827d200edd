"""Weight-decay factors: which parameters are decayed, and how much.

Each rule is called with a parameter's full name, the parameter and the module that owns it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from vitadapter_d2.solver.lr_factor import factor_by_key

DecayFactor = Callable[[str, nn.Parameter, nn.Module], float]


@dataclass(frozen=True)
class ExemptByName:
    """Exempts norms, biases, scales, embedding tables and what is named.

    Attributes:
        no_decay: last parts of parameter names.
    """

    no_decay: Sequence[str] = ("pos_embed", "cls_token", "reg_token", "level_embed", "gamma")

    def __call__(self, name: str, parameter: nn.Parameter, owner: nn.Module) -> float:
        """0 or 1."""
        exempt = (
            parameter.ndim <= 1
            or isinstance(owner, nn.Embedding)
            or name.rpartition(".")[2] in self.no_decay
        )
        return 0.0 if exempt else 1.0


@dataclass(frozen=True)
class ExemptVectors:
    """Exempts what has one dimension: norms, biases, scales; embeddings are decayed.

    Reference: the official configurations with layer-wise decay, of segmentation and of
    detection. Their list of exempt names (positions, class token) is compared without the
    ``backbone.`` that the names start with, so it never applies.
    """

    def __call__(self, name: str, parameter: nn.Parameter, owner: nn.Module) -> float:
        """0 or 1."""
        return 0.0 if parameter.ndim == 1 or name.endswith(".bias") else 1.0


@dataclass(frozen=True)
class DecayByKey:
    """Factors by what occurs in a name; the longest key that does decides.

    Reference: the official configurations without layer-wise decay (mmcv's ``custom_keys``).
    Gammas, class tokens and the BatchNorms of the spatial prior hold none of the default keys,
    so they are decayed; so are the BatchNorms and GroupNorms of necks and heads, which those
    configurations call ``bn`` and ``gn``.

    Attributes:
        factors: part of a name -> factor; 1 where none occurs.
    """

    factors: Mapping[str, float] = field(
        default_factory=lambda: dict.fromkeys(("norm", "bias", "level_embed", "pos_embed"), 0.0)
    )

    def __call__(self, name: str, parameter: nn.Parameter, owner: nn.Module) -> float:
        """Factor of this parameter."""
        if isinstance(owner, nn.BatchNorm2d | nn.SyncBatchNorm | nn.GroupNorm):
            # What Detectron2 calls the norm of a convolution.
            name = re.sub(r"\.norm\.weight$", ".bn.weight", name)
        return factor_by_key(self.factors, name)
