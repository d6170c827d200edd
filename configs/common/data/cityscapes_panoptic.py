"""Cityscapes (fine) panoptic, crops of 512 x 1024 pixels, as in Mask2Former."""

from detectron2.config import LazyCall as L
from detectron2.evaluation import COCOPanopticEvaluator

from vitadapter_d2.data import PanopticMapper
from vitadapter_d2.engine.records.pictures import PictureWriter
from vitadapter_d2.evaluation import CityscapesInstanceEvaluator, SemanticEvaluator

from .mask2former import crops, loaders

_TESTED = "${...test.dataset.names}"
_OUTPUT = "${train.output_dir}/inference"

dataloader = loaders(
    "cityscapes_fine_panoptic_train",
    "cityscapes_fine_panoptic_val",
    L(PanopticMapper)(image_format="RGB", num_classes=19),
    crops(1024, max_size=4096, crop_size=(512, 1024), pad=False),
    short_side=1024,
    max_size=2048,
    evaluator=[
        # First: the panoptic evaluator takes "isthing" out of the predictions.
        L(PictureWriter)(dataset_name=_TESTED, output_dir="${train.output_dir}/pictures"),
        L(COCOPanopticEvaluator)(dataset_name=_TESTED, output_dir=_OUTPUT),
        L(CityscapesInstanceEvaluator)(dataset_name=_TESTED),
        L(SemanticEvaluator)(dataset_name=_TESTED, output_dir=_OUTPUT),
    ],
)
