import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vitadapter_d2.inference import strips
from vitadapter_d2.inference.resize_rules import (
    ClampedToCrop,
    KeepRatio,
    NativeSize,
    PaddedShortSide,
)
from vitadapter_d2.inference.semantic import PUBLISHED_RATIOS, SemanticLabels, SemanticTester
from vitadapter_d2.inference.sliding_window import SlidingWindow

K = 6
SIZES = [(40, 57), (57, 40), (24, 24), (1, 1), (3, 50)]
WINDOW = SlidingWindow(24, 16)


class Network(nn.Module):
    """A convolution: small, but left and right, borders and sizes make a difference."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, K, 5, padding=2)
        self.input_sizes = []

    def normalize(self, image):
        return (image - 110.0) / 60.0

    def semantic_scores(self, images):
        self.input_sizes.append(tuple(images.shape[-2:]))
        return 4 * self.convolution(images)


@pytest.fixture
def network():
    torch.manual_seed(2)
    return Network().eval()


def make_image(height, width):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def run(tester, image, **extra):
    (output,) = tester([{"image": image, **extra}])
    assert set(output) == {"sem_seg"}
    return output["sem_seg"]


def resized(image, *sizes):
    pixels = image.permute(1, 2, 0).numpy()
    for height, width in sizes:
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def probabilities(network, image, target, window=None, flip=False, pad=0):
    """One resized raw image on its own, in the order of the official code."""
    raw = image.flip(2) if flip else image
    height, width = raw.shape[1:]
    raw = F.pad(raw, (0, max(0, pad - width), 0, max(0, pad - height)))
    images = network.normalize(raw.float())[None]
    score = network.semantic_scores
    scores = window(score, images) if window else score(images)
    scores = F.interpolate(scores[..., :height, :width], target, mode="bilinear")
    result = scores.softmax(1)
    return (result.flip(3) if flip else result)[0]


@torch.no_grad()
def multi_scale(network, image, sizes, target, **options):
    """All views, duplicates too, one after the other."""
    views = [
        probabilities(network, resized(image, *steps), target, flip=flip, **options)
        for steps in sizes
        for flip in (False, True)
    ]
    return sum(views) / len(views)


def clamped_sizes(size, short, crop):
    """By hand, for proportions that leave no doubt about the rounding."""
    sizes = []
    for ratio in PUBLISHED_RATIOS:
        side = max(int(short * ratio), crop)
        factor = side / min(size)
        sizes.append([tuple(max(1, int(each * factor + 0.5)) for each in size)])
    return sizes


@pytest.mark.parametrize("size", SIZES)
def test_whole_image_is_the_softmax_of_the_resized_scores(network, size):
    image = make_image(*size)
    with torch.no_grad():
        expected = probabilities(network, image, (33, 21))
    result = run(SemanticTester(network), image, height=33, width=21)
    torch.testing.assert_close(result, expected)
    assert run(SemanticTester(network), image).shape == (K, *size)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("mode", "window"), [("whole", None), ("slide", WINDOW)])
def test_one_size_is_resized_twice(network, mode, window, flip):
    image = make_image(40, 57)
    tester = SemanticTester(network, mode, window=WINDOW, resize=KeepRatio((128, 32), 8), flip=flip)
    seen = resized(image, (32, 46), (32, 48))
    with torch.no_grad():
        views = [
            probabilities(network, seen, (40, 57), window, flip=each)
            for each in ([False, True] if flip else [False])
        ]
    torch.testing.assert_close(run(tester, image), sum(views) / len(views))


def test_whole_and_slide_agree_on_an_image_of_the_windows_size(network):
    image = make_image(24, 24)
    whole = run(SemanticTester(network, "whole"), image)
    slide = run(SemanticTester(network, "slide", window=WINDOW), image)
    torch.testing.assert_close(whole, slide)
    larger = make_image(24, 25)
    whole = run(SemanticTester(network, "whole"), larger)
    slide = run(SemanticTester(network, "slide", window=WINDOW), larger)
    assert (whole - slide).abs().max() > 1e-3


@pytest.mark.parametrize("max_score_elements", [0, 2**29])
@pytest.mark.parametrize("pixels", [90, 2**18])
@pytest.mark.parametrize("size", SIZES)
def test_multi_scale_is_the_mean_of_all_views(
    network, monkeypatch, size, pixels, max_score_elements
):
    monkeypatch.setattr(strips, "_STRIP_PIXELS", pixels)
    tester = SemanticTester(
        network,
        "ms",
        window=WINDOW,
        ms_resize=ClampedToCrop((96, 30), 24),
        max_score_elements=max_score_elements,
    )
    image = make_image(*size)
    expected = multi_scale(network, image, clamped_sizes(size, 30, 24), size, window=WINDOW)
    result = run(tester, image)
    assert result.shape == (K, *size)
    if max_score_elements:
        torch.testing.assert_close(result, expected)
        torch.testing.assert_close(result.sum(0), torch.ones(size))
    else:
        assert isinstance(result, SemanticLabels)
        best, second = expected.topk(2, dim=0).values
        certain = best - second > 1e-5
        assert certain.float().mean() > 0.99
        assert torch.equal(result.argmax(dim=0)[certain], expected.argmax(0)[certain])


def test_equal_sizes_are_computed_once_and_counted_each_time(network):
    tester = SemanticTester(network, "ms", ms_resize=ClampedToCrop((96, 24), 24))
    image = make_image(24, 36)
    result = run(tester, image)
    assert network.input_sizes == [
        size for size in ((24, 36), (30, 45), (36, 54), (42, 63)) for _ in range(2)
    ]
    sizes = clamped_sizes((24, 36), 24, 24)
    assert len(sizes) == 6
    torch.testing.assert_close(result, multi_scale(network, image, sizes, (24, 36)))


def test_short_sides_are_padded_and_cropped_back(network):
    rule = PaddedShortSide(KeepRatio((160, 40), 8), 48)
    tester = SemanticTester(
        network, "ms", window=SlidingWindow(48, 32), ms_resize=rule, ms_ratios=(0.75, 1.5)
    )
    image = make_image(50, 61)
    sizes = [[(30, 37), (32, 40)], [(60, 73), (64, 80)]]
    expected = multi_scale(network, image, sizes, (50, 61), window=SlidingWindow(48, 32), pad=48)
    torch.testing.assert_close(run(tester, image), expected)
    assert set(network.input_sizes) == {(48, 48)}


def test_images_of_a_batch_are_independent(network):
    images = [make_image(30, 41), make_image(50, 20)]
    tester = SemanticTester(network, "slide", window=WINDOW, flip=True)
    together = tester([{"image": image} for image in images])
    for image, output in zip(images, together, strict=True):
        assert torch.equal(output["sem_seg"], run(tester, image))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_raw_images_may_be_floats(network, dtype):
    image = make_image(30, 41)
    tester = SemanticTester(network, "whole", resize=NativeSize())
    torch.testing.assert_close(run(tester, image.to(dtype)), run(tester, image))


def test_gradients_are_off_and_the_mode_of_the_model_is_taken_over(network):
    assert not run(SemanticTester(network), make_image(9, 9)).requires_grad
    assert not SemanticTester(network).training
    assert SemanticTester(network.train()).training


class LargestTensor(TorchDispatchMode):
    """Records the largest result of any operation."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("mode", ["slide", "ms"])
def test_labels_never_need_all_scores(network, monkeypatch, mode):
    monkeypatch.setattr(strips, "_STRIP_PIXELS", 2**12)
    tester = SemanticTester(
        network, mode, window=SlidingWindow(32, 24), ms_ratios=(1.0, 0.25), max_score_elements=0
    )
    image = make_image(700, 200)
    with LargestTensor() as largest:
        result = run(tester, image)
    assert result.shape == (K, 700, 200)
    held = max(32 * 200 * K, 2**12 * K, image.numel())  # windows, a strip, the image itself
    assert largest.elements <= held < 700 * 200 * K / 1.9


def test_labels_stand_for_scores():
    labels = SemanticLabels(torch.tensor([[1, 2, 0]]), num_classes=4)
    assert labels.shape == (4, 1, 3)
    assert torch.equal(labels.to("cpu").cpu().argmax(dim=0), torch.tensor([[1, 2, 0]]))
    with pytest.raises(ValueError, match="dim must be 0, got 1"):
        labels.argmax(dim=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "sliding"}, "mode must be one of whole, slide, ms, got 'sliding'"),
        ({"mode": "slide"}, "mode 'slide' needs a window, got None"),
        ({"mode": "ms", "ms_ratios": ()}, r"ms_ratios must be positive .*, got \(\)"),
        ({"mode": "ms", "ms_ratios": (1.0, 0.0)}, r"ms_ratios .* got \(1.0, 0.0\)"),
    ],
)
def test_wrong_settings_are_named(network, options, message):
    with pytest.raises(ValueError, match=message):
        SemanticTester(network, **options)


def test_a_model_without_scores_is_named():
    with pytest.raises(ValueError, match="needs a method semantic_scores, got Linear"):
        SemanticTester(nn.Linear(1, 1))


@pytest.mark.parametrize("shape", [(3, 0, 5), (1, 4, 4), (4, 4), (1, 3, 4, 4)])
def test_wrong_images_are_named(network, shape):
    with pytest.raises(ValueError, match=r"image must be \(3, H, W\), not empty, got"):
        run(SemanticTester(network), torch.zeros(shape))


def test_resizing_has_no_antialias(network):
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[1::3, 1::3] = 255  # only what a third of the size sees
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    tester = SemanticTester(network, resize=KeepRatio((30, 20)))
    white = torch.full((3, 20, 30), 255, dtype=torch.uint8)
    expected = run(SemanticTester(network), white, height=60, width=90)
    torch.testing.assert_close(run(tester, image), expected)
