import pytest
import torch
from htc_models import make_backbone

from vitadapter_d2.modeling.padded_rcnn import PaddedRCNN


def make_model(train_side):
    return PaddedRCNN(
        train_side=train_side,
        backbone=make_backbone(),
        proposal_generator=None,
        roi_heads=None,
        pixel_mean=(0.0,) * 3,
        pixel_std=(1.0,) * 3,
    )


@pytest.mark.parametrize(
    ("train_side", "expected"), [(128, (128, 128)), (64, (64, 96)), (1, (64, 96))]
)
def test_smaller_images_are_padded_to_the_side_and_larger_ones_stay(train_side, expected):
    inputs = [{"image": torch.ones(3, *size)} for size in ((40, 70), (33, 96))]
    images = make_model(train_side).preprocess_image(inputs)
    assert images.tensor.shape == (2, 3, *expected)
    assert [tuple(size) for size in images.image_sizes] == [(40, 70), (33, 96)]
    assert images.tensor.sum() == 3 * (40 * 70 + 33 * 96)


def test_images_are_padded_no_further_in_evaluation():
    images = make_model(128).eval().preprocess_image([{"image": torch.ones(3, 40, 70)}])
    assert images.tensor.shape == (1, 3, 64, 96)


def test_a_side_of_nothing_is_refused():
    with pytest.raises(ValueError, match="train_side must be at least 1, got 0"):
        make_model(0)
