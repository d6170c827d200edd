"""A training of milliseconds through everything that a run goes through; see launched_model.py."""

from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params
from launched_model import LaunchedModel

from vitadapter_d2.engine.config.loading import load_config

_cfg = load_config("shapes/mask2former_vit_adapter_quickstart")
dataloader, lr_multiplier, optimizer, train = (
    _cfg[part] for part in ("dataloader", "lr_multiplier", "optimizer", "train")
)

model = L(LaunchedModel)(num_classes=12)

dataloader.train.mapper.augmentations = []
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = 0
optimizer.params = L(get_default_optimizer_params)()
train.max_iter = 6
train.checkpointer.period = 1
train.device = "cpu"
