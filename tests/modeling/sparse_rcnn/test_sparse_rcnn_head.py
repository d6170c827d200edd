import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform

from vitadapter_d2.modeling.roi_pooler import PreciseROIPooler
from vitadapter_d2.modeling.sparse_rcnn import DynamicConv, DynamicHead

C, D, K, B, Q = 16, 6, 5, 2, 7


def make_head(**options):
    pooler = PreciseROIPooler(3, [1 / 4, 1 / 8], sampling_ratio=2, pooler_type="ROIAlignV2")
    return DynamicHead(
        **{
            "box_pooler": pooler,
            "box2box_transform": Box2BoxTransform((2.0, 2.0, 1.0, 1.0)),
            "num_classes": K,
            "num_stages": 3,
            "embed_dim": C,
            "dynamic_dim": D,
            "num_heads": 4,
            "feedforward_dim": 24,
        }
        | options
    )


def make_stage():
    return make_head(num_stages=1).head_series[0]


def make_inputs():
    features = [torch.randn(B, C, 16, 24), torch.randn(B, C, 8, 12)]
    corners = torch.rand(B, Q, 2) * 40
    boxes = torch.cat([corners, corners + 4 + torch.rand(B, Q, 2) * 50], dim=-1)
    return features, boxes, torch.randn(B, Q, C)


def perturb(module):
    """No norm is the identity and no bias zero, so that each of them counts."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module


def test_each_proposal_filters_its_own_region_by_two_convolutions():
    module = perturb(DynamicConv(C, D, (3, 3)))
    proposals, regions = torch.randn(4, C), torch.randn(4, C, 3, 3)
    expected = []
    for proposal, region in zip(proposals, regions, strict=True):
        weights = module.dynamic_layer(proposal)
        first = weights[: C * D].view(C, D).t()[:, :, None, None]  # as a convolution's (out, in)
        second = weights[C * D :].view(D, C).t()[:, :, None, None]
        x = F.conv2d(region[None], first).permute(0, 2, 3, 1)
        x = module.norm1(x).relu().permute(0, 3, 1, 2)
        x = F.conv2d(x, second).permute(0, 2, 3, 1)
        x = module.norm2(x).relu()  # (1, 3, 3, C): what is flattened runs over channels first
        expected.append(module.norm3(module.out_layer(x.reshape(-1))).relu())
    torch.testing.assert_close(module(proposals, regions), torch.stack(expected))


def test_a_stage_is_attention_interaction_and_feed_forward_with_norms_behind():
    stage = perturb(make_stage())
    x, regions = torch.randn(B, Q, C), torch.randn(B * Q, C, 3, 3)
    logits, deltas, features = stage(x, regions)

    heads = 4
    query, key, value = (
        part.view(B, Q, heads, -1).transpose(1, 2)
        for part in F.linear(x, stage.self_attn.in_proj_weight, stage.self_attn.in_proj_bias).chunk(
            3, dim=-1
        )
    )
    weights = (query @ key.transpose(2, 3) / math.sqrt(C // heads)).softmax(-1)
    attention = stage.self_attn.out_proj((weights @ value).transpose(1, 2).reshape(B, Q, C))
    expected = stage.norm1(x + attention)
    interaction = torch.stack(
        [
            stage.inst_interact(
                expected[image, proposal][None], regions[image * Q + proposal, None]
            )
            for image in range(B)
            for proposal in range(Q)
        ]
    )
    expected = stage.norm2(expected + interaction.view(B, Q, C))
    expected = stage.norm3(expected + stage.linear2(stage.linear1(expected).relu()))
    torch.testing.assert_close(features, expected)
    for module, count, output, prediction in (
        (stage.cls_module, 1, stage.class_logits, logits),
        (stage.reg_module, 3, stage.bboxes_delta, deltas),
    ):
        x = expected
        for layer in range(count):
            x = F.layer_norm(
                x @ module[3 * layer].weight.t(), (C,), *module[3 * layer + 1].parameters()
            )
            x = x.clamp(min=0)
        torch.testing.assert_close(prediction, output(x))


def test_every_class_starts_at_one_percent():
    stage = make_stage()
    torch.testing.assert_close(stage.class_logits.bias.sigmoid(), torch.full((K,), 0.01))
    for name, parameter in stage.named_parameters():
        if parameter.ndim > 1:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert 0.8 * bound < parameter.abs().max() <= bound, name


def test_refinement_moves_centers_by_half_sides_and_scales_sides():
    head = make_head()
    boxes = torch.tensor([[[10.0, 20.0, 30.0, 60.0]]])  # 20 x 40 around (20, 40)
    deltas = torch.tensor([[[1.0, -0.5, math.log(2.0), 0.0]]])
    expected = torch.tensor(
        [[[10.0, 10.0, 50.0, 50.0]]]
    )  # center moved by (10, -10), twice as wide
    torch.testing.assert_close(head.refine(boxes, deltas), expected)


def test_refinement_is_limited_in_both_directions_and_not_clipped():
    head = make_head()
    boxes = torch.tensor([[[0.0, 0.0, 125.0, 16.0]]])
    refined = head.refine(boxes, torch.tensor([[[0.0, 0.0, -100.0, 100.0]]]))[0, 0]
    torch.testing.assert_close(refined[2:] - refined[:2], torch.tensor([2.0, 1000.0]))
    assert refined[1] < 0


def test_limits_follow_the_weights():
    head = make_head(box2box_transform=Box2BoxTransform((1.0, 1.0, 5.0, 10.0)))
    boxes = torch.tensor([[[0.0, 0.0, 125.0, 125.0]]])
    refined = head.refine(boxes, torch.full((1, 1, 4), -1e3))[0, 0]
    torch.testing.assert_close(refined[2:] - refined[:2], torch.tensor([2.0, 2.0]))


def region_of(features, image, box):
    """3 x 3 bins of 2 x 2 bilinear samples, from the level of the box's size."""
    x1, y1, x2, y2 = box.tolist()
    area = (x2 - x1) * (y2 - y1)
    level = min(max(math.floor(4 + math.log2(math.sqrt(area) / 224)), 2), 3)
    grid = features[level - 2][image]
    height, width = grid.shape[-2:]
    steps = (torch.arange(6) + 0.5) / 6  # where pixels are squares: the first one ends at 1
    x = (x1 + steps * (x2 - x1)) / 2**level
    y = (y1 + steps * (y2 - y1)) / 2**level
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (6, 6, 2)
    points = points / torch.tensor([width, height]) * 2 - 1
    samples = F.grid_sample(grid[None], points[None], padding_mode="border", align_corners=False)
    outside = ((x - 0.5 < -1) | (x - 0.5 > width)) | ((y - 0.5 < -1) | (y - 0.5 > height))[:, None]
    return F.avg_pool2d(samples.masked_fill(outside, 0), 2)[0]


def test_the_head_is_a_chain_of_stages_on_refined_boxes():
    head = perturb(make_head())
    features, boxes, proposals = make_inputs()
    with torch.no_grad():
        prediction = head(features, boxes, proposals)
    for index, stage in enumerate(head.head_series):
        regions = [region_of(features, image, box) for image in range(B) for box in boxes[image]]
        with torch.no_grad():
            logits, deltas, proposals = stage(proposals, torch.stack(regions))
        torch.testing.assert_close(prediction.logits[index], logits, rtol=1e-3, atol=1e-3)
        boxes = head.refine(boxes, deltas)
        torch.testing.assert_close(prediction.boxes[index], boxes, rtol=1e-3, atol=1e-2)
        boxes = prediction.boxes[index]


def test_boxes_are_detached_between_stages():
    head = make_head()
    features, boxes, proposals = make_inputs()
    boxes.requires_grad_()
    prediction = head(features, boxes, proposals)
    (gradient,) = torch.autograd.grad(prediction.boxes[0].sum(), boxes, retain_graph=True)
    assert gradient.abs().min() > 0
    later = prediction.boxes[1:].sum() + prediction.logits.sum()
    delta = head.head_series[0].bboxes_delta.weight
    assert not any(gradient.any() for gradient in torch.autograd.grad(later, (boxes, delta)))


def test_regions_are_cut_in_float32_under_autocast():
    head = make_head(num_stages=1)
    features, boxes, proposals = make_inputs()
    boxes = boxes + 700  # bfloat16 knows every fourth pixel there
    features = [torch.randn(B, C, 200, 210), torch.randn(B, C, 100, 105)]
    expected = head(features, boxes, proposals)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = head([level.bfloat16() for level in features], boxes, proposals)
    assert prediction.logits.dtype == prediction.boxes.dtype == torch.float32
    torch.testing.assert_close(prediction.logits, expected.logits, rtol=0, atol=0.05)
    torch.testing.assert_close(prediction.boxes, expected.boxes, rtol=0, atol=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_stages": 0}, "num_stages must be at least 1, got 0"),
        (
            {"box_pooler": PreciseROIPooler(3, [1 / 4], 0, "ROIAlignV2")},
            "sampling_ratio .* got \\[0\\]",
        ),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_head(**options)
