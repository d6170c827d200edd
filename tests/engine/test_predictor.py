import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate

from vitadapter_d2 import Predictor
from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.inference.resize_rules import KeepRatio
from vitadapter_d2.inference.semantic import SemanticTester
from vitadapter_d2.inference.sliding_window import SlidingWindow
from vitadapter_d2.modeling.mask2former import Mask2Former


@pytest.fixture
def weights(tiny_config, tmp_path):
    torch.manual_seed(0)
    model = instantiate(tiny_config.model)
    Checkpointer(model, str(tmp_path)).save("weights")
    return tmp_path / "weights.pth"


def test_outputs_have_the_size_of_the_image(tiny_config, weights):
    predictor = Predictor(tiny_config, weights, device="cpu")
    outputs = predictor(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    assert outputs["sem_seg"].shape == (12, 50, 70)
    assert outputs["panoptic_seg"][0].shape == (50, 70)
    assert outputs["instances"].image_size == (50, 70)
    assert len(predictor.metadata.stuff_classes) == 12


def test_channels_are_turned_to_what_the_model_expects(tiny_config, weights):
    predictor = Predictor(tiny_config, weights)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    rgb = torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)))
    with torch.no_grad():
        (expected,) = predictor.model([{"image": rgb, "height": 64, "width": 64}])
    torch.testing.assert_close(predictor(image)["sem_seg"], expected["sem_seg"])


def test_the_config_chooses_how_to_test(tiny_config, weights):
    tiny_config.test = L(SemanticTester)(
        mode="slide",
        window=L(SlidingWindow)(crop_size=(64, 64), stride=(42, 42)),
        resize=L(KeepRatio)(scale=(256, 64), divisor=32),
    )
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    predictor = Predictor(tiny_config, weights, device="cpu")
    assert isinstance(predictor.model, Mask2Former)
    slide = predictor(image)["sem_seg"]
    assert slide.shape == (12, 50, 70)
    tester = SemanticTester(
        predictor.model,
        "slide",
        window=SlidingWindow(64, 42),
        resize=KeepRatio((256, 64), 32),
    )
    rgb = torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)))
    torch.testing.assert_close(slide, tester([{"image": rgb}])[0]["sem_seg"])
    tiny_config.test.mode = "whole"
    assert not torch.equal(Predictor(tiny_config, weights)(image)["sem_seg"], slide)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "must be a uint8 array, got float32"),
        (np.zeros((4, 4), np.uint8), r"must be \(H, W, 3\) BGR, got shape \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"got shape \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got shape \(0, 4, 3\)"),
        ("photo.jpg", "must be a uint8 array, got str"),
    ],
)
def test_wrong_images_are_named(tiny_config, weights, image, message):
    predictor = Predictor(tiny_config, weights)
    with pytest.raises(ValueError, match=message):
        predictor(image)


def assert_same(output, expected):
    """Equal to 1e-5; instances may swap places where scores are."""
    torch.testing.assert_close(output["sem_seg"], expected["sem_seg"], atol=1e-5, rtol=1e-5)
    assert output["panoptic_seg"][0].equal(expected["panoptic_seg"][0])
    scores = output["instances"].scores, expected["instances"].scores
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)
    assert output["instances"].image_size == expected["instances"].image_size


@pytest.mark.parametrize("tester", [None, L(SemanticTester)(mode="whole")])
def test_a_batch_gives_what_single_calls_give(tiny_config, weights, tester):
    if tester is not None:
        tiny_config.test = tester
    predictor = Predictor(tiny_config, weights, device="cpu")
    rng = np.random.default_rng(0)
    sizes = ((64, 96), (50, 70), (64, 96), (64, 90))
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    outputs = predictor.batch(images)
    for image, output in zip(images, outputs, strict=True):
        if tester is None:
            assert_same(output, predictor(image))
        else:
            torch.testing.assert_close(output["sem_seg"], predictor(image)["sem_seg"])
    assert predictor.batch([]) == []


def test_images_of_one_padded_size_share_a_forward_pass(tiny_config, weights):
    predictor = Predictor(tiny_config, weights, device="cpu")
    shapes = []
    predictor.model.backbone.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    sizes = ((64, 96), (96, 64), (64, 96), (60, 90))
    items = [predictor.prepare(np.zeros((*size, 3), np.uint8)) for size in sizes]
    classes = [predictor.size_class(item) for item in items]
    assert classes[0] == classes[2] != classes[1]
    predictor.batch([np.zeros((*size, 3), np.uint8) for size in sizes])
    assert sorted(shape[0] for shape in shapes) == sorted(
        classes.count(each) for each in set(classes)
    )
    assert {tuple(shape[2:]) for shape in shapes} == set(classes)


def test_several_test_sets_are_legal(tiny_config, weights):
    tiny_config.dataloader.test.dataset.names = ["tiny_val_panoptic"]
    assert len(Predictor(tiny_config, weights).metadata.stuff_classes) == 12


def test_weights_are_needed():
    with pytest.raises(ValueError, match=r"needed: train.init_checkpoint names none"):
        Predictor("shapes/mask2former_vit_adapter_quickstart")


def test_unknown_config_is_named():
    with pytest.raises(FileNotFoundError, match="nothing.py is neither a file nor a name"):
        Predictor("nothing.py", "weights.pth")
