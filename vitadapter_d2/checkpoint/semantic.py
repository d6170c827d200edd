"""mmsegmentation's semantic heads to the names of :mod:`vitadapter_d2.modeling.semantic`."""

from collections.abc import Mapping

from torch import Tensor

from vitadapter_d2.checkpoint.detection import CONV_MODULE_RULES
from vitadapter_d2.checkpoint.rename import Rules, rename_keys

# Levels are counted from zero there, the finest first; here they have the names of the maps.
_UPERNET: Rules = [
    (r"^psp_modules\.(\d+)\.1\.", r"pyramid_pooling.branches.\1."),
    (r"^bottleneck\.", "pyramid_pooling.fuse."),
    (r"^fpn_bottleneck\.", "fuse."),
    (r"^fpn_convs\.", "output_convs."),
    *((rf"^(lateral|output)_convs\.{index}\.", rf"\1_convs.res{index + 2}.") for index in range(3)),
]

_SEMANTIC_FPN: Rules = [(rf"^scale_heads\.{index}\.", f"p{index + 2}.") for index in range(4)]

SEMANTIC_HEAD_RULES: Rules = [
    *_UPERNET,
    *_SEMANTIC_FPN,
    (r"^conv_seg\.", "predictor."),
    *CONV_MODULE_RULES,
]


def convert_semantic_head(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A head of class scores: ``UPerHead``, ``FPNHead`` or ``FCNHead``.

    Args:
        state_dict: names without the ``decode_head.`` or ``auxiliary_head.`` prefix.

    Returns:
        The entries of :class:`UPerNetHead`, :class:`SemanticFPNHead` or :class:`FCNHead`.
    """
    return rename_keys(state_dict, SEMANTIC_HEAD_RULES)
