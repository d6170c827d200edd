#!/usr/bin/env python
"""Trains or evaluates a model described by a LazyConfig.

    python tools/train_net.py --config-file configs/shapes/mask2former_vit_adapter_quickstart.py
    python tools/train_net.py --config-file F --eval-only train.init_checkpoint=model_final.pth

Flags are Detectron2's; ``key=value`` arguments override fields of the config.
"""

from argparse import Namespace

from detectron2.config import LazyConfig, instantiate
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from vitadapter_d2 import compat
from vitadapter_d2.engine.config import find_config
from vitadapter_d2.engine.distributed import leave_process_group
from vitadapter_d2.engine.evaluate import Results, do_test, summary_line
from vitadapter_d2.engine.train import do_train
from vitadapter_d2.engine.weights import load_trained, trained_weights


def setup(args: Namespace) -> DictConfig:
    """Reads the config, applies the overrides, starts the loggers, seeds."""
    args.config_file = str(find_config(args.config_file))
    cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="vitadapter_d2")
    default_setup(cfg, args)
    return cfg


def evaluate(cfg: DictConfig) -> Results:
    """Evaluates the checkpoint that ``train.init_checkpoint`` names."""
    try:
        weights = trained_weights(cfg)
        model = instantiate(cfg.model).to(cfg.train.device)
        load_trained(model, weights, start=cfg.get("zoo", {}).get("pretrained"))
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"--eval-only evaluates train.init_checkpoint=FILE: {error}") from error
    return do_test(cfg, compat.create_ddp_model(model, **cfg.train.ddp))


def main(args: Namespace) -> None:
    """Runs in every process."""
    cfg = setup(args)
    results = evaluate(cfg) if args.eval_only else do_train(cfg, resume=args.resume)
    if comm.is_main_process():
        print(f"Results, log and pictures are in {cfg.train.output_dir}")
        print(summary_line(results))
    leave_process_group()


if __name__ == "__main__":
    parser = default_argument_parser()
    args = parser.parse_args()
    if not args.config_file:
        parser.error("--config-file is needed: a file or a name of the zoo")
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
