"""Parity of the testing protocol with the official segmentor, by a case with random weights."""

import re

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from vitadapter_d2.checkpoint.vit_adapter import convert_backbone
from vitadapter_d2.inference.semantic import SemanticTester
from vitadapter_d2.inference.sliding_window import SlidingWindow
from vitadapter_d2.modeling.backbone import (
    SpatialPriorModule,
    ViTAdapter,
    interaction_blocks,
    plain_vit,
)
from vitadapter_d2.modeling.semantic import SemanticSegmentor, UPerNetHead

pytestmark = pytest.mark.weights

HEAD_RULES = [
    (r"^psp_modules\.(\d)\.1\.", r"pyramid_pooling.branches.\1."),
    (r"^bottleneck\.", "pyramid_pooling.fuse."),
    (r"^fpn_bottleneck\.", "fuse."),
    (r"^fpn_convs\.", "output_convs."),
    (r"^(lateral_convs|output_convs)\.(\d)\.", lambda m: f"{m[1]}.res{int(m[2]) + 2}."),
    (r"^conv_seg\.", "predictor."),
    (r"\.conv\.(weight|bias)$", r".\1"),
    (r"\.bn\.", ".norm."),
]


def head_key(key):
    for pattern, replacement in HEAD_RULES:
        key = re.sub(pattern, replacement, key)
    return key


def part(case, prefix):
    return {
        key.removeprefix(prefix): value
        for key, value in case.state_dict.items()
        if key.startswith(prefix)
    }


@pytest.fixture
def case(reference_case):
    return reference_case("segmentor_upernet_slide")


@pytest.fixture
def segmentor(case):
    vit = VisionTransformer(embed_dim=48, depth=4, num_heads=4, num_classes=0)
    model = SemanticSegmentor(
        backbone=ViTAdapter(
            plain_vit(vit),
            SpatialPriorModule(48, channels=8),
            interaction_blocks(48, [(i, i) for i in range(4)], num_heads=6, deform_ratio=0.5),
            added_stages=(0, 1, 2, 3),
        ),
        sem_seg_head=UPerNetHead(48, 7, channels=32),
        pixel_mean=(0.0, 0.0, 0.0),  # the case's input is normalised
        pixel_std=(1.0, 1.0, 1.0),
    )
    model.backbone.load_state_dict(convert_backbone(part(case, "backbone.")))
    head = {head_key(key): value for key, value in part(case, "decode_head.").items()}
    model.sem_seg_head.load_state_dict(head)
    return model.eval()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_slide_logits_meet_the_reference(case, segmentor, batch_size):
    window = SlidingWindow(case.config["test_cfg"]["crop_size"], (42, 42), batch_size)
    with torch.no_grad():
        scores = window(segmentor.semantic_scores, case.input)
    expected = dict(zip(case.out_names, case.outputs, strict=True))["slide_logits"]
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("mode", "flip", "names"),
    [
        ("whole", False, ["whole_prob"]),
        ("slide", False, ["slide_prob"]),
        ("slide", True, ["slide_prob", "slide_prob_flip"]),
    ],
)
def test_probabilities_meet_the_reference(case, segmentor, mode, flip, names):
    tester = SemanticTester(segmentor, mode, window=SlidingWindow(64, 42), flip=flip)
    height, width = case.ori_shape[:2]
    (output,) = tester([{"image": case.input[0], "height": height, "width": width}])
    outputs = dict(zip(case.out_names, case.outputs, strict=True))
    expected = torch.stack([outputs[name][0] for name in names]).mean(0)
    torch.testing.assert_close(output["sem_seg"], expected, atol=1e-4, rtol=1e-4)
