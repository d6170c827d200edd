"""DINO on the backbone of the quick start, narrower and shallower."""

from ..common.data.shapes_instance import dataloader, test
from ..common.models.dino import dino
from ..common.models.vit_adapter_mini import backbone
from ..common.optim import optimizer
from ..common.schedules import cosine
from ..common.train import train

model = dino(backbone, num_classes=8, num_queries=50)
model.neck.embed_dim = 64
model.encoder.num_heads = 4
model.encoder.feedforward_dim = 256
model.encoder.num_layers = 3
model.decoder.num_layers = 3
model.denoising.num_queries = 30
model.test_topk_per_image = 50

dataloader.train.mapper.use_instance_mask = False

optimizer.lr = 1e-3
train.output_dir = "output/dino_shapes"
train.seed = 1
train.max_iter = 1000
train.eval_period = 0
train.clip_grad_norm = 1.0
lr_multiplier = cosine(train.max_iter, warmup_iters=100)
