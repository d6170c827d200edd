import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import FPN
from timm.models.vision_transformer import VisionTransformer

from vitadapter_d2.modeling.backbone import (
    SpatialPriorModule,
    ViTAdapter,
    interaction_blocks,
    plain_vit,
)
from vitadapter_d2.modeling.semantic import (
    FCNHead,
    PlainViTStages,
    SemanticFPNHead,
    SemanticSegmentor,
    SETRPUPHead,
    UPerNetHead,
)

K = 5
LEVELS = ("res2", "res3", "res4", "res5")


def trunk(**options):
    model = VisionTransformer(
        img_size=64, patch_size=16, embed_dim=16, depth=2, num_heads=2, num_classes=0
    )
    return plain_vit(model, **options)


def adapter():
    return ViTAdapter(
        vit=trunk(),
        spatial_prior=SpatialPriorModule(embed_dim=16, channels=4),
        interactions=interaction_blocks(16, [(0, 0), (1, 1)], num_heads=2),
    )


def upernet(**options):
    return SemanticSegmentor(
        backbone=adapter(),
        sem_seg_head=UPerNetHead(16, K, channels=8),
        auxiliary_head=FCNHead(16, K, channels=8),
        **options,
    )


def semantic_fpn():
    backbone = FPN(adapter(), LEVELS, out_channels=8)
    return SemanticSegmentor(backbone=backbone, sem_seg_head=SemanticFPNHead(8, K, channels=8))


def setr():
    return SemanticSegmentor(
        backbone=PlainViTStages(trunk(keep_prefix_tokens=True), [0, 1]),
        sem_seg_head=SETRPUPHead(16, K, channels=8, in_feature="stage2"),
        auxiliary_head=[
            SETRPUPHead(
                16,
                K,
                channels=8,
                num_convs=1,
                upsampling=4,
                in_feature=f"stage{index}",
                loss_weight=0.4,
            )
            for index in (1, 2)
        ],
    )


MODELS = {"upernet": upernet, "semantic_fpn": semantic_fpn, "setr": setr}


@pytest.fixture(params=MODELS, name="model")
def any_model(request):
    return MODELS[request.param]()


def example(height, width, labels=None):
    if labels is None:
        labels = torch.randint(K, (height, width))
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "sem_seg": labels, "file_name": f"{height}x{width}.jpg"}


def blank(segmentor):
    """Logits of zero: each pixel costs log K."""
    for head in (segmentor.sem_seg_head, segmentor.auxiliary_head):
        torch.nn.init.zeros_(head.predictor.weight)
    return segmentor.train()


def test_every_parameter_learns(model):
    sum(model([example(64, 64), example(40, 70)]).values()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_training_reduces_the_loss(model):
    halves = torch.arange(32).expand(32, 32) // 16
    batch = [example(32, 32, halves), example(32, 32, halves)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    totals = []
    for _ in range(10):
        total = sum(model(batch).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.8 * totals[0]


def test_names_of_the_losses():
    batch = [example(32, 32), example(32, 32)]
    assert list(upernet()(batch)) == ["loss_sem_seg", "loss_auxiliary"]
    assert list(semantic_fpn()(batch)) == ["loss_sem_seg"]
    assert list(setr()(batch)) == ["loss_sem_seg", "loss_auxiliary_0", "loss_auxiliary_1"]


@pytest.mark.parametrize("size", [(1, 1), (31, 65), (64, 32)])
def test_scores_have_the_size_of_the_image(model, size):
    model.eval()
    with torch.no_grad():
        scores = model.semantic_scores(torch.randn(2, 3, *size))
    assert scores.shape == (2, K, *size)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()


def test_padding_is_zeros_on_the_right_and_bottom(model):
    model.eval()
    images = torch.randn(1, 3, 40, 50)
    divisor = model.backbone.size_divisibility
    with torch.no_grad():
        scores = model.semantic_scores(images)
        padded = model.semantic_scores(F.pad(images, (0, -50 % divisor, 0, -40 % divisor)))
    torch.testing.assert_close(scores, padded[..., :40, :50])


def test_output_has_the_size_asked_for(model):
    model.eval()
    item = example(40, 50) | {"height": 80, "width": 90}
    with torch.no_grad():
        (output,) = model([item])
        scores = model.semantic_scores(model.normalize(item["image"])[None])
    expected = F.interpolate(scores, size=(80, 90), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(output["sem_seg"], expected)


def test_an_image_does_not_depend_on_its_batch(model):
    model.eval()
    items = [example(40, 50), example(64, 33)]
    with torch.no_grad():
        together = model(items)
        alone = [model([item])[0] for item in items]
        same_size = model([items[0], items[0]])
    for first, second in zip(together, alone, strict=True):
        torch.testing.assert_close(first["sem_seg"], second["sem_seg"])
    torch.testing.assert_close(same_size[1]["sem_seg"], alone[0]["sem_seg"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("average_over_ignored", [True, False])
def test_padding_and_ignored_pixels_count_only_if_asked_for(average_over_ignored):
    segmentor = blank(upernet(average_over_ignored=average_over_ignored))
    ignored = torch.full((20, 64), 255)
    ignored[:10] = 3
    losses = segmentor([example(64, 64), example(20, 64, ignored)])
    share = (64 * 64 + 10 * 64) / (2 * 64 * 64) if average_over_ignored else 1.0
    assert losses["loss_sem_seg"].item() == pytest.approx(share * math.log(K), rel=1e-5)
    assert losses["loss_auxiliary"].item() == pytest.approx(0.4 * share * math.log(K), rel=1e-5)


def test_another_ignore_value():
    segmentor = blank(upernet(ignore_value=K))
    labels = torch.full((32, 32), K)
    losses = segmentor([example(32, 32, labels), example(32, 32)])
    assert losses["loss_sem_seg"].item() == pytest.approx(0.5 * math.log(K), rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([[0, 7], [-1, 255]]), r"2x2.jpg must be in \[0, 5\) or 255, got \[-1, 7\]"),
        (torch.zeros(2, 3, dtype=torch.int64), r"2x2.jpg .* size \(2, 2\), got \(2, 3\)"),
        (torch.zeros(2, 2, 3, dtype=torch.uint8), r"got \(2, 2, 3\) torch.uint8"),
        (torch.zeros(2, 2), "integers .* got .* torch.float32"),
    ],
)
def test_wrong_labels_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        upernet()([example(2, 2, labels)])


def test_missing_labels_are_named():
    item = example(32, 32)
    del item["sem_seg"]
    with pytest.raises(ValueError, match=r"'sem_seg' of 32x32.jpg, got \['file_name', 'image'\]"):
        upernet()([item])


def test_heads_of_different_classes_are_refused():
    with pytest.raises(ValueError, match=r"same num_classes, got \[5, 6\]"):
        SemanticSegmentor(
            backbone=adapter(),
            sem_seg_head=UPerNetHead(16, 5, channels=8),
            auxiliary_head=FCNHead(16, 6),
        )


def test_auxiliary_head_can_be_left_out_of_a_trained_model():
    trained = upernet().eval()
    bare = SemanticSegmentor(backbone=adapter(), sem_seg_head=UPerNetHead(16, K, channels=8)).eval()
    missing, unexpected = bare.load_state_dict(trained.state_dict(), strict=False)
    assert not missing
    assert {name.partition(".")[0] for name in unexpected} == {"auxiliary_head"}
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(bare.semantic_scores(images), trained.semantic_scores(images))


def test_autocast_gives_float32_scores_and_losses(model):
    with torch.autocast("cpu", torch.bfloat16):
        losses = model([example(32, 32), example(32, 32)])
        scores = model.eval().semantic_scores(torch.randn(1, 3, 32, 32))
    assert {value.dtype for value in (*losses.values(), scores)} == {torch.float32}


def test_half_precision_logits_are_enlarged_in_float32():
    segmentor = upernet()
    logits = []
    segmentor.sem_seg_head.register_forward_hook(lambda *args: logits.append(args[2]))
    batch = [example(32, 32), example(32, 32)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = segmentor(batch)["loss_sem_seg"]
    assert logits[0].dtype == torch.bfloat16
    enlarged = F.interpolate(logits[0].float(), scale_factor=4, mode="bilinear")
    expected = F.cross_entropy(enlarged, torch.stack([item["sem_seg"] for item in batch]))
    torch.testing.assert_close(loss, expected, atol=1e-7, rtol=1e-6)
