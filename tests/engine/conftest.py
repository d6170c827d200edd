from pathlib import Path

import pytest
from omegaconf import DictConfig

from vitadapter_d2.engine.config.loading import load_config


@pytest.fixture
def tiny_config(tiny_root: Path, tmp_path: Path) -> DictConfig:
    """The quick start on eight images, two iterations."""
    cfg = load_config("shapes/mask2former_vit_adapter_quickstart")
    cfg.dataloader.train.dataset.names = "tiny_train_panoptic"
    cfg.dataloader.train.total_batch_size = 2
    cfg.dataloader.train.num_workers = 0
    cfg.dataloader.test.dataset.names = "tiny_val_panoptic"
    for evaluator in cfg.dataloader.evaluator:
        evaluator.dataset_name = "tiny_val_panoptic"
    cfg.model.metadata.name = "tiny_val_panoptic"
    cfg.model.criterion.num_points = 64
    cfg.train.output_dir = str(tmp_path / "output")
    cfg.train.max_iter = 2
    cfg.train.log_period = 1
    cfg.train.device = "cpu"
    return cfg
