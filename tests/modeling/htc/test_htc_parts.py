"""The parts of Hybrid Task Cascade: mask heads, semantic branch, extra attention."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from vitadapter_d2.checkpoint.detection import convert_roi_heads
from vitadapter_d2.modeling.htc import AttentionFPN, ExtraAttention, FusedSemanticHead, HTCMaskHead

LEVELS = ["res2", "res3", "res4", "res5"]


def mask_heads(count, channels, num_classes, num_convs):
    return torch.nn.ModuleList(
        HTCMaskHead(
            ShapeSpec(channels=channels, height=14, width=14),
            num_classes=num_classes,
            conv_dims=[channels] * (num_convs + 1),
            takes_features=stage > 0,
        )
        for stage in range(count)
    )


@pytest.mark.weights
def test_mask_heads_are_the_official_ones(reference_case):
    case = reference_case("htc_mask_heads")

    def rename(name):
        (new,) = convert_roi_heads({f"mask_head.{name}": torch.zeros(1)})
        return new.removeprefix("mask_head.")

    heads = mask_heads(2, 32, 6, num_convs=2)
    heads.load_state_dict({rename(name): tensor for name, tensor in case.state_dict.items()})
    first = heads[0].features(case.input)
    second = heads[1].features(case.input, first)
    outputs = [heads[0].logits(first), heads[1].logits(second), second]
    case.check_outputs(outputs)
    case.check_gradients(outputs, heads, rename)


def test_features_flow_into_a_head_through_its_projection():
    first, second = mask_heads(2, 4, 3, num_convs=1)
    assert first.conv_res is None
    region = torch.randn(2, 4, 14, 14)
    passed = first.features(region)
    joined = second.features(region + F.relu(F.conv2d(passed, *second.conv_res.parameters())))
    torch.testing.assert_close(second.features(region, passed), joined)
    assert not torch.equal(second.features(region, passed), second.features(region))


class Levels(Backbone):
    """Constant maps of a pyramid."""

    def __init__(self, maps):
        super().__init__()
        self.maps = maps
        self._out_features = list(maps)
        self._out_feature_strides = dict(zip(maps, (4, 8, 16, 32), strict=True))
        self._out_feature_channels = {name: m.shape[1] for name, m in maps.items()}

    def forward(self, image):
        return self.maps


def pyramid(channels=8, size=16):
    return {
        name: torch.randn(2, channels, size >> i, (size * 3 // 2) >> i)
        for i, name in enumerate(LEVELS)
    }


def test_the_fpn_gets_the_attended_coarsest_map_and_nothing_else_differs():
    maps, attention = pyramid(), ExtraAttention(8, num_heads=2).eval()
    options = dict(in_features=LEVELS, out_channels=6, top_block=LastLevelMaxPool())
    fpn = AttentionFPN(bottom_up=Levels(maps), extra_attention=attention, **options).eval()
    plain = FPN(Levels(maps | {"res5": attention(maps["res5"])}), **options)
    names = [name for name in fpn.state_dict() if not name.startswith("extra_attention.")]
    assert names == list(plain.state_dict())
    plain.load_state_dict(fpn.state_dict(), strict=False)
    expected = plain(None)
    for name, level in fpn(None).items():
        torch.testing.assert_close(level, expected[name])
    assert fpn.output_shape() == plain.output_shape()


def test_extra_attention_is_a_transformer_block_with_a_norm():
    attention = ExtraAttention(8, num_heads=2, ffn_ratio=3.0).eval()
    feature = torch.randn(2, 8, 3, 5)
    tokens = feature.flatten(2).transpose(1, 2)
    normed = attention.norm1(tokens)
    queries, keys, values = (
        F.linear(normed, weight, bias).unflatten(2, (2, 4)).transpose(1, 2)
        for weight, bias in zip(
            attention.attn.qkv.weight.chunk(3), attention.attn.qkv.bias.chunk(3), strict=True
        )
    )
    weights = (queries @ keys.transpose(2, 3) / 2).softmax(dim=-1)
    tokens = tokens + attention.attn.proj((weights @ values).transpose(1, 2).flatten(2))
    hidden = F.gelu(attention.ffn.fc1(attention.norm2(tokens)))
    tokens = attention.final_norm(tokens + attention.ffn.fc2(hidden))
    assert attention.norm1.eps == attention.final_norm.eps == 1e-5
    torch.testing.assert_close(
        attention(feature), tokens.transpose(1, 2).reshape(feature.shape), atol=1e-5, rtol=1e-5
    )


def test_recomputing_extra_attention_changes_no_gradient():
    attention, feature = ExtraAttention(8, num_heads=2), torch.randn(1, 8, 4, 4)
    gradients = []
    for attention.recompute_block in (False, True):
        attention.zero_grad()
        attention(feature).square().mean().backward()
        gradients.append([p.grad.clone() for p in attention.parameters()])
    torch.testing.assert_close(*gradients)


def test_the_semantic_branch_fuses_levels_at_the_size_of_one_with_aligned_corners():
    head = FusedSemanticHead(num_levels=3, num_classes=5, channels=4, num_convs=2)
    levels = [torch.randn(2, 4, size, size) for size in (8, 4, 2)]
    fused = F.relu(head.lateral_convs[1](levels[1]))
    for i in (0, 2):
        resized = F.interpolate(levels[i], size=(4, 4), mode="bilinear", align_corners=True)
        fused = fused + F.relu(F.conv2d(resized, *head.lateral_convs[i].parameters()))
    for conv in head.convs:
        fused = F.relu(F.conv2d(fused, *conv.parameters(), padding=1))
    output = head(levels)
    torch.testing.assert_close(output.logits, head.conv_logits(fused))
    context = F.relu(F.conv2d(fused, *head.conv_embedding.parameters()))
    torch.testing.assert_close(output.context, context)


def test_the_semantic_loss_reads_one_pixel_of_each_cell_and_averages_over_all():
    head = FusedSemanticHead(num_levels=1, num_classes=3, channels=4, fusion_level=0, stride=2)
    labels = torch.tensor([[[0, 9, 255, 9], [9, 9, 9, 9]]])
    logits = torch.randn(1, 3, 1, 2)
    expected = -0.2 * logits[0, :, 0, 0].log_softmax(dim=0)[0] / 2
    torch.testing.assert_close(head.loss(logits, labels), expected)
    nothing = head.loss(logits, torch.full_like(labels, 255))
    assert nothing == 0
