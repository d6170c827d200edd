"""What training on several processes needs beyond DistributedDataParallel."""

from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Lets BatchNorm see the batches of all processes; parameters and their names stay.

    torch's ``SyncBatchNorm`` runs on CUDA only; elsewhere Detectron2's ``NaiveSyncBatchNorm``
    takes its place. With one process nothing changes.

    Args:
        model: on its device; changed in place.

    Returns:
        The model.
    """
    if comm.get_world_size() == 1:
        return model
    if next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, _naive(child))
    return model


def leave_process_group() -> None:
    """Ends the processes' connection in order; without it, an exiting process may abort."""
    if distributed.is_available() and distributed.is_initialized():
        comm.synchronize()
        distributed.destroy_process_group()


class _SyncBatchNorm(NaiveSyncBatchNorm):
    """Sums in float32: the parent's mean of squares minus square of means drowns in bfloat16."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).to(input.dtype)


def _naive(norm: _BatchNorm) -> NaiveSyncBatchNorm:
    synced = _SyncBatchNorm(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    synced.weight, synced.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers():
        setattr(synced, name, buffer)
    return synced
