import detectron2.data.transforms as T
import numpy as np
import pytest

from vitadapter_d2.data.renormalize import Renormalize

MEAN, STD = (127.5, 127.5, 127.5), (127.5, 100.0, 64.0)
MODEL_MEAN, MODEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def test_the_models_normalisation_becomes_the_one_wanted():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    augmented = T.AugInput(image)
    Renormalize(MEAN, STD, MODEL_MEAN, MODEL_STD)(augmented)
    assert augmented.image.dtype == np.float32
    result = (augmented.image - MODEL_MEAN) / MODEL_STD
    np.testing.assert_allclose(result, (image - np.array(MEAN)) / STD, atol=1e-5)


def test_a_deviation_of_zero_is_refused():
    with pytest.raises(ValueError, match="model_std must be positive"):
        Renormalize(MEAN, STD, MODEL_MEAN, (58.0, 0.0, 57.0))
