"""What the ops count in FlopCounterMode."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vitadapter_d2.ops import ms_deform_attn, ms_deform_attn_fused

SHAPES = [(8, 6), (4, 3)]
B, Q, M, L, P, D = 2, 5, 3, 2, 4, 8
# A bilinear sample: four multiply-adds, of two operations, per channel.
FORWARD = B * Q * M * L * P * 4 * D * 2
BACKWARD = 2 * FORWARD


def tensors(device, *, fused):
    def make(*shape):
        return torch.rand(*shape, device=device, requires_grad=True)

    points = (B, Q, M, L, P)
    value = make(B, sum(height * width for height, width in SHAPES), M, D)
    if fused:
        return value, (make(1, Q, L, 2), make(*points, 2), make(*points))
    return value, (make(*points, 2), make(*points))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("op", [ms_deform_attn, ms_deform_attn_fused])
def test_counts_four_multiply_adds_per_sample_and_channel(op, device):
    value, others = tensors(device, fused=op is ms_deform_attn_fused)
    with FlopCounterMode(display=False) as counter:
        output = op(value, SHAPES, *others)
    assert counter.get_total_flops() == FORWARD
    with FlopCounterMode(display=False) as counter:
        output.sum().backward()
    assert counter.get_total_flops() == BACKWARD


def test_a_fixed_reference_changes_nothing():
    value, (points, offsets, logits) = tensors("meta", fused=True)
    with FlopCounterMode(display=False) as counter:
        ms_deform_attn_fused(value, SHAPES, points.detach(), offsets, logits).sum().backward()
    assert counter.get_total_flops() == FORWARD + BACKWARD
