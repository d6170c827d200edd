import math

import pytest
import torch

from vitadapter_d2.layers.losses import dice_loss, mask_bce_loss


def test_losses_by_hand():
    logits, targets = torch.tensor([[0.0, 2.0, -1.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    probabilities = [1 / (1 + math.exp(-x)) for x in (0.0, 2.0, -1.0)]
    wanted = [1.0, 0.5, 0.0]
    pairs = list(zip(probabilities, wanted, strict=True))
    overlap = sum(p * t for p, t in pairs)
    dice = 1 - (2 * overlap + 1) / (sum(probabilities) + sum(wanted) + 1)
    bce = -sum(t * math.log(p) + (1 - t) * math.log(1 - p) for p, t in pairs) / 3
    assert dice_loss(logits, targets).item() == pytest.approx(dice, abs=1e-6)
    assert mask_bce_loss(logits, targets).item() == pytest.approx(bce, abs=1e-6)


def test_empty_mask_predicted_empty_costs_nothing():
    logits, targets = torch.full((2, 10), -100.0), torch.zeros(2, 10)
    torch.testing.assert_close(dice_loss(logits, targets), torch.zeros(2))
    torch.testing.assert_close(mask_bce_loss(logits, targets), torch.zeros(2))
