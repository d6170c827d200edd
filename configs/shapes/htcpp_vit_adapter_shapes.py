"""HTC++ on the backbone of the quick start."""

from detectron2.config import LazyCall as L

from vitadapter_d2.data.datasets import get_objects_with_labels

from ..common.data.shapes_instance import dataloader
from ..common.models.htc import htc
from ..common.models.vit_adapter_mini import backbone
from ..common.optim import optimizer
from ..common.schedules import cosine
from ..common.train import train

model = htc(
    backbone,
    num_classes=8,
    num_labels=12,
    channels=64,
    box_dim=256,
    num_convs=1,
    attention_heads=4,
    attention_drop_path=0.0,
)
model.proposal_generator.anchor_generator.sizes = [[16], [24], [32], [48], [64]]
model.proposal_generator.pre_nms_topk = (500, 200)
model.proposal_generator.post_nms_topk = (200, 100)
model.roi_heads.batch_size_per_image = 32

dataloader.train.dataset = L(get_objects_with_labels)(
    names="shapes_train", label_names="shapes_train_panoptic"
)

optimizer.lr = 1e-3
train.output_dir = "output/htcpp_shapes"
train.seed = 1
train.max_iter = 400
train.eval_period = 0
train.clip_grad_norm = 1.0
lr_multiplier = cosine(train.max_iter, warmup_iters=100)
