"""HTC++ at test against mmdetection's steps one after the other, without Detectron2's classes.

Proposals, three stages of boxes, masks and their merging over views, for one image at a time; of
the model only the layers are used. Numbers are equal but for the order of sums.
"""

import math

import cv2
import htc_models
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import nms, roi_align

from vitadapter_d2.inference.detection import BoxView, DetectionTester
from vitadapter_d2.layers.suppression import SoftNMS

STRIDES = (4, 8, 16, 32)
ANCHORS = ((4, 8), (8, 16), (16, 32), (32, 48), (64, 64))  # stride and side of each level
BEFORE_NMS, PROPOSALS, WHOLE_BOXES, VIEW_BOXES = 60, 40, 30, 60
# Limits of the sides, and of the areas in the original image that count from there.
VIEWS = [
    ((500, 80), "l", lambda area: area > 96**2),
    ((500, 120), "ml", lambda area: area > 32**2),
    ((500, 200), "sm", lambda area: area <= 96**2),
]


@pytest.fixture(scope="module")
def model():
    """With weights that make it see many things of different classes."""
    torch.manual_seed(0)
    model = htc_models.make_model(test_topk_per_image=WHOLE_BOXES).eval()
    spreads = {"cls_score": 0.35, "objectness": 0.35, "bbox_pred": 0.15, "anchor_deltas": 0.15}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        for part, spread in (spreads | {"predictor.weight": 0.6}).items():
            if part in name and name.endswith("weight"):
                parameter.normal_(0, spread)
    model.proposal_generator.pre_nms_topk[False] = BEFORE_NMS
    model.proposal_generator.post_nms_topk[False] = PROPOSALS
    return model


@pytest.fixture(scope="module")
def picture():
    noise = np.random.default_rng(1).integers(0, 256, (123, 171, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3).astype(float)
    return ((smooth - 127) * 4 + 127).clip(0, 255).astype(np.uint8)


def resized(picture, long, short):
    """The picture within both limits, and how much larger its boxes are then."""
    height, width = picture.shape[:2]
    factor = min(long / max(height, width), short / min(height, width))
    size = int(width * factor + 0.5), int(height * factor + 0.5)
    scales = torch.tensor([size[0] / width, size[1] / height] * 2)
    return cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR), scales


def decoded(boxes, deltas, deviations, size):
    shift_x, shift_y, grow_x, grow_y = (deltas * torch.tensor(deviations)).unbind(1)
    limit = abs(math.log(16 / 1000))
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x = (boxes[:, 0] + boxes[:, 2]) / 2 + width * shift_x
    y = (boxes[:, 1] + boxes[:, 3]) / 2 + height * shift_y
    width = width * grow_x.clamp(-limit, limit).exp() / 2
    height = height * grow_y.clamp(-limit, limit).exp() / 2
    x0, x1 = (x - width).clamp(0, size[1]), (x + width).clamp(0, size[1])
    y0, y1 = (y - height).clamp(0, size[0]), (y + height).clamp(0, size[0])
    return torch.stack((x0, y0, x1, y1), 1)


def apart(boxes, groups):
    """Moved so that boxes of different groups never overlap."""
    return boxes + (groups.float() * (boxes.max() + 1))[:, None]


def soft_nms(boxes, scores, classes, count):
    """Places and new scores: the best is taken, those that overlap it by 0.5 or more lose."""
    boxes, scores = apart(boxes, classes).double().numpy(), scores.double().tolist()
    left, taken = list(range(len(scores))), []
    while left:
        best = max(left, key=lambda place: scores[place])
        taken.append((best, scores[best]))
        left.remove(best)
        x0, y0 = np.maximum(boxes[best, :2], boxes[left, :2]).T
        x1, y1 = np.minimum(boxes[best, 2:], boxes[left, 2:]).T
        shared = (x1 - x0).clip(0) * (y1 - y0).clip(0)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        overlaps = shared / (areas[best] + areas[left] - shared).clip(1e-12)
        for place, overlap in zip(left, overlaps, strict=True):
            scores[place] *= 1 - overlap if overlap >= 0.5 else 1
        left = [place for place in left if scores[place] >= 0.001]
    places, best_scores = zip(*taken[:count], strict=True)
    return torch.tensor(places), torch.tensor(best_scores)


class Seen:
    """One resized picture, as the network sees it."""

    def __init__(self, model, picture):
        self.model, self.heads, self.size = model, model.roi_heads, picture.shape[:2]
        image = (torch.from_numpy(picture.copy()).permute(2, 0, 1).float() - 120) / 60
        image = F.pad(image, (0, -self.size[1] % 32, 0, -self.size[0] % 32))
        self.levels = list(model.backbone(image[None]).values())  # p2 to p6
        head = self.heads.semantic_head
        size = self.levels[1].shape[-2:]
        fused = sum(
            conv(F.interpolate(level, size, mode="bilinear", align_corners=True))
            for conv, level in zip(head.lateral_convs, self.levels, strict=True)
        )
        self.context = head.conv_embedding(head.convs(fused))

    def proposals(self):
        boxes, scores, places = [], [], []
        for index, (level, (stride, side)) in enumerate(zip(self.levels, ANCHORS, strict=True)):
            (logits,), (deltas,) = self.model.proposal_generator.rpn_head([level])
            best, order = logits.flatten().sigmoid().sort(descending=True)
            best, order = best[:BEFORE_NMS], order[:BEFORE_NMS]
            y, x = (order // level.shape[3]) * stride, (order % level.shape[3]) * stride
            anchors = torch.stack((x - side / 2, y - side / 2, x + side / 2, y + side / 2), 1)
            boxes.append(decoded(anchors, deltas[0].flatten(1).T[order], (1, 1, 1, 1), self.size))
            scores.append(best)
            places.append(torch.full_like(order, index))
        boxes, scores, places = torch.cat(boxes), torch.cat(scores), torch.cat(places)
        is_left = (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, scores, places = boxes[is_left], scores[is_left], places[is_left]
        return boxes[nms(apart(boxes, places), scores, 0.7)[:PROPOSALS]]

    def regions(self, boxes, side):
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        numbers = (areas.sqrt() / 56 + 1e-6).log2().floor().clamp(0, 3).long()
        rois = torch.cat((torch.zeros(len(boxes), 1), boxes), 1)
        context = roi_align(self.context, rois, (14, 14), 1 / 8, 0, True)
        found = F.adaptive_avg_pool2d(context, (side, side))
        for number, stride in enumerate(STRIDES):
            here = numbers == number
            found[here] += roi_align(
                self.levels[number], rois[here], (side, side), 1 / stride, 0, True
            )
        return found

    def boxes(self):
        """Boxes of the last stage, probabilities of all."""
        boxes, logits = self.proposals(), []
        for stage, deviations in enumerate(htc_models.STDS):
            hidden = self.heads.box_head[stage](self.regions(boxes, 7))
            scores, deltas = self.heads.box_predictor[stage](hidden)
            logits.append(scores)
            boxes = decoded(boxes, deltas, deviations, self.size)
        return boxes, (sum(logits) / 3).softmax(-1)

    def masks(self, boxes, classes):
        """``(R, 1, 28, 28)`` of each stage, whose head builds on those before."""
        region, passed, masks = self.regions(boxes, 14), None, []
        for head in self.heads.mask_head:
            hidden = region if passed is None else region + head.conv_res(passed)
            for conv in head.conv_norm_relus:
                hidden = conv(hidden)
            passed = hidden
            logits = head.predictor(head.deconv(hidden).relu())
            masks.append(logits.sigmoid()[torch.arange(len(classes)), classes][:, None])
        return masks


def detections(boxes, scores, count):
    rows, classes = (scores[:, :-1] > 0.001).nonzero(as_tuple=True)
    kept, best = soft_nms(boxes[rows], scores[rows, classes], classes, count)
    return boxes[rows][kept], best, classes[kept]


def pasted(masks, boxes, size):
    images = []
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        y = ((torch.arange(size[0]) + 0.5 - y0) / (y1 - y0) * 2 - 1)[:, None].expand(size)
        x = ((torch.arange(size[1]) + 0.5 - x0) / (x1 - x0) * 2 - 1).expand(size)
        grid = torch.stack((x, y), -1)[None]
        images.append(F.grid_sample(mask[None], grid, align_corners=False)[0, 0] >= 0.5)
    return torch.stack(images)


def mirrored(boxes, width):
    return torch.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), 1)


def run(tester, picture):
    (result,) = tester([{"image": torch.from_numpy(picture).permute(2, 0, 1).contiguous()}])
    return result["instances"]


def assert_same(found, boxes, scores, classes, masks, count):
    assert len(found) == count and len(found.pred_classes.unique()) == htc_models.K
    assert found.pred_classes.tolist() == classes.tolist()
    torch.testing.assert_close(found.scores, scores.float())
    torch.testing.assert_close(found.pred_boxes.tensor, boxes, atol=1e-3, rtol=0)
    assert found.pred_masks.any() and not found.pred_masks.all()
    assert (found.pred_masks != masks).float().mean() < 1e-5  # at 0.5 but for rounding


def test_one_size_gives_what_the_steps_of_mmdetection_give(model, picture):
    small, scales = resized(picture, 300, 200)
    seen = Seen(model, small)
    boxes, scores = seen.boxes()
    boxes, scores, classes = detections(boxes / scales, scores, WHOLE_BOXES)
    masks = pasted(sum(seen.masks(boxes * scales, classes)) / 3, boxes, picture.shape[:2])
    found = run(DetectionTester(model, "whole", scale=(300, 200)), picture)
    assert_same(found, boxes, scores, classes, masks, WHOLE_BOXES)


def test_all_sizes_give_what_the_steps_of_the_published_augmentation_give(model, picture):
    views, boxes, scores = [], [], []
    for limits, _, is_taken in VIEWS:
        small, scales = resized(picture, *limits)
        for is_flipped in (False, True):
            seen = Seen(model, small[:, ::-1] if is_flipped else small)
            own, own_scores = seen.boxes()
            own = (mirrored(own, seen.size[1]) if is_flipped else own) / scales
            taken = is_taken((own[:, 2] - own[:, 0]) * (own[:, 3] - own[:, 1]))
            boxes.append(own[taken])
            scores.append(own_scores[taken])
            views.append((seen, scales, is_flipped))
    boxes, scores, classes = detections(torch.cat(boxes), torch.cat(scores), VIEW_BOXES)
    masks = []
    for seen, scales, is_flipped in views:
        there = mirrored(boxes * scales, seen.size[1]) if is_flipped else boxes * scales
        masks += [mask.flip(-1) if is_flipped else mask for mask in seen.masks(there, classes)]
    masks = pasted(sum(masks) / len(masks), boxes, picture.shape[:2])
    tester = DetectionTester(
        model,
        "ms",
        ms_views=[BoxView(limits, areas) for limits, areas, _ in VIEWS],
        ms_merge=SoftNMS(0.5, 0.001),
        ms_max_boxes=VIEW_BOXES,
    )
    assert_same(run(tester, picture), boxes, scores, classes, masks, VIEW_BOXES)
