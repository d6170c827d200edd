import torch
from detectron2.engine import launch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import nn

from vitadapter_d2.engine.distributed import leave_process_group, synchronize_batch_norm


def normalize_on_each_process(folder):
    """Each process normalises its half of the batch and saves what it got."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    names = list(model.state_dict())
    weight = model[1].weight
    synchronize_batch_norm(model)
    assert type(model[1]) is NaiveSyncBatchNorm
    assert list(model.state_dict()) == names
    assert model[1].weight is weight
    image = torch.randn(4, 3, 8, 8)
    output = model(image.chunk(2)[comm.get_rank()])
    torch.save(output.detach(), f"{folder}/{comm.get_rank()}.pt")
    leave_process_group()


def test_two_processes_normalize_as_one(tmp_path):
    launch(normalize_on_each_process, 2, dist_url="auto", args=(str(tmp_path),))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    expected = model(torch.randn(4, 3, 8, 8))
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(torch.cat(halves), expected, atol=1e-5, rtol=1e-5)


def test_one_process_keeps_its_norms():
    model = nn.Sequential(nn.BatchNorm2d(4))
    assert type(synchronize_batch_norm(model)[0]) is nn.BatchNorm2d
