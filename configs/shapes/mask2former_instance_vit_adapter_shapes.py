"""The quick start's model trained on objects alone, which may overlap."""

from detectron2.config import LazyCall as L

from vitadapter_d2.data import InstanceMapper

from ..common.data.shapes_instance import dataloader
from ..common.schedules import cosine
from .mask2former_vit_adapter_quickstart import model, optimizer, train

dataloader.train.mapper = L(InstanceMapper)(
    augmentations=dataloader.train.mapper.augmentations, image_format="RGB", num_classes=8
)
model.criterion.num_classes = 8
model.metadata = None
model.semantic_on = model.panoptic_on = False
model.test_topk_per_image = 20  # an image has seven objects at most

train.output_dir = "output/mask2former_instance_shapes"
train.max_iter = 1500
train.eval_period = 0
lr_multiplier = cosine(train.max_iter, warmup_iters=50)
