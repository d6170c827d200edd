import pytest
import torch

from vitadapter_d2.modeling.mask2former.structures import MaskTargets


def test_masks_are_padded_at_the_right_and_bottom_and_joined():
    masks = [torch.rand(2, 3, 5) > 0.5, torch.zeros(0, 6, 6), torch.rand(1, 6, 4) > 0.5]
    labels = [torch.tensor([7, 1]), torch.zeros(0), torch.tensor([4])]
    targets = MaskTargets.pad(labels, masks, (6, 7))
    assert targets.counts == (2, 0, 1)
    assert targets.labels.tolist() == [7, 1, 4]
    assert targets.masks.dtype == torch.float32
    assert torch.equal(targets.masks[:2, :3, :5], masks[0].float())
    assert torch.equal(targets.masks[2, :, :4], masks[2][0].float())
    assert targets.masks.sum() == sum(image.sum() for image in masks)


@pytest.mark.parametrize("shape", [(1, 7, 4), (1, 4, 8), (2, 4, 4)])
def test_masks_that_do_not_fit_are_named(shape):
    with pytest.raises(ValueError, match=rf"\(1, H <= 6, W <= 7\).*{shape[0]}, {shape[1]}"):
        MaskTargets.pad([torch.tensor([0])], [torch.zeros(shape)], (6, 7))
