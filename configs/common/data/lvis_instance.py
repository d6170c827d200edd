"""LVIS v1, 1203 classes, with the multi-scale training of "3x+MS"; rare classes are repeated.

An image is drawn more often if a class of it is in fewer than one image of a thousand (arXiv
1908.03195, Appendix B).
"""

from detectron2.config import LazyCall as L

from vitadapter_d2.evaluation import LVISEvaluator

from .coco_instance_ms import dataloader, test

TRAIN_IMAGES = 100170


def iterations(epochs):
    """Of as many images as the data set has, repeated or not."""
    return epochs * TRAIN_IMAGES // dataloader.train.total_batch_size


dataloader.train.dataset.names = "lvis_v1_train"
dataloader.train.repeat_thresh = 0.001
dataloader.test.dataset.names = "lvis_v1_val"
dataloader.evaluator[0] = L(LVISEvaluator)(
    dataset_name="${...test.dataset.names}",
    output_dir="${train.output_dir}/inference",
    max_dets_per_image=300,
)
test.ms_max_boxes = 300
