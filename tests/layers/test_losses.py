import math

import pytest
import torch
import torch.nn.functional as F

from vitadapter_d2.layers.losses import dice_loss, mask_bce_loss, semantic_cross_entropy


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


def test_semantic_cross_entropy_averages_as_asked():
    logits, labels = torch.randn(2, 4, 3, 5), torch.randint(4, (2, 3, 5))
    labels[0, :, 2:] = 255
    over_kept = F.cross_entropy(logits, labels, ignore_index=255)
    kept_share = (labels != 255).float().mean()
    assert kept_share < 1
    torch.testing.assert_close(
        semantic_cross_entropy(logits, labels, average_over_ignored=False), over_kept
    )
    torch.testing.assert_close(semantic_cross_entropy(logits, labels), over_kept * kept_share)


@pytest.mark.parametrize("average_over_ignored", [True, False])
def test_semantic_cross_entropy_of_nothing_is_zero(average_over_ignored):
    logits = torch.randn(1, 4, 2, 2, requires_grad=True)
    labels = torch.full((1, 2, 2), 255)
    loss = semantic_cross_entropy(logits, labels, average_over_ignored=average_over_ignored)
    loss.backward()
    assert loss.item() == 0
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits))
