"""Dense detectors with one square anchor per cell: ATSS and GFL."""

from vitadapter_d2.modeling.dense.assigner import ATSSAssigner
from vitadapter_d2.modeling.dense.atss import ATSS, ATSSHead
from vitadapter_d2.modeling.dense.gfl import GFL, GFLHead
from vitadapter_d2.modeling.dense.head import LinearP6P7

__all__ = ["ATSS", "ATSSAssigner", "ATSSHead", "GFL", "GFLHead", "LinearP6P7"]
