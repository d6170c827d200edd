#!/usr/bin/env python
"""Trains or evaluates a model described by a LazyConfig.

    python tools/train_net.py --config-file configs/shapes/mask2former_vit_adapter_quickstart.py
    python tools/train_net.py --config-file F --eval-only train.init_checkpoint=model_final.pth
    python tools/train_net.py --config-file F --data my_folder train.output_dir=output/mine

Flags are Detectron2's; ``key=value`` arguments override fields of the config. An evaluation leaves
its files in ``evaluation`` below train.output_dir, unless the command line says where. Several
processes are started here (--num-gpus, --num-machines) or by torchrun: docs/launching.md.
"""

import sys
from argparse import ZERO_OR_MORE, Namespace
from pathlib import Path

from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from vitadapter_d2.data.own import OwnData
from vitadapter_d2.engine.config.calls import instantiate
from vitadapter_d2.engine.config.loading import find_config, load_config
from vitadapter_d2.engine.errors import ConfigError
from vitadapter_d2.engine.evaluate import Results, do_test, summary_line, write_results
from vitadapter_d2.engine.launching.launch import launch
from vitadapter_d2.engine.own.data import add_own_data_flags, check_weights_for, tell, use_own_data
from vitadapter_d2.engine.train import do_train
from vitadapter_d2.engine.training.distributed import leave_process_group
from vitadapter_d2.engine.training.ema import uses_averages
from vitadapter_d2.engine.training.saving import noted_checkpoint, set_aside
from vitadapter_d2.engine.weights import load_trained, place_evaluation, trained_weights


def read(args: Namespace) -> DictConfig:
    """The config with the overrides and, if flags say so, with the user's own data."""
    args.config_file = str(find_config(args.config_file))
    cfg = load_config(args.config_file, args.opts)
    newest = noted_checkpoint(Path(str(cfg.train.output_dir))) if args.resume else None
    if args.eval_only:
        place_evaluation(cfg, args.opts)
    own = use_own_data(cfg, args)
    if newest and own:  # before anything is written
        check_weights_for(own, newest)
    return cfg


def setup(args: Namespace) -> DictConfig:
    """Reads the config, starts the loggers, seeds."""
    cfg = read(args)
    if comm.is_main_process() and not (args.eval_only or args.resume):
        set_aside(Path(cfg.train.output_dir), ["config.yaml", "log.txt"])  # before they are written
    cfg.train.source = {"config_file": args.config_file, "command": sys.argv}  # for summary.md
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="vitadapter_d2")
    default_setup(cfg, args)
    if args.own_data:
        tell(cfg, args.own_data)
    return cfg


def evaluate(cfg: DictConfig, own: OwnData | None) -> Results:
    """Evaluates the checkpoint that ``train.init_checkpoint`` names."""
    try:
        weights = trained_weights(cfg)
        check_weights_for(own, weights)
        model = instantiate(cfg.model).to(cfg.train.device)
        start = cfg.get("zoo", {}).get("pretrained")
        load_trained(model, weights, start=start, use_averages=uses_averages(cfg))
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(f"--eval-only evaluates train.init_checkpoint=FILE: {error}") from error
    return do_test(cfg, model)


def main(args: Namespace) -> None:
    """Runs in every process."""
    cfg = setup(args)
    results = evaluate(cfg, args.own_data) if args.eval_only else do_train(cfg, resume=args.resume)
    if comm.is_main_process():
        if args.eval_only:
            write_results(results, Path(cfg.train.output_dir, "results.json"))
        print(f"Results, log and pictures are in {cfg.train.output_dir}")
        print(summary_line(results))
    leave_process_group()


def parse_arguments() -> Namespace:
    """Flags and overrides, in any order."""
    parser = default_argument_parser(epilog=__doc__)  # its own epilog is of other configs
    add_own_data_flags(parser)
    (overrides,) = (action for action in parser._actions if action.dest == "opts")
    overrides.nargs = ZERO_OR_MORE  # else they swallow the flags behind them
    args = parser.parse_intermixed_args()
    if not args.config_file:
        parser.error("--config-file is needed: a file or a name of the zoo")
    return args


if __name__ == "__main__":
    sys.exit(launch(main, parse_arguments(), read))
