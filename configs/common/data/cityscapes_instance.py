"""Cityscapes' 8 kinds of objects, crops of 512 x 1024 pixels, as in Mask2Former."""

from detectron2.config import LazyCall as L

from vitadapter_d2.data import InstanceMapper
from vitadapter_d2.engine.records.pictures import PictureWriter
from vitadapter_d2.evaluation import CityscapesInstanceEvaluator

from .mask2former import crops, loaders

_TESTED = "${...test.dataset.names}"

dataloader = loaders(
    "cityscapes_fine_instance_seg_train",
    "cityscapes_fine_instance_seg_val",
    L(InstanceMapper)(image_format="RGB", num_classes=8),
    crops(1024, max_size=4096, crop_size=(512, 1024), pad=False),
    short_side=1024,
    max_size=2048,
    evaluator=[
        L(CityscapesInstanceEvaluator)(dataset_name=_TESTED),
        L(PictureWriter)(dataset_name=_TESTED, output_dir="${train.output_dir}/pictures"),
    ],
)
