"""From the class and mask logits of one image to Detectron2's output formats.

Reference: MaskFormer, Sec. 3.4, arXiv 2107.06278; Mask2Former, Sec. 4, arXiv 2112.01527.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor

Size = tuple[int, int]


@dataclass(frozen=True)
class MaskUpsampler:
    """Mask logits of one image at output size, made for a few queries at a time.

    All queries at once would need 4 Q H W bytes: 4.8 GB for 100 queries and a 12 megapixel image.

    Attributes:
        mask_logits: ``(Q, h, w)``, they cover the padded image.
        padded_size: ``(H, W)`` of the network's input.
        image_size: ``(H, W)`` of the image in it, at the top left.
        output_size: ``(H, W)`` wanted.
        max_elements: numbers that one chunk may hold; a chunk has at least one query.
    """

    mask_logits: Tensor
    padded_size: Size
    image_size: Size
    output_size: Size
    max_elements: int = 2**25

    def __call__(self, queries: Tensor | slice) -> Tensor:
        """Logits ``(n, H, W)`` float32 of n queries, given by their indices or a slice."""
        logits = self.mask_logits[queries][None].float()
        padded = F.interpolate(logits, self.padded_size, mode="bilinear")
        height, width = self.image_size
        cropped = padded[..., :height, :width]
        if self.image_size == self.output_size:
            return cropped[0]
        return F.interpolate(cropped, self.output_size, mode="bilinear")[0]

    def chunks(self, queries: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Walks through ``queries``: position among them, and their logits ``(n, H, W)``."""
        largest = max(
            height * width
            for height, width in (self.padded_size, self.image_size, self.output_size)
        )
        step = max(1, self.max_elements // largest)
        for start in range(0, len(queries), step):
            chunk = slice(start, min(start + step, len(queries)))
            yield chunk, self(queries[chunk])


def semantic_inference(class_logits: Tensor, masks: MaskUpsampler) -> Tensor:
    """Sums the masks, weighted by class probability.

    Args:
        class_logits: ``(Q, K + 1)``.
        masks: mask logits of the Q queries.

    Returns:
        ``(K, H, W)`` float32 in [0, Q]: scores, not a distribution.
    """
    weights = class_logits.float().softmax(-1)[:, :-1].T  # (K, Q)
    scores = weights.new_zeros(weights.shape[0], masks.output_size[0] * masks.output_size[1])
    every_query = torch.arange(len(class_logits), device=class_logits.device)
    for chunk, logits in masks.chunks(every_query):
        scores.addmm_(weights[:, chunk], logits.sigmoid().flatten(1))
    return scores.unflatten(1, masks.output_size)


def scores_at_input_size(
    class_logits: Tensor, mask_logits: Tensor, input_size: Size, is_product_first: bool
) -> Tensor:
    """Semantic scores of a padded image.

    Args:
        class_logits: ``(Q, K + 1)``.
        mask_logits: ``(Q, h, w)``.
        input_size: ``(H, W)`` of the network's input.
        is_product_first: upsample the products of classes and masks, as ViT-Adapter does, rather
            than the mask logits, as facebookresearch/Mask2Former does. Not numerically equal.

    Returns:
        ``(K, H, W)`` float32 in [0, Q].
    """
    size: Size = (mask_logits.shape[-2], mask_logits.shape[-1]) if is_product_first else input_size
    scores = semantic_inference(class_logits, MaskUpsampler(mask_logits, size, size, size))
    if size == input_size:
        return scores
    return F.interpolate(scores[None], input_size, mode="bilinear")[0]


def panoptic_inference(
    class_logits: Tensor,
    masks: MaskUpsampler,
    thing_ids: Collection[int],
    object_mask_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Gives every pixel to at most one query.

    Args:
        class_logits: ``(Q, K + 1)``.
        masks: mask logits of the Q queries.
        thing_ids: the classes of which each object is a segment of its own; all segments of
            another class become one.
        object_mask_threshold: queries need a higher class probability to take part.
        overlap_threshold: a query is dropped if it owns a smaller share of its own mask.

    Returns:
        ``(H, W)`` int32 of segment ids, 0 where there is none, and for each segment the dict
        ``id`` (from 1), ``isthing``, ``category_id`` and ``score`` (that of its first query).
    """
    scores, labels = class_logits.float().softmax(-1).max(-1)
    no_object = class_logits.shape[-1] - 1
    kept = ((labels != no_object) & (scores > object_mask_threshold)).nonzero().flatten()
    if not len(kept):
        return torch.zeros(masks.output_size, dtype=torch.int32, device=class_logits.device), []
    owners = _pixel_owners(masks, kept, scores[kept])
    segment_of_query = [0] * len(kept)
    segments: list[dict[str, Any]] = []
    stuff_segments: dict[int, int] = {}
    queries = zip(labels[kept].tolist(), scores[kept].tolist(), *owners.areas(), strict=True)
    for index, (label, score, area, owned, visible) in enumerate(queries):
        if not visible or owned / area < overlap_threshold:
            continue
        is_thing = label in thing_ids
        if not is_thing and label in stuff_segments:
            segment_of_query[index] = stuff_segments[label]
            continue
        segment_of_query[index] = segment = len(segments) + 1
        segments.append({"id": segment, "isthing": is_thing, "category_id": label, "score": score})
        if not is_thing:
            stuff_segments[label] = segment
    table = torch.tensor(segment_of_query, dtype=torch.int32, device=kept.device)
    return table[owners.query] * owners.inside, segments


@dataclass(frozen=True)
class _PixelOwners:
    """For every pixel its strongest query; sizes of n masks.

    Attributes:
        query: ``(H, W)`` int64, position among the n queries.
        inside: ``(H, W)`` bool, whether the pixel belongs to that query's own mask.
        mask_area: ``(n,)`` int64, pixels of each own mask, owned or not.
    """

    query: Tensor
    inside: Tensor
    mask_area: Tensor

    def areas(self) -> tuple[list[int], list[int], list[int]]:
        """Of each query: own mask, owned pixels, owned pixels of the own mask."""
        count = len(self.mask_area)
        owned = self.query.flatten().bincount(minlength=count)
        visible = self.query[self.inside].bincount(minlength=count)
        return self.mask_area.tolist(), owned.tolist(), visible.tolist()


def _pixel_owners(masks: MaskUpsampler, queries: Tensor, scores: Tensor) -> _PixelOwners:
    device = queries.device
    owner = torch.zeros(masks.output_size, dtype=torch.int64, device=device)
    inside = torch.zeros(masks.output_size, dtype=torch.bool, device=device)
    strongest = torch.full(masks.output_size, -1.0, device=device)
    areas = []
    for chunk, logits in masks.chunks(queries):
        probabilities = logits.sigmoid()
        areas.append((probabilities >= 0.5).sum((1, 2)))
        strength, index = (scores[chunk, None, None] * probabilities).max(0)
        wins = strength > strongest
        strongest = torch.maximum(strength, strongest)
        owner = torch.where(wins, index + chunk.start, owner)
        inside = torch.where(wins, probabilities.gather(0, index[None])[0] >= 0.5, inside)
    return _PixelOwners(owner, inside, torch.cat(areas))


def instance_inference(
    class_logits: Tensor,
    masks: MaskUpsampler,
    topk: int = 100,
    class_ids: Collection[int] | None = None,
) -> Instances:
    """The best pairs of query and class; a query may appear with several classes.

    Args:
        class_logits: ``(Q, K + 1)``.
        masks: mask logits of the Q queries.
        topk: pairs that are considered.
        class_ids: if given, pairs of other classes are dropped from these.

    Returns:
        Instances with ``pred_masks`` ``(n, H, W)`` bool, ``pred_boxes`` (tight around the masks,
        zeros if one is empty), ``scores`` (class probability times mean mask probability inside
        the mask, highest first) and ``pred_classes``.
    """
    num_classes = class_logits.shape[-1] - 1
    pairs = class_logits.float().softmax(-1)[:, :-1].flatten()
    scores, indices = pairs.topk(min(topk, len(pairs)))
    classes, queries = indices % num_classes, indices // num_classes
    if class_ids is not None:
        wanted = torch.isin(classes, torch.tensor(sorted(class_ids), device=classes.device))
        scores, classes, queries = scores[wanted], classes[wanted], queries[wanted]
    distinct, position = queries.unique(return_inverse=True)
    binary = torch.empty(
        len(distinct), *masks.output_size, dtype=torch.bool, device=class_logits.device
    )
    quality = torch.empty(len(distinct), device=class_logits.device)
    for chunk, logits in masks.chunks(distinct):
        inside = logits > 0
        binary[chunk] = inside
        quality[chunk] = (logits.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
    scores, order = (scores * quality[position]).sort(descending=True)
    position = position[order]
    instances = Instances(masks.output_size)
    instances.pred_masks = binary[position]
    instances.pred_boxes = Boxes(boxes_from_masks(binary)[position])
    instances.scores = scores
    instances.pred_classes = classes[order]
    return instances


def boxes_from_masks(masks: Tensor) -> Tensor:
    """Tight boxes, without a loop over the masks or a copy to the host.

    Args:
        masks: ``(N, H, W)`` bool.

    Returns:
        ``(N, 4)`` float32 as ``(x0, y0, x1, y1)``, the far sides one past the last pixel; zeros for
        empty masks.
    """
    sides = []
    for occupied in (masks.any(1), masks.any(2)):  # columns (N, W), rows (N, H)
        size = occupied.shape[1]
        index = torch.arange(size, device=masks.device)
        first = index.where(occupied, size).amin(1)
        last = (index + 1).where(occupied, 0).amax(1)
        sides.append(torch.stack((first.minimum(last), last), dim=1))
    return torch.stack(sides, dim=-1).flatten(1).float()
