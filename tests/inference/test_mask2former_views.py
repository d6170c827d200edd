"""The published semantic Mask2Former at many sizes, against a loop over sizes, windows, queries."""

import cv2
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate

from vitadapter_d2 import model_zoo
from vitadapter_d2.inference.resize_rules import ClampedToCrop
from vitadapter_d2.inference.semantic import SemanticTester
from vitadapter_d2.inference.sliding_window import SlidingWindow

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
K, CROP, STRIDE = 5, 64, 42
SIZE = (50, 71)
# Of the short side 64, never below the crop: 0.5 and 1 are the same size.
RATIOS = (0.5, 1.0, 1.3)
RESIZED = [(64, 91), (64, 91), (83, 118)]


@pytest.fixture
def model():
    """As published but for its size and trunk."""
    torch.manual_seed(0)
    cfg = model_zoo.get_config("ade20k/mask2former_beit_adapter_large_640_160k_ade20k").model
    cfg.backbone = model_zoo.get_config("shapes/mask2former_vit_adapter_quickstart").model.backbone
    pixel_decoder, predictor = cfg.sem_seg_head.pixel_decoder, cfg.sem_seg_head.predictor
    pixel_decoder.in_channels = cfg.backbone.spatial_prior.embed_dim
    pixel_decoder.embed_dim = pixel_decoder.mask_dim = pixel_decoder.feedforward_dim = 32
    pixel_decoder.num_layers = predictor.num_layers = 1
    pixel_decoder.num_heads, predictor.feedforward_dim, predictor.num_queries = 4, 32, 7
    cfg.criterion.num_classes = K
    model = instantiate(cfg).eval()
    torch.nn.init.normal_(model.sem_seg_head.predictor.class_embed.weight, std=0.3)
    return model


def window_scores(model, window):
    """Class times mask at stride 4, query after query, and only then enlarged to the window."""
    output = model.sem_seg_head(model.backbone(window[None]))[-1]
    scores = torch.zeros(K, CROP // 4, CROP // 4)
    for classes, mask in zip(output.pred_logits[0], output.pred_masks[0], strict=True):
        scores += classes.softmax(0)[:K, None, None] * mask.sigmoid()
    return F.interpolate(scores[None], (CROP, CROP), mode="bilinear", align_corners=False)[0]


def view_scores(model, image):
    """``(K, h, w)``: where windows overlap, their mean."""
    height, width = image.shape[1:]
    total, count = torch.zeros(K, height, width), torch.zeros(height, width)
    for y in range(max(height - CROP + STRIDE - 1, 0) // STRIDE + 1):
        for x in range(max(width - CROP + STRIDE - 1, 0) // STRIDE + 1):
            top, left = min(y * STRIDE, height - CROP), min(x * STRIDE, width - CROP)
            here = slice(top, top + CROP), slice(left, left + CROP)
            total[:, *here] += window_scores(model, image[:, *here])
            count[here] += 1
    return total / count


@torch.no_grad()
def test_all_sizes_give_the_mean_of_a_loop(model):
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    total = torch.zeros(K, *SIZE)
    for height, width in RESIZED:
        pixels = cv2.resize(image.permute(1, 2, 0).numpy(), (width, height))
        for is_flipped in (False, True):
            view = (torch.from_numpy(pixels).permute(2, 0, 1) - mean) / std
            scores = view_scores(model, view.flip(2) if is_flipped else view)
            scores = F.interpolate(scores[None], SIZE, mode="bilinear", align_corners=False)[0]
            scores = scores.softmax(0)
            total += scores.flip(2) if is_flipped else scores
    expected = total / (2 * len(RESIZED))
    tester = SemanticTester(
        model,
        "ms",
        window=SlidingWindow(CROP, STRIDE),
        ms_resize=ClampedToCrop((256, CROP), CROP),
        ms_ratios=RATIOS,
    )
    (output,) = tester([{"image": image}])
    torch.testing.assert_close(output["sem_seg"], expected)
    assert expected.std(dim=(1, 2)).min() > 1e-4  # it says something
