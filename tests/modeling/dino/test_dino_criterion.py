import pytest
import torch
from dino_parts import C, K, make_boxes, make_criterion, make_targets
from test_dino_matcher import giou

from vitadapter_d2.modeling.dino import ContrastiveDenoising, HungarianMatcher, SetCriterion
from vitadapter_d2.modeling.dino.structures import BoxPrediction

LAYERS = 2


def predict(num_outputs, batch, num_queries):
    boxes = make_boxes(num_outputs, batch, num_queries).requires_grad_()
    return BoxPrediction(torch.randn(*boxes.shape[:3], K, requires_grad=True), boxes)


def make_case(*counts, num_queries=6):
    targets = make_targets(*counts)
    noise = ContrastiveDenoising(K, C, num_queries=4)(targets)
    batch, num_noisy = len(counts), noise.content.shape[1]
    return (
        predict(1, batch, num_queries),
        predict(LAYERS, batch, num_queries),
        predict(LAYERS, batch, num_noisy),
        noise,
        targets,
    )


def focal(logit, is_target, alpha=0.25):
    probability = logit.sigmoid()
    if is_target:
        return -alpha * (1 - probability) ** 2 * probability.log()
    return -(1 - alpha) * probability**2 * (1 - probability).log()


def losses_of(logits, boxes, pairs, targets, skipped=frozenset()):
    """Sums for one output; ``pairs`` maps ``(image, query)`` to a target."""
    class_loss = l1 = overlap = torch.zeros(())
    for image in range(logits.shape[0]):
        for query in range(logits.shape[1]):
            if (image, query) in skipped:
                continue
            target = pairs.get((image, query))
            for label in range(K):
                is_target = target is not None and targets.labels[target] == label
                class_loss = class_loss + focal(logits[image, query, label], is_target)
            if target is not None:
                box, wanted = boxes[image, query], targets.boxes[target]
                l1 = l1 + (box - wanted).abs().sum()
                overlap = overlap + 1 - giou(box, wanted)
    return class_loss, 5 * l1, 2 * overlap


def check(losses, suffix, expected, count):
    for kind, value in zip(("loss_ce", "loss_bbox", "loss_giou"), expected, strict=True):
        torch.testing.assert_close(losses[kind + suffix], value / count, rtol=1e-4, atol=1e-4)


def test_matched_losses_are_sums_over_queries_and_pairs():
    encoder, decoder, denoised, noise, targets = case = make_case(2, 0, 3)
    losses = make_criterion()(*case)
    outputs = [
        (decoder.logits[0], decoder.boxes[0], "_0"),
        (decoder.logits[1], decoder.boxes[1], ""),
        (encoder.logits[0], encoder.boxes[0], "_enc"),
    ]
    for logits, boxes, suffix in outputs:
        single = BoxPrediction(logits[None], boxes[None])
        queries = HungarianMatcher()(single, targets).query_index[0].tolist()
        images = targets.image_index.tolist()
        pairs = {place: n for n, place in enumerate(zip(images, queries, strict=True))}
        check(losses, suffix, losses_of(logits, boxes, pairs, targets), 5)


def test_denoising_losses_want_positives_found_and_negatives_refused():
    _, _, denoised, noise, targets = case = make_case(2, 1)
    losses = make_criterion()(*case)
    pairs, skipped = {}, set()
    images = zip(targets.image_index.tolist(), targets.slot.tolist(), strict=True)
    for target, (image, slot) in enumerate(images):
        for group in range(2):
            pairs[image, group * 4 + slot] = target
    for group in range(2):
        skipped |= {(1, group * 4 + 1), (1, group * 4 + 3)}  # the second image has one box
    for layer, suffix in enumerate(("_dn_0", "_dn")):
        expected = losses_of(denoised.logits[layer], denoised.boxes[layer], pairs, targets, skipped)
        check(losses, suffix, expected, 3 * 2)


def test_names_say_layer_and_kind():
    losses = make_criterion()(*make_case(1))
    ends = ("", "_0", "_enc", "_dn", "_dn_0")
    assert set(losses) == {
        kind + end for kind in ("loss_ce", "loss_bbox", "loss_giou") for end in ends
    }


def test_without_targets_only_classes_cost_and_all_have_a_graph():
    encoder, decoder, denoised, *rest = make_case(0, 0)
    losses = make_criterion()(encoder, decoder, denoised, *rest)
    for name, loss in losses.items():
        assert (loss > 0) == (name in ("loss_ce", "loss_ce_0", "loss_ce_enc")), name
        assert loss.requires_grad
    sum(losses.values()).backward()
    for prediction in (encoder, decoder, denoised):
        assert prediction.logits.grad is not None and prediction.boxes.grad is not None
        assert not prediction.boxes.grad.any()


def test_more_targets_than_queries_are_left_over():
    encoder, decoder, denoised, noise, targets = case = make_case(5, num_queries=3)
    losses = make_criterion()(*case)
    single = BoxPrediction(decoder.logits[1:], decoder.boxes[1:])
    assignment = HungarianMatcher()(single, targets)
    assert assignment.matched.sum() == 3
    queries = assignment.query_index[0].tolist()
    pairs = {(0, queries[n]): n for n in range(5) if assignment.matched[0, n]}
    check(losses, "", losses_of(decoder.logits[1], decoder.boxes[1], pairs, targets), 5)


def test_weights_scale_their_loss():
    case = make_case(2)
    plain = make_criterion()(*case)
    criterion = SetCriterion(
        num_classes=K, matcher=HungarianMatcher(), class_weight=3.0, l1_weight=0.5, giou_weight=1.0
    )
    factors = {"loss_ce": 3.0, "loss_bbox": 0.1, "loss_giou": 0.5}
    for name, loss in criterion(*case).items():
        factor = next(value for kind, value in factors.items() if name.startswith(kind))
        torch.testing.assert_close(loss, factor * plain[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_logits_are_float32(dtype):
    encoder, decoder, denoised, *rest = make_case(2, 1)
    halves = [
        BoxPrediction(prediction.logits.to(dtype), prediction.boxes)
        for prediction in (encoder, decoder, denoised)
    ]
    with torch.autocast("cpu", dtype):
        losses = make_criterion()(*halves, *rest)
    widened = [BoxPrediction(half.logits.float(), half.boxes) for half in halves]
    for name, expected in make_criterion()(*widened, *rest).items():
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], expected)
