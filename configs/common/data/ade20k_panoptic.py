"""ADE20K panoptic, crops of 640 pixels, as in Mask2Former."""

from detectron2.config import LazyCall as L
from detectron2.evaluation import COCOPanopticEvaluator

from vitadapter_d2.data import PanopticMapper
from vitadapter_d2.engine.records.pictures import PictureWriter
from vitadapter_d2.evaluation import SemanticEvaluator, ThingEvaluator

from .mask2former import crops, loaders

_TESTED = "${...test.dataset.names}"
_OUTPUT = "${train.output_dir}/inference"

dataloader = loaders(
    "ade20k_panoptic_train",
    "ade20k_panoptic_val",
    L(PanopticMapper)(image_format="RGB", num_classes=150),
    crops(640, max_size=2560, crop_size=(640, 640), pad=True),
    short_side=640,
    max_size=2560,
    evaluator=[
        # First: the panoptic evaluator takes "isthing" out of the predictions.
        L(PictureWriter)(dataset_name=_TESTED, output_dir="${train.output_dir}/pictures"),
        L(COCOPanopticEvaluator)(dataset_name=_TESTED, output_dir=_OUTPUT),
        L(ThingEvaluator)(dataset_name=_TESTED, tasks=("bbox", "segm"), output_dir=_OUTPUT),
        L(SemanticEvaluator)(dataset_name=_TESTED, output_dir=_OUTPUT),
    ],
)
