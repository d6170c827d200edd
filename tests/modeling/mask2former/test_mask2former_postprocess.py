import pytest
import torch
import torch.nn.functional as F

from vitadapter_d2.modeling.mask2former.postprocess import (
    MaskUpsampler,
    boxes_from_masks,
    instance_inference,
    panoptic_inference,
    scores_at_input_size,
    semantic_inference,
)

Q, K = 9, 5
THINGS = frozenset({0, 1, 2})


def make_case(seed=0, confident=True, **kwargs):
    """Blobs at stride 4 in a 37 x 51 image, padded to 64 x 64, wanted at 45 x 60."""
    torch.manual_seed(seed)
    logits = F.interpolate(4 * torch.randn(1, Q, 4, 4), (16, 16), mode="bicubic")[0]
    classes = torch.randn(Q, K + 1)
    if confident:
        classes[torch.arange(Q), torch.randint(0, K + 1, (Q,))] += 6
    sizes = {"padded_size": (64, 64), "image_size": (37, 51), "output_size": (45, 60)}
    return classes, MaskUpsampler(logits, **(sizes | kwargs))


def full_resolution(masks):
    """All masks at once, step by step."""
    padded = F.interpolate(
        masks.mask_logits[None], size=masks.padded_size, mode="bilinear", align_corners=False
    )
    cropped = padded[:, :, : masks.image_size[0], : masks.image_size[1]]
    return F.interpolate(cropped, size=masks.output_size, mode="bilinear", align_corners=False)[0]


def naive_panoptic(classes, logits, object_threshold, overlap_threshold):
    scores, labels = classes.softmax(-1).max(-1)
    kept = [q for q in range(Q) if labels[q] != K and scores[q] > object_threshold]
    result, segments, stuff = torch.zeros(logits.shape[1:], dtype=torch.int32), [], {}
    if not kept:
        return result, segments
    probabilities = logits[kept].sigmoid()
    owner = (scores[kept, None, None] * probabilities).argmax(0)
    for index, query in enumerate(kept):
        own = probabilities[index] >= 0.5
        owned = owner == index
        final = own & owned
        if not (own.any() and owned.any() and final.any()):
            continue
        if owned.sum() / own.sum() < overlap_threshold:
            continue
        label = labels[query].item()
        if label in stuff:
            result[final] = stuff[label]
            continue
        result[final] = len(segments) + 1
        segments.append((len(segments) + 1, label in THINGS, label))
        if label not in THINGS:
            stuff[label] = len(segments)
    return result, segments


@pytest.mark.parametrize("output_size", [(45, 60), (37, 51), (1, 1), (20, 91)])
def test_upsampled_masks_equal_those_made_step_by_step(output_size):
    _, masks = make_case(output_size=output_size)
    expected = full_resolution(masks)
    torch.testing.assert_close(masks(slice(None)), expected)
    torch.testing.assert_close(masks(torch.tensor([3, 1])), expected[[3, 1]])


@pytest.mark.parametrize("max_elements", [1, 3 * 64 * 64, 2**25])
def test_chunks_cover_the_queries_once_and_stay_small(max_elements):
    _, masks = make_case(max_elements=max_elements)
    queries = torch.tensor([8, 2, 5, 0, 1])
    chunks = list(masks.chunks(queries))
    assert [index for chunk, _ in chunks for index in range(5)[chunk]] == list(range(5))
    assert all(len(logits) <= max(1, max_elements // (64 * 64)) for _, logits in chunks)
    torch.testing.assert_close(
        torch.cat([logits for _, logits in chunks]), full_resolution(masks)[queries]
    )


@pytest.mark.parametrize("max_elements", [1, 2 * 64 * 64, 2**25])
def test_semantic_scores_are_classes_times_masks(max_elements):
    classes, masks = make_case(confident=False, max_elements=max_elements)
    expected = torch.einsum(
        "qk,qhw->khw", classes.softmax(-1)[:, :-1], full_resolution(masks).sigmoid()
    )
    torch.testing.assert_close(semantic_inference(classes, masks), expected)


def test_order_of_product_and_upsampling():
    classes, masks = make_case(confident=False)
    weights = classes.softmax(-1)[:, :-1]
    small = torch.einsum("qk,qhw->khw", weights, masks.mask_logits.sigmoid())
    expected = {True: F.interpolate(small[None], (64, 64), mode="bilinear")[0]}
    large = F.interpolate(masks.mask_logits[None], (64, 64), mode="bilinear")[0]
    expected[False] = torch.einsum("qk,qhw->khw", weights, large.sigmoid())
    for is_product_first in (True, False):
        scores = scores_at_input_size(classes, masks.mask_logits, (64, 64), is_product_first)
        torch.testing.assert_close(scores, expected[is_product_first])
    assert (expected[True] - expected[False]).abs().max() > 0.01


@pytest.mark.weights
def test_official_product_at_a_quarter_of_the_size(reference_case):
    case = reference_case("m2f_mmseg")
    parts = dict(zip(case.out_names, case.outputs, strict=True))
    for classes, masks, expected in zip(parts["cls"], parts["mask"], parts["semseg"], strict=True):
        scores = scores_at_input_size(classes, masks, (96, 128), is_product_first=True)
        upsampled = F.interpolate(expected[None], (96, 128), mode="bilinear")[0]
        torch.testing.assert_close(scores, upsampled, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("max_elements", [1, 2 * 64 * 64, 2**25])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("thresholds", [(0.8, 0.8), (0.0, 0.3)])
def test_panoptic_equals_one_query_at_a_time(seed, thresholds, max_elements):
    classes, masks = make_case(seed, max_elements=max_elements)
    result, segments = panoptic_inference(classes, masks, THINGS, *thresholds)
    expected, expected_segments = naive_panoptic(classes, full_resolution(masks), *thresholds)
    assert result.dtype == torch.int32
    assert torch.equal(result, expected)
    found = [(each["id"], each["isthing"], each["category_id"]) for each in segments]
    assert found == expected_segments
    assert set(result.unique().tolist()) - {0} == {each["id"] for each in segments}
    for each in segments:
        assert [type(each[name]) for name in ("id", "isthing", "category_id")] == [int, bool, int]


def make_halves(labels):
    """Two confident queries, left and right half."""
    classes = torch.full((2, K + 1), -9.0)
    classes[0, labels[0]] = classes[1, labels[1]] = 9.0
    logits = torch.full((2, 8, 8), -9.0)
    logits[0, :, :4] = logits[1, :, 4:] = 9.0
    return classes, MaskUpsampler(logits, (8, 8), (8, 8), (8, 8))


@pytest.mark.parametrize(("label", "segments"), [(4, 1), (1, 2)])
def test_stuff_is_merged_and_things_are_not(label, segments):
    classes, masks = make_halves((label, label))
    result, info = panoptic_inference(classes, masks, THINGS)
    assert len(info) == segments
    assert (result[:, :4] == 1).all() and (result[:, 4:] == segments).all()


def test_hidden_query_is_dropped():
    classes, masks = make_halves((0, 1))
    masks.mask_logits[1] = masks.mask_logits[0] - 1  # the same place, less sure
    result, info = panoptic_inference(classes, masks, THINGS)
    assert [each["category_id"] for each in info] == [0]
    assert (result[:, 4:] == 0).all()


def test_no_confident_query_gives_an_empty_result():
    classes, masks = make_case(confident=False)
    result, segments = panoptic_inference(classes, masks, THINGS, object_mask_threshold=0.99)
    assert segments == []
    assert result.shape == (45, 60) and (result == 0).all()


@pytest.mark.parametrize("max_elements", [1, 2**25])
@pytest.mark.parametrize("class_ids", [None, THINGS])
def test_instances_equal_a_naive_list_of_pairs(class_ids, max_elements):
    classes, masks = make_case(confident=False, max_elements=max_elements)
    instances = instance_inference(classes, masks, topk=20, class_ids=class_ids)
    logits, scores = full_resolution(masks), classes.softmax(-1)[:, :-1]
    pairs = sorted(((scores[q, k].item(), q, k) for q in range(Q) for k in range(K)), reverse=True)
    expected = []
    for score, query, label in pairs[:20]:
        if class_ids is None or label in class_ids:
            inside = logits[query] > 0
            quality = logits[query].sigmoid()[inside].sum() / (inside.sum() + 1e-6)
            expected.append((score * quality.item(), label, inside))
    expected.sort(key=lambda each: -each[0])
    assert len(instances) == len(expected)
    torch.testing.assert_close(instances.scores, torch.tensor([each[0] for each in expected]))
    assert instances.pred_classes.tolist() == [each[1] for each in expected]
    assert torch.equal(instances.pred_masks, torch.stack([each[2] for each in expected]))
    assert instances.pred_masks.dtype == torch.bool
    assert instances.image_size == (45, 60)
    torch.testing.assert_close(instances.pred_boxes.tensor, boxes_from_masks(instances.pred_masks))


def test_topk_may_exceed_the_pairs_and_classes_may_leave_none():
    classes, masks = make_case()
    assert len(instance_inference(classes, masks, topk=1000)) == Q * K
    empty = instance_inference(classes, masks, class_ids=frozenset())
    assert len(empty) == 0
    assert empty.pred_masks.shape == (0, 45, 60) and empty.pred_boxes.tensor.shape == (0, 4)


def test_boxes_are_tight_and_zero_for_empty_masks():
    masks = torch.rand(20, 11, 14) > 0.96
    masks[3] = False
    masks[4] = True
    for mask, box in zip(masks, boxes_from_masks(masks).tolist(), strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        if len(rows):
            far = (columns.max() + 1, rows.max() + 1)
            assert box == [columns.min(), rows.min(), *far]
        else:
            assert box == [0, 0, 0, 0]
    assert boxes_from_masks(masks[:0]).shape == (0, 4)


def test_bf16_logits_are_processed_in_float32():
    classes, masks = make_case()
    halves = MaskUpsampler(masks.mask_logits.bfloat16(), (64, 64), (37, 51), (45, 60))
    scores = semantic_inference(classes.bfloat16(), halves)
    assert scores.dtype == torch.float32
    instances = instance_inference(classes.bfloat16(), halves)
    assert instances.scores.dtype == torch.float32
