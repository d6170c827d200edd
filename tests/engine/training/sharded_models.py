"""Small models of every kind of trunk, trained on two processes: by DDP, and spread by FSDP2.

In processes of their own, which :func:`start_two` forks from one that has imported everything.
"""

import math
from functools import partial

import timm
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from resumed_runs import context
from timm.models.beit import Beit
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.checkpoint.sharded import gathered, local_part
from vitadapter_d2.engine.training.distributed import leave_process_group, synchronize_batch_norm
from vitadapter_d2.engine.training.finite import StepReport, check_finite
from vitadapter_d2.engine.training.sharding import shard, shard_if_asked, whole_weights
from vitadapter_d2.engine.training.trainer import Trainer
from vitadapter_d2.modeling.backbone import (
    PlainViTPyramid,
    SpatialPriorModule,
    UniPerceiver,
    ViTAdapter,
    frozen,
    interaction_blocks,
    plain_vit,
    with_lora,
)

WIDTH = 24
SIZES = dict(embed_dim=WIDTH, depth=2, num_heads=2, num_classes=0, img_size=32)
STEPS = 2


def _adapter(vit, recompute=False):
    blocks = interaction_blocks(
        WIDTH, [(0, 0), (1, 1)], num_heads=2, injector_init=0.5, recompute_attention=recompute
    )
    return ViTAdapter(vit, SpatialPriorModule(WIDTH, 5), blocks)


def _timm(name, **options):
    return plain_vit(timm.create_model(name, **SIZES | options))


def _sam():
    sizes = {key: value for key, value in SIZES.items() if key != "num_classes"}
    return VisionTransformerSAM(
        **sizes, use_rel_pos=True, window_size=2, global_attn_indexes=(1,), neck_chans=8
    )


MODELS = {
    "vit": lambda: _adapter(plain_vit(VisionTransformer(**SIZES, init_values=0.1))),
    "recomputed": lambda: _adapter(
        plain_vit(VisionTransformer(**SIZES), recompute_blocks=True), recompute=True
    ),
    "half frozen": lambda: _adapter(frozen(plain_vit(VisionTransformer(**SIZES)), 1)),
    "parallel": lambda: _adapter(
        plain_vit(VisionTransformer(**SIZES, block_fn=ParallelScalingBlock))
    ),
    "beit": lambda: _adapter(
        plain_vit(Beit(**SIZES, init_values=0.1, use_abs_pos_emb=False, use_rel_pos_bias=True))
    ),
    "eva": lambda: _adapter(_timm("eva02_base_patch16_clip_224")),
    "mixed rope": lambda: _adapter(_timm("vit_base_patch16_rope_mixed_ape_224")),
    "relpos": lambda: _adapter(_timm("vit_relpos_base_patch16_cls_224")),
    "sam": lambda: _adapter(plain_vit(_sam())),
    "uniperceiver": lambda: _adapter(plain_vit(UniPerceiver(WIDTH, 2, 2, pretrain_grid=(2, 2)))),
    "no adapter": lambda: PlainViTPyramid(
        plain_vit(VisionTransformer(**SIZES)), [0, 1, 1, 1], up_norm="BN"
    ),
}


class Losses(nn.Module):
    """A backbone whose outputs are to be small; in Detectron2's way of calling."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, batch):
        outputs = self.backbone(torch.stack([record["image"] for record in batch]))
        losses = {name: output.square().mean() for name, output in outputs.items()}
        return losses if self.training else outputs


def build(name, seed=0):
    """With every parameter perturbed: LayerScale and gammas start at 0."""
    torch.manual_seed(seed)
    model = Losses(MODELS[name]())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def batches(rank):
    """Other images in each process."""
    generator = torch.Generator().manual_seed(2 + rank)
    while True:
        yield [{"image": torch.randn(3, 40, 32, generator=generator)} for _ in range(2)]


def train(model, optimizer=partial(torch.optim.AdamW, lr=0.01), **options):
    """Losses of every step; the model's weights are those after the last."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    trainer = Trainer(model, batches(comm.get_rank()), optimizer(trained), **options)
    losses = []
    with EventStorage() as storage:
        for trainer.iter in range(STEPS):
            trainer.run_step()
            if comm.is_main_process():
                losses.append(storage.latest()["total_loss"][0])
    return losses


def compare(name, block_dtype=None, **options):
    """Trains a model both ways; for each, what came of it."""
    rank = comm.get_rank()  # of other weights in each process, the first one's count
    plain = synchronize_batch_norm(build(name, seed=rank))
    sharded = shard(synchronize_batch_norm(build(name, seed=rank)), block_dtype)
    losses = [train(model, **options) for model in (DistributedDataParallel(plain), sharded)]
    image = [{"image": torch.randn(3, 40, 32, generator=torch.Generator().manual_seed(3))}]
    plain.eval(), sharded.eval()
    with torch.inference_mode():
        expected = plain(image)
        with whole_weights(sharded):
            for _ in range(rank + 1):  # each process has as many images as it has
                outputs = sharded(image)
    return {
        "losses": losses,
        "outputs": [expected, outputs],
        "weights": [dict(gathered(model.state_dict())) for model in (plain, sharded)],
        "sizes": [
            sum(local_part(value).numel() for value in model.parameters())
            for model in (plain, sharded)
        ],
    }


def start_two(folder, function, *arguments):
    """What a function returns in each of two processes; its first argument is the folder."""
    processes = [
        context.Process(target=_run, args=(rank, str(folder), function, *arguments))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(480)
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _run(rank, folder, function, *arguments):
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    torch.save(function(folder, *arguments), f"{folder}/{rank}.pt")
    leave_process_group()


def compare_all(_, cases):
    """:func:`compare` for each case, by its name."""
    return {case: compare(*arguments, **options) for case, (arguments, options) in cases.items()}


def try_out(folder):
    """A gradient that is infinite in one process's part; a partial file; what is refused."""
    model = shard(build("half frozen"))
    Checkpointer(model, folder, trained_only=True).save("part")
    return {"infinite": _overflow(model), "refused": _refusals()}


def _overflow(model):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(sum(model(next(batches(0))).values())).backward()
    if comm.get_rank() == 1:
        local_part(trained[-1].grad).fill_(math.inf)
    before = [local_part(parameter).clone() for parameter in trained]
    scaler.step(optimizer)
    scaler.update()
    after = [local_part(parameter) for parameter in trained]
    reports = [StepReport([{"loss": 1.0}], math.inf, 0.0)] * 2
    try:
        check_finite(0, reports, [[]], model, seed=0, output_dir=None)
    except FloatingPointError as error:
        sentence = str(error)
    return {
        "kept": all(map(torch.equal, before, after)),
        "scale": scaler.get_scale(),
        "name": [name for name, value in model.named_parameters() if value is trained[-1]][0],
        "sentence": sentence,
    }


def _refusals():
    trunk = plain_vit(VisionTransformer(**SIZES))
    scalar = nn.ParameterDict({"scale": nn.Parameter(torch.tensor(1.0))})
    models = {
        "scalar": (scalar, {}),
        "lora": (with_lora(trunk), {}),
        "dtype": (nn.Linear(2, 2), {"fsdp": {"enabled": True, "block_dtype": "float16"}}),
    }
    told = {}
    for name, (model, options) in models.items():
        cfg = OmegaConf.create({"train": {"fsdp": {"enabled": True}, **options}})
        try:
            shard_if_asked(cfg, model)
        except ValueError as error:
            told[name] = str(error)
    return told
