"""How models are tested: `test.mode` is whole, slide or ms.

Of the published semantic segmentation models as published; of detectors "whole" is.
"""

from detectron2.config import LazyCall as L

from vitadapter_d2.inference.detection import BoxView, DetectionTester
from vitadapter_d2.inference.resize_rules import ClampedToCrop, KeepRatio, PaddedShortSide
from vitadapter_d2.inference.semantic import PUBLISHED_RATIOS, SemanticTester
from vitadapter_d2.inference.sliding_window import SlidingWindow
from vitadapter_d2.layers.suppression import NMS


def semantic_test(scale, crop, stride=None, divisor=32, clamp_ms=False, **options):
    """Windows of ``crop`` pixels, a third of which overlaps; ``scale`` limits the image's sides.

    ``clamp_ms`` is for the models with an official configuration of their own for several scales;
    the others are resized by the same rule at every scale.
    """
    return L(SemanticTester)(
        **{
            "mode": "slide",
            "window": L(SlidingWindow)(crop_size=crop, stride=stride or crop * 2 // 3),
            "resize": L(KeepRatio)(scale=scale, divisor=divisor),
            "ms_resize": L(ClampedToCrop)(scale=scale, crop_size=crop) if clamp_ms else None,
            "ms_ratios": PUBLISHED_RATIOS,
            **options,
        }
    )


def large_crop_test(scale, ms_ratios, is_padded_raw=True, **options):
    """Crops of 896 pixels: windows overlap more, small images are padded when scales are mixed."""
    return semantic_test(
        scale,
        crop=896,
        stride=512,
        ms_resize=L(PaddedShortSide)(
            resize=L(KeepRatio)(scale=scale, divisor=32), size=896, is_padded_raw=is_padded_raw
        ),
        ms_ratios=ms_ratios,
        **options,
    )


def detection_test(ms_short_sides=(400, 600, 800, 1000, 1200), proportion=1333 / 800):
    """As the mapper resizes the image, which is published, or for `test.mode=ms` at many sizes.

    ``proportion`` limits the long sides.
    """
    return L(DetectionTester)(
        mode="whole",
        scale=None,
        ms_views=[L(BoxView)(scale=(int(side * proportion), side)) for side in ms_short_sides],
        ms_flip=True,
        ms_merge=L(NMS)(iou_threshold=0.5),
        ms_max_boxes=100,
    )
