"""Fields of the engine; ``vitadapter_d2.engine.train`` reads them."""

import torch

train = dict(
    output_dir="./output",
    init_checkpoint="",  # file or URL; also what --eval-only evaluates
    max_iter=90000,
    device="cuda" if torch.cuda.is_available() else "cpu",
    seed=-1,  # negative: a new one for each run, kept when it is resumed
    cudnn_benchmark=False,
    amp=dict(enabled=False, dtype="bfloat16"),  # autocast on CPU and CUDA; or "float16"
    clip_grad_norm=None,  # of the whole model
    accumulate=1,  # micro-batches that share total_batch_size, one after the other
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False),
    # Parameters, gradients and optimizer spread over the processes, for trunks too large for DDP;
    # block_dtype: "bfloat16" gathers and computes the ViT blocks in it.
    fsdp=dict(enabled=False, block_dtype=None),
    ddp_timeout_minutes=30,  # a process that waits longer for another one ends
    checkpointer=dict(period=5000, max_to_keep=3),
    trained_only=False,  # save no frozen parameters; init_checkpoint has them
    # The best evaluated so far as model_best.pth: "auto" takes the first headline metric, a name
    # such as "sem_seg/mIoU" that one, "" keeps none.
    best_metric="",
    # A moving average of the weights. The decay grows as 1 - exp(-(i + 1) / warmup_iters); buffers
    # are BatchNorm's statistics; evaluate tests and predicts with the averages.
    ema=dict(
        enabled=False, decay=0.9998, warmup_iters=2000, interval=1, buffers=True, evaluate=True
    ),
    eval_period=5000,  # iterations; 0: at the end only
    log_period=20,
    # Weights & Biases, if it is installed; more fields go to wandb.init.
    wandb=dict(enabled=False, project="vitadapter_d2", name=None, mode="online"),
    source=dict(config_file="", command=[]),  # tools/train_net.py notes it for summary.md
)
