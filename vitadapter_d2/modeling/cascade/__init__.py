"""Cascade Mask R-CNN with class-specific boxes and a mask head per stage."""

from vitadapter_d2.modeling.cascade.roi_heads import CascadeMaskROIHeads

__all__ = ["CascadeMaskROIHeads"]
