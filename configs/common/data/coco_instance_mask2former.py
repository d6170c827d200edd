"""COCO's objects with large-scale jitter at 1024 pixels, as in Mask2Former."""

from detectron2.config import LazyCall as L

from vitadapter_d2.data import InstanceMapper
from vitadapter_d2.engine.records.pictures import PictureWriter
from vitadapter_d2.evaluation import DetectionEvaluator

from .mask2former import large_scale_jitter, loaders

_TESTED = "${...test.dataset.names}"

dataloader = loaders(
    "coco_2017_train",
    "coco_2017_val",
    L(InstanceMapper)(image_format="RGB", num_classes=80),
    large_scale_jitter(),
    short_side=800,
    max_size=1333,
    evaluator=[
        L(DetectionEvaluator)(dataset_name=_TESTED, output_dir="${train.output_dir}/inference"),
        L(PictureWriter)(dataset_name=_TESTED, output_dir="${train.output_dir}/pictures"),
    ],
)
