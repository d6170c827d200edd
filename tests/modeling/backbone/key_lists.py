"""Names and shapes of the official backbones, without the prefix ``backbone.``."""

import gzip
import json
import os
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

COMMITTED = Path(__file__).parents[2] / "data" / "keys" / "official.json.gz"


@cache
def _committed() -> dict[str, dict]:
    return json.loads(gzip.decompress(COMMITTED.read_bytes()))


def official_keys(name: str) -> dict[str, list[int]]:
    """A committed list, or one that lies beside the reference cases, in ``facts/keys``."""
    folder = os.environ.get("VITADAPTER_REFERENCE")
    if name in _committed():
        listed = _committed()[name]["keys"]
    elif folder:
        path = Path(folder).with_name("facts") / "keys" / f"{name}.json"
        listed = json.loads(path.read_text())
    else:
        pytest.skip(f"key list {name}: set VITADAPTER_REFERENCE to the folder of reference cases")
    return {
        key.removeprefix("backbone."): shape
        for key, shape in listed.items()
        if key.startswith("backbone.")
    }


def state_dict_of(keys: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in keys.items()}


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
