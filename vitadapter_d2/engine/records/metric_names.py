"""What the names in ``metrics.json`` say; imports nothing, for tools that start fast."""

import re


def is_of_one_class(name: str) -> bool:
    """Whether a metric, such as ``sem_seg/IoU-wall``, is of one class."""
    return "-" in name.rpartition("/")[2]


def is_of_one_layer(name: str) -> bool:
    """Whether a loss, such as ``loss_mask_3``, is of an intermediate layer of a decoder."""
    return re.search(r"_\d+$", name) is not None
