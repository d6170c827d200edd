"""What a training ran on, in words."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from detectron2.utils import comm

import vitadapter_d2


def hardware(device: torch.device) -> dict[str, str]:
    """Processor, processes and versions, as this process finds them.

    Args:
        device: that the model is on.

    Returns:
        What it is to its description, in the order in which it is to be shown.
    """
    found = {"device": _cpu()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["device"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        found["CUDA"] = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        found["host"] = _cpu()
    found["processes"] = f"{comm.get_world_size()} ({_backend()})"
    found["torch"] = torch.__version__
    found["detectron2"] = _version("detectron2")
    found["vitadapter_d2"] = vitadapter_d2.__version__
    found["Python"] = platform.python_version()
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, cores: {cores}, threads: {torch.get_num_threads()}"


def _backend() -> str:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_backend()
    return "alone"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # on the path only
        return "unknown"
