"""Fields of the engine; ``vitadapter_d2.engine.train`` reads them."""

import torch

train = dict(
    output_dir="./output",
    init_checkpoint="",  # file or URL; also what --eval-only evaluates
    max_iter=90000,
    device="cuda" if torch.cuda.is_available() else "cpu",
    seed=-1,  # negative: a new one each time
    cudnn_benchmark=False,
    amp=dict(enabled=False, dtype="bfloat16"),  # autocast on CPU and CUDA; or "float16"
    clip_grad_norm=None,  # of the whole model
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False),
    checkpointer=dict(period=5000, max_to_keep=3),
    trained_only=False,  # save no frozen parameters; init_checkpoint has them
    eval_period=5000,  # iterations; 0: at the end only
    log_period=20,
)
