"""The matcher against a loop, box after box and object after object."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from vitadapter_d2 import model_zoo
from vitadapter_d2.modeling.matcher import MaxIoUMatcher


def looped(overlaps, background, positive, claim):
    """mmdetection's rules: the object of every box, -1 for background, -2 for neither."""
    owners = []
    for box in overlaps.T.tolist():
        best = max(box)
        owners.append(-1 if best < background else -2)
        if best >= positive:
            owners[-1] = box.index(best)
    for index, row in enumerate(overlaps.tolist()):
        if claim is not None and max(row) >= claim:
            for box, overlap in enumerate(row):
                if overlap == max(row):
                    owners[box] = index
    return owners


def owners_of(matches, labels):
    names = {1: None, 0: -1, -1: -2}
    pairs = zip(matches.tolist(), labels.tolist(), strict=True)
    return [match if label == 1 else names[label] for match, label in pairs]


@pytest.mark.parametrize("claim", [None, 0.25, 0.875])
@pytest.mark.parametrize("seed", range(8))
def test_boxes_go_to_the_objects_of_a_loop(claim, seed):
    generator = torch.Generator().manual_seed(seed)
    # In steps of 1/8, so that there are ties of all kinds.
    overlaps = (torch.rand(6, 40, generator=generator) * 7).round() / 8
    overlaps[2] *= 0.25  # never claims
    found = MaxIoUMatcher([0.25, 0.75], [0, -1, 1], claim)(overlaps)
    assert owners_of(*found) == looped(overlaps, 0.25, 0.75, claim)


def test_an_object_gets_its_best_box_from_one_that_overlaps_it_more():
    overlaps = torch.tensor([[0.9, 0.8, 0.0], [0.1, 0.6, 0.6], [0.2, 0.0, 0.29]])
    matches, labels = MaxIoUMatcher([0.5], [0, 1], 0.3)(overlaps)
    assert matches.tolist() == [0, 1, 1] and labels.tolist() == [1, 1, 1]
    matches, labels = MaxIoUMatcher([0.5], [0, 1])(overlaps)
    assert matches.tolist() == [0, 0, 1]


def test_objects_among_the_boxes_are_their_own_and_claim_nothing_for_it():
    proposals = torch.tensor([[0.9, 0.8], [0.1, 0.6], [0.2, 0.1]])
    objects = torch.eye(3)
    objects[0, 2] = objects[2, 0] = 1.0  # two on the same place
    matcher = MaxIoUMatcher([0.5], [0, 1], 0.5, objects_are_last=True)
    matches, labels = matcher(torch.cat((proposals, objects), dim=1))
    assert matches.tolist() == [0, 1, 0, 1, 2] and labels.tolist() == [1] * 5
    assert [part.tolist() for part in matcher(torch.zeros(0, 2))] == [[0, 0], [0, 0]]
    assert [part.tolist() for part in matcher(torch.eye(1))] == [[0], [1]]


def test_fewer_boxes_than_objects_are_refused():
    matcher = MaxIoUMatcher([0.5], [0, 1], objects_are_last=True)
    with pytest.raises(ValueError, match="got 1 boxes for 2 objects"):
        matcher(torch.zeros(2, 1))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_nothing_to_match_is_background(shape):
    matches, labels = MaxIoUMatcher([0.3, 0.7], [0, -1, 1], 0.3)(torch.zeros(shape))
    assert matches.tolist() == labels.tolist() == [0] * shape[1]
    assert (matches.dtype, labels.dtype) == (torch.int64, torch.int8)


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("mask_rcnn_deit_adapter_small_fpn_3x_coco", [0.5]),
        ("cascade_mask_rcnn_deit_adapter_small_fpn_3x_coco", [None] * 3),
        ("htcpp_beit_adapter_large_fpn_3x_coco", [0.5, 0.6, 0.7]),
    ],
)
def test_published_roi_heads_assign_by_the_published_rule(name, claims):
    heads = model_zoo.get_config(f"coco/{name}").model.roi_heads
    matchers = [
        instantiate(matcher)
        for matcher in heads.get("proposal_matchers") or [heads.proposal_matcher]
    ]
    assert [matcher.min_low_quality_iou for matcher in matchers] == claims
    assert [matcher.thresholds[1] for matcher in matchers] == [0.5, 0.6, 0.7][: len(claims)]
    assert all(matcher.objects_are_last for matcher in matchers)


def test_the_best_proposal_is_sampled_for_its_object_beside_the_ground_truth():
    cfg = model_zoo.get_config("shapes/mask_rcnn_vit_adapter_shapes").model.roi_heads
    heads = instantiate(cfg)
    heads.positive_fraction = 1.0
    # It overlaps the second object by 100 / 120 and the first, whose best it is, by 100 / 160.
    objects = torch.tensor([[0.0, 0, 16, 10], [-2, 0, 10, 10]])
    target = Instances((20, 20), gt_boxes=Boxes(objects), gt_classes=torch.tensor([3, 4]))
    proposals = Instances((20, 20), proposal_boxes=Boxes(torch.tensor([[0.0, 0, 10, 10]])))
    proposals.objectness_logits = torch.zeros(1)
    proposals = Instances.cat([proposals, proposals])
    proposals.proposal_boxes.tensor[1] = objects[1] + 0.1  # the best of the second
    with EventStorage():
        (sampled,) = heads.label_and_sample_proposals([proposals], [target])
    found = {
        tuple(box): number
        for box, number in zip(
            sampled.proposal_boxes.tensor.tolist(), sampled.gt_classes.tolist(), strict=True
        )
    }
    assert found[(0.0, 0.0, 10.0, 10.0)] == 3
    assert found[tuple(objects[1].tolist())] == 4
