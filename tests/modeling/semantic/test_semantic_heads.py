import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from vitadapter_d2.modeling.backbone import plain_vit
from vitadapter_d2.modeling.semantic import (
    FCNHead,
    PlainViTStages,
    SemanticFPNHead,
    SETRPUPHead,
    UPerNetHead,
)


def pyramid(height=13, width=22, channels=8, finest=2, names="res{}"):
    """Levels that are not exactly halved; ``ceil`` at each step."""
    sizes = [(-(-height // 2**i), -(-width // 2**i)) for i in range(4)]
    return {
        names.format(finest + index): torch.randn(2, channels, *size)
        for index, size in enumerate(sizes)
    }


@pytest.mark.parametrize("norm", ["BN", "GN", ""])
def test_upernet_takes_any_sizes_and_norms(norm):
    channels = 32  # of which Detectron2's GroupNorm makes 32 groups
    head = UPerNetHead(8, 5, channels=channels, norm=norm)
    assert head(pyramid()).shape == (2, 5, 13, 22)
    assert (head.fuse.bias is None) == bool(norm)


def test_upernet_with_fewer_levels():
    levels = pyramid()
    head = UPerNetHead(8, 5, channels=4, in_features=("res3", "res5"), pool_scales=(1, 2))
    assert head(levels).shape == (2, 5, 7, 11)


def test_batch_statistics_are_told_apart_from_other_norms():
    one = {name: level[:1] for name, level in pyramid().items()}
    head = UPerNetHead(8, 5, channels=4)
    with pytest.raises(ValueError, match=r"1x1 grid of 1 image .*train with 2 images or more"):
        head(one)
    assert head.eval()(one).shape == (1, 5, 13, 22)
    assert UPerNetHead(8, 5, channels=4, pool_scales=(2, 3))(one).shape == (1, 5, 13, 22)
    assert UPerNetHead(8, 5, channels=4, norm="")(one).shape == (1, 5, 13, 22)


def test_dropout_takes_whole_channels_in_training_alone():
    head = FCNHead(8, 5, channels=64, dropout=0.5)
    features = torch.randn(2, 64, 3, 4) + 10  # far from zero
    seen = []
    head.predictor.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    head.predict(features)
    zeros = (seen[0] == 0).flatten(2)
    assert (zeros.all(2) == zeros.any(2)).all()
    assert 0.2 < zeros.float().mean() < 0.8
    head.eval().predict(features)
    torch.testing.assert_close(seen[1], features)


def test_semantic_fpn_has_dropout_before_its_classifier():
    head = SemanticFPNHead(8, 5, channels=16, dropout=0.999)
    levels = pyramid(16, 32, names="p{}")
    with torch.no_grad():
        head.predictor.bias.fill_(3.0)
        torch.manual_seed(1)
        dropped = head(levels)
        kept = head.eval()(levels)
    assert (dropped == 3.0).float().mean() > 0.9
    assert (kept != 3.0).all()


def original_order(head, feature):
    """The paper's: enlarged before the classifier."""
    feature = F.layer_norm(
        feature.permute(0, 2, 3, 1), feature.shape[1:2], head.norm.weight, head.norm.bias, 1e-6
    ).permute(0, 3, 1, 2)
    for conv in head.convs:
        feature = F.interpolate(conv(feature), scale_factor=head.upsampling, mode="bilinear")
    return head.predictor(feature)


@pytest.mark.parametrize(("num_convs", "upsampling"), [(4, 2), (1, 4)])
def test_setr_enlarges_after_the_classifier_without_a_difference(num_convs, upsampling):
    head = SETRPUPHead(
        8, 5, channels=6, num_convs=num_convs, upsampling=upsampling, in_feature="stage1"
    ).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    feature = torch.randn(2, 8, 3, 4)
    logits = head({"stage1": feature})
    assert logits.shape == (2, 5, 3 * upsampling**num_convs, 4 * upsampling**num_convs)
    torch.testing.assert_close(logits, original_order(head, feature), atol=1e-4, rtol=1e-4)


def test_setr_has_the_parameters_of_the_original_code():
    """Less its unused classifiers; counted by hand from its layers, biases included."""
    norm, first, inner, classifier = 2 * 768, 768 * 9 * 256 + 256, 256 * 9 * 256 + 256, 257 * 150
    expected = {(4, 2): norm + first + 3 * inner + 4 * 512 + classifier}
    expected[1, 4] = norm + first + 512 + classifier
    for (num_convs, upsampling), count in expected.items():
        head = SETRPUPHead(
            768, 150, num_convs=num_convs, upsampling=upsampling, in_feature="stage1"
        )
        assert sum(parameter.numel() for parameter in head.parameters()) == count


@pytest.mark.parametrize("keep_prefix_tokens", [False, True])
def test_stages_are_the_maps_between_the_blocks(keep_prefix_tokens):
    model = VisionTransformer(
        img_size=64, patch_size=16, embed_dim=16, depth=4, num_heads=2, num_classes=0
    ).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.forward_intermediates(image, indices=[1, 3], intermediates_only=True)
        vit = plain_vit(model, keep_prefix_tokens=keep_prefix_tokens)
        backbone = PlainViTStages(vit, [1, 3])
        stages = backbone(image)
        odd = backbone(image[..., :50, :33])
    assert backbone.output_shape()["stage2"].stride == 16
    assert odd["stage1"].shape == (1, 16, 4, 3)
    if keep_prefix_tokens:  # as timm
        for stage, feature in zip(stages.values(), expected, strict=True):
            torch.testing.assert_close(stage, feature, atol=1e-5, rtol=1e-5)
    else:
        assert not torch.allclose(stages["stage2"], expected[1])


@pytest.mark.parametrize("blocks", [[0, 1], [3, 1], [-1, 3], [1, 1, 3]])
def test_stages_must_ascend_to_the_last_block(blocks):
    model = VisionTransformer(img_size=64, patch_size=16, embed_dim=16, depth=4, num_heads=2)
    with pytest.raises(ValueError, match=r"ascend in \[0, 3\]"):
        PlainViTStages(plain_vit(model), blocks)


@pytest.mark.parametrize("head", [FCNHead, SETRPUPHead])
def test_a_head_needs_a_convolution(head):
    with pytest.raises(ValueError, match="num_convs must be at least 1, got 0"):
        head(8, 5, num_convs=0, in_feature="res4")
