import pytest
import torch
from detectron2.engine import launch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import nn

from vitadapter_d2.engine.training.distributed import leave_process_group, synchronize_batch_norm


def build():
    """A mean far above the deviation, where sums of squares need their digits."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with torch.no_grad():
        model[0].weight.mul_(0.3)
        model[0].bias.fill_(3.0)
    return model


def normalize_on_each_process(folder, dtype):
    """Each process normalises its half of the batch and saves what it got."""
    torch.manual_seed(0)
    model = build()
    names = list(model.state_dict())
    weight = model[1].weight
    synchronize_batch_norm(model)
    assert isinstance(model[1], NaiveSyncBatchNorm)
    assert list(model.state_dict()) == names
    assert model[1].weight is weight
    image = torch.randn(4, 3, 8, 8)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        output = model(image.chunk(2)[comm.get_rank()])
    torch.save(output.detach().float(), f"{folder}/{comm.get_rank()}.pt")
    leave_process_group()


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-3), (torch.bfloat16, 0.1)])
def test_two_processes_normalize_as_one(tmp_path, monkeypatch, dtype, tolerance):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # gloo, whatever the machine has
    launch(normalize_on_each_process, 2, dist_url="auto", args=(str(tmp_path), dtype))
    torch.manual_seed(0)
    model = build()
    expected = model(torch.randn(4, 3, 8, 8))
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(torch.cat(halves), expected, atol=tolerance, rtol=tolerance)


def test_one_process_keeps_its_norms():
    model = nn.Sequential(nn.BatchNorm2d(4))
    assert type(synchronize_batch_norm(model)[0]) is nn.BatchNorm2d
