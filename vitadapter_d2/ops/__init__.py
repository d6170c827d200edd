"""Torch ops. This package imports torch and nothing else."""

from . import flops  # noqa: F401 (registers the formulas)
from ._library import backend, cuda_backend
from .ms_deform_attn import ms_deform_attn, ms_deform_attn_fused

__all__ = ["backend", "cuda_backend", "ms_deform_attn", "ms_deform_attn_fused"]
