"""The official key lists: all 77 beside the reference cases, or a committed one of each kind.

``python tests/official_lists.py`` writes the committed ones anew; it needs
``VITADAPTER_REFERENCE``.
"""

import gzip
import json
import os
from functools import cache
from pathlib import Path

import torch

COMMITTED = Path(__file__).parent / "data" / "keys" / "official.json.gz"
REPRESENTATIVE = (
    "seg__upernet_augreg_adapter_tiny_512_160k_ade20k",
    "seg__upernet_deit_adapter_light_base_512_160k_ade20k",
    "seg__upernet_beit_large_512_160k_ade20k_ss",
    "seg__mask2former_beit_adapter_base_480_40k_pascal_context_59_ss",
    "seg__mask2former_beit_adapter_large_128_40k_chase_db1_ss",
    "det__mask2former_beitv2_adapter_large_16x1_3x_coco-panoptic",
    "det__mask_rcnn_deit_tiny_fpn_3x_coco",
    "det__mask_rcnn_deit_adapter_tiny_fpn_1x_coco",
    "det__mask_rcnn_deit_adapter_small_3x_coco",
    "det__mask_rcnn_dinov2_adapter_small_fpn_3x_coco",
    "det__mask_rcnn_mae_adapter_base_lsj_fpn_25ep_coco",
    "det__mask_rcnn_uniperceiver_adapter_base_fpn_3x_coco",
    "det__cascade_mask_rcnn_deit_adapter_small_fpn_3x_coco",
    "det__htc++_beitv2_adapter_large_fpn_o365_coco",
    "det__atss_deit_adapter_small_fpn_3x_coco",
    "det__gfl_deit_adapter_small_fpn_3x_coco",
    "det__sparse_rcnn_deit_adapter_small_fpn_3x_coco",
)
CONFIG_PARTS = (
    "framework",
    "backbone",
    "neck",
    "rpn_head",
    "bbox_head",
    "roi_head",
    "decode_head",
    "auxiliary_head",
    "panoptic_head",
)


@cache
def facts_folder() -> Path | None:
    """``facts`` beside the folder of reference cases, if all lists lie there."""
    facts = Path(os.environ.get("VITADAPTER_REFERENCE", "")).parent / "facts"
    return facts if (facts / "keys").is_dir() else None


@cache
def key_lists() -> dict[str, dict]:
    """``config`` and ``keys`` (names to shapes) of all lists that are there, by name."""
    folder = facts_folder()
    if folder is None:
        return read_committed()
    zoo = json.loads((folder / "zoo.json").read_text())["entries"]
    configs = {f"{entry['task']}__{entry['name']}": entry for entry in zoo}
    return {
        path.stem: {"config": configs[path.stem], "keys": json.loads(path.read_text())}
        for path in sorted((folder / "keys").glob("*.json"))
    }


def read_committed() -> dict[str, dict]:
    return json.loads(gzip.decompress(COMMITTED.read_bytes()))


def state_dict_of(keys: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in keys.items()}


def write_committed() -> None:
    lists = key_lists()
    chosen = {
        name: {
            "config": {part: lists[name]["config"].get(part) for part in CONFIG_PARTS},
            "keys": lists[name]["keys"],
        }
        for name in REPRESENTATIVE
    }
    # Without a time stamp the same content is the same file.
    COMMITTED.write_bytes(gzip.compress(json.dumps(chosen).encode(), mtime=0))


if __name__ == "__main__":
    write_committed()
