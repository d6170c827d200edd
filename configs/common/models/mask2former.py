"""Mask2Former on a ViT-Adapter, with the losses of the paper."""

from detectron2.config import LazyCall as L

from vitadapter_d2.data import get_metadata
from vitadapter_d2.modeling.mask2former import (
    HungarianMatcher,
    Mask2Former,
    MaskedTransformerDecoder,
    MaskFormerHead,
    MSDeformAttnPixelDecoder,
    SetCriterion,
)

from ..normalization import IMAGENET_MEAN, IMAGENET_STD


def mask2former(backbone, num_classes, dataset_name, num_queries=100):
    """All three outputs on; ``dataset_name`` tells things from stuff."""
    return L(Mask2Former)(
        backbone=backbone,
        sem_seg_head=L(MaskFormerHead)(
            pixel_decoder=L(MSDeformAttnPixelDecoder)(
                in_channels=backbone.spatial_prior.embed_dim,
                embed_dim=256,
                mask_dim=256,
                num_heads=8,
                num_layers=6,
                feedforward_dim=1024,
            ),
            predictor=L(MaskedTransformerDecoder)(
                num_classes="${...criterion.num_classes}",
                num_queries=num_queries,
                in_channels="${..pixel_decoder.embed_dim}",
                embed_dim="${..pixel_decoder.embed_dim}",
                mask_dim="${..pixel_decoder.mask_dim}",
                num_heads="${..pixel_decoder.num_heads}",
                feedforward_dim=2048,
                num_layers=9,
            ),
        ),
        criterion=L(SetCriterion)(
            num_classes=num_classes,
            matcher=L(HungarianMatcher)(
                class_weight="${..class_weight}",
                mask_weight="${..mask_weight}",
                dice_weight="${..dice_weight}",
                num_points="${..num_points}",
            ),
            class_weight=2.0,
            mask_weight=5.0,
            dice_weight=5.0,
            no_object_weight=0.1,
            num_points=12544,
        ),
        metadata=L(get_metadata)(name=dataset_name),
        semantic_on=True,
        panoptic_on=True,
        instance_on=True,
        object_mask_threshold=0.8,
        overlap_threshold=0.8,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
    )


def instance_mask2former(backbone, num_classes, num_queries=100):
    """Objects alone."""
    model = mask2former(backbone, num_classes, None, num_queries)
    model.metadata = None
    model.semantic_on = model.panoptic_on = False
    model.test_topk_per_image = 100
    return model


def semantic_mask2former(backbone, num_classes, width=256, num_heads=8, ffn=1024, num_queries=100):
    """As ViT-Adapter's semantic models have it; the large ones are 1024 wide, with 32 heads.

    ``ffn`` is the inner width of the pixel decoder's feed-forward.
    """
    model = mask2former(backbone, num_classes, None, num_queries)
    pixel_decoder, predictor = model.sem_seg_head.pixel_decoder, model.sem_seg_head.predictor
    pixel_decoder.embed_dim = pixel_decoder.mask_dim = width
    pixel_decoder.num_heads = num_heads
    pixel_decoder.feedforward_dim = ffn
    predictor.feedforward_dim = max(2048, 4 * width)
    model.metadata = None
    model.panoptic_on = model.instance_on = False
    model.sem_seg_product_before_upsampling = True
    return model


def large_semantic_mask2former(backbone, num_classes, num_queries=100):
    return semantic_mask2former(backbone, num_classes, 1024, 32, 4096, num_queries)
