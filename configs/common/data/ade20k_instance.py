"""ADE20K's 100 kinds of objects, crops of 640 pixels, as in Mask2Former."""

from detectron2.config import LazyCall as L

from vitadapter_d2.data import InstanceMapper
from vitadapter_d2.engine.records.pictures import PictureWriter
from vitadapter_d2.evaluation import DetectionEvaluator

from .mask2former import crops, loaders

_TESTED = "${...test.dataset.names}"

dataloader = loaders(
    "ade20k_instance_train",
    "ade20k_instance_val",
    L(InstanceMapper)(image_format="RGB", num_classes=100),
    crops(640, max_size=2560, crop_size=(640, 640), pad=True),
    short_side=640,
    max_size=2560,
    evaluator=[
        L(DetectionEvaluator)(dataset_name=_TESTED, output_dir="${train.output_dir}/inference"),
        L(PictureWriter)(dataset_name=_TESTED, output_dir="${train.output_dir}/pictures"),
    ],
)
