import pytest
import torch

from vitadapter_d2.modeling.image_model import ImageModel


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 8, 8), (8, 8), (2, 3, 8, 8)])
def test_images_have_three_channels(shape):
    model = ImageModel((1.0, 2.0, 3.0), (1.0, 1.0, 2.0))
    with pytest.raises(ValueError, match=r"image must be \(3, H, W\), got \("):
        model.normalize(torch.zeros(shape))


def test_every_channel_has_its_mean_and_deviation():
    model = ImageModel((1.0, 2.0, 3.0), (1.0, 1.0, 2.0))
    normal = model.normalize(torch.full((3, 2, 2), 5, dtype=torch.uint8))
    assert normal[:, 0, 0].tolist() == [4.0, 3.0, 1.0]
    assert not model.state_dict()
