"""Two processes train detectors that use three of the four outputs of their backbone."""

import torch
from detectron2.config import instantiate
from detectron2.engine import launch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from vitadapter_d2 import compat, model_zoo
from vitadapter_d2.engine.training.distributed import leave_process_group, synchronize_batch_norm

DETECTORS = ("atss", "gfl", "dino")


def batch(seed):
    torch.manual_seed(seed)
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 40.0, 50.0]]))
    instances.gt_classes = torch.tensor([seed])
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    return [{"image": image, "instances": instances}]


def train_all(folder):
    for detector in DETECTORS:
        train(detector, folder)
    leave_process_group()


def train(detector, folder):
    """Two steps: DDP complains in the second about gradients that it missed in the first."""
    cfg = model_zoo.get_config(f"shapes/{detector}_vit_adapter_shapes")
    assert not cfg.train.ddp.find_unused_parameters
    torch.manual_seed(0)
    model = compat.create_ddp_model(
        synchronize_batch_norm(instantiate(cfg.model)), **cfg.train.ddp
    ).train()
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    for step in range(2):
        with EventStorage():
            losses = model(batch(2 * step + comm.get_rank()))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    state = {key: value for key, value in model.module.state_dict().items() if "running" not in key}
    torch.save(state, f"{folder}/{detector}{comm.get_rank()}.pt")


def test_every_gradient_arrives(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # gloo, whatever the machine has
    launch(train_all, 2, dist_url="auto", args=(str(tmp_path),))
    for detector in DETECTORS:
        files = [tmp_path / f"{detector}{rank}.pt" for rank in range(2)]
        first, second = (torch.load(file, weights_only=True) for file in files)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
