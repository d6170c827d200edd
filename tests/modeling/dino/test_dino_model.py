import pytest
import torch
from detectron2.structures import Boxes
from dino_parts import LAYERS, K, Q, disturb, make_input, make_model

from vitadapter_d2.modeling.dino import (
    ContrastiveDenoising,
    DeformableDecoder,
    DeformableEncoder,
    InputProjection,
    QuerySelection,
)
from vitadapter_d2.modeling.dino.model import top_detections


@pytest.mark.parametrize("counts", [(3, 0), (0, 0), (1, 2)])
def test_training_gives_finite_losses_and_a_gradient_for_every_parameter(counts):
    model = make_model()
    losses = model([make_input(90, 100, counts[0]), make_input(64, 61, counts[1])])
    assert len(losses) == 3 * (2 * LAYERS + 1)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_parameters_off_the_zero_start_all_move():
    model = disturb(make_model())
    sum(model([make_input(96, 96, 4)]).values()).backward()
    still = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert not still


def test_training_lowers_the_loss():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    batch = [make_input(96, 96, 2)]
    totals = []
    for _ in range(25):
        total = sum(model(batch).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-5:]) < 0.7 * sum(totals[:5])


def test_an_image_of_a_padded_batch_has_the_results_it_has_alone():
    # GroupNorm would count the padding in its statistics.
    model = disturb(make_model(norm="BN")).eval()
    first, second = make_input(96, 150, 0), make_input(70, 61, 0)
    with torch.no_grad():
        together, (alone,) = model([first, second])[1], model([second])
    for name in ("scores", "pred_classes"):
        torch.testing.assert_close(
            together["instances"].get(name), alone["instances"].get(name), atol=1e-5, rtol=1e-5
        )
    torch.testing.assert_close(
        together["instances"].pred_boxes.tensor,
        alone["instances"].pred_boxes.tensor,
        atol=1e-3,  # pixels
        rtol=1e-5,
    )
    assert len(alone["instances"]) == Q * K


def test_denoising_is_off_at_test():
    model = disturb(make_model()).eval()
    batch = [make_input(64, 80, 2)]
    with torch.no_grad():
        (before,) = model(batch)
        model.denoising.label_embed.weight.fill_(float("nan"))
        torch.manual_seed(5)
        (after,) = model(batch)
    assert torch.equal(before["instances"].scores, after["instances"].scores)
    boxes = before["instances"].pred_boxes.tensor, after["instances"].pred_boxes.tensor
    assert torch.equal(*boxes)


def test_noise_does_not_reach_the_losses_of_the_other_queries():
    model = disturb(make_model())
    batch = [make_input(64, 80, 2), make_input(64, 70, 1)]
    first, second = model(batch), model(batch)
    for name, loss in first.items():
        if "_dn" in name:
            assert not torch.equal(loss, second[name]), name
        else:
            torch.testing.assert_close(loss, second[name], rtol=1e-6, atol=1e-6)


def test_results_have_the_wanted_size():
    model = disturb(make_model(test_topk_per_image=9)).eval()
    batch = [make_input(64, 80, 0), make_input(64, 80, 0, height=128, width=240)]
    batch[1]["image"] = batch[0]["image"]
    with torch.no_grad():
        plain, scaled = (output["instances"] for output in model(batch))
    assert plain.image_size == (64, 80) and scaled.image_size == (128, 240)
    assert len(plain) == len(scaled) == 9
    factors = torch.tensor([3.0, 2.0, 3.0, 2.0])
    torch.testing.assert_close(
        scaled.pred_boxes.tensor, plain.pred_boxes.tensor * factors, rtol=1e-4, atol=1e-3
    )
    assert (scaled.scores[:-1] >= scaled.scores[1:]).all()


def test_the_best_pairs_of_query_and_class_are_kept_without_suppression():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [-1.0, -2.0]])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4]] * 2 + [[0.25, 0.5, 0.5, 1.0]])
    instances = top_detections(logits, boxes, (100, 200), count=4)
    assert instances.pred_classes.tolist() == [1, 0, 1, 0]
    torch.testing.assert_close(instances.scores, torch.tensor([3.0, 2.0, 1.0, 0.0]).sigmoid())
    expected = torch.tensor([80.0, 30.0, 120.0, 70.0]).expand(4, 4)
    torch.testing.assert_close(instances.pred_boxes.tensor, expected)


def test_bfloat16_losses_are_close_to_float32():
    model = make_model()
    batch = [make_input(90, 100, 3), make_input(64, 61, 1)]
    totals = []
    for is_half in (False, True):
        torch.manual_seed(2)  # of the noise
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            losses = model(batch)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        totals.append(sum(losses.values()).item())
    assert totals[1] == pytest.approx(totals[0], rel=0.02)


def test_wrong_targets_are_named():
    model = make_model()
    item = make_input(64, 64, 2)
    item["instances"].gt_classes[0] = K
    with pytest.raises(ValueError, match=rf"gt_classes must be in \[0, {K}\)"):
        model([item])
    item = make_input(64, 64, 2)
    item["instances"].gt_boxes.tensor[1, 2] = item["instances"].gt_boxes.tensor[1, 0]
    with pytest.raises(ValueError, match="gt_boxes must be finite xyxy"):
        model([item])
    item["instances"].remove("gt_boxes")
    with pytest.raises(ValueError, match=r"instances need gt_boxes, got \['gt_classes'\]"):
        model([item])
    del item["instances"]
    with pytest.raises(ValueError, match="training needs 'instances'"):
        model([item])


def test_targets_are_relative_to_the_image_without_padding():
    model = make_model()
    batch = [make_input(50, 100, 1), make_input(96, 96, 0)]
    batch[0]["instances"].gt_boxes = Boxes(torch.tensor([[10.0, 5.0, 30.0, 45.0]]))
    targets = model._targets(batch, model.preprocess_image(batch))
    torch.testing.assert_close(targets.boxes, torch.tensor([[0.2, 0.5, 0.2, 0.8]]))
    assert targets.counts == (1, 0)


def test_the_head_has_the_parameters_of_the_released_one():
    with torch.device("meta"):
        parts = [
            InputProjection((512, 1024, 2048)),  # of a ResNet-50
            DeformableEncoder(),
            QuerySelection(80),
            DeformableDecoder(80),
            ContrastiveDenoising(80),
        ]
    count = sum(parameter.numel() for part in parts for parameter in part.parameters())
    # mmdetection's DINO-4scale has 24,194,380: it gives six layers and the encoder heads of their
    # own (five more than here) and its projections no bias.
    classes, boxes = 80 * 257, 2 * 256 * 257 + 4 * 257
    assert count == 24_194_380 - 5 * (classes + boxes) + 4 * 256
