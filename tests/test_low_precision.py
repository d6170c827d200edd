"""Training losses under bfloat16 autocast are those in float32, for each detection framework."""

import copy

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.utils.events import EventStorage

from vitadapter_d2 import model_zoo

FRAMEWORKS = {
    "Mask R-CNN": "mask_rcnn_vit_adapter_shapes",
    "Cascade Mask R-CNN": "cascade_mask_rcnn_vit_adapter_shapes",
    "HTC++": "htcpp_vit_adapter_shapes",
    "ATSS": "atss_vit_adapter_shapes",
    "GFL": "gfl_vit_adapter_shapes",
    "Sparse R-CNN": "sparse_rcnn_vit_adapter_shapes",
    "DINO": "dino_vit_adapter_shapes",
    "Mask2Former": "mask2former_vit_adapter_quickstart",
}


def batches(cfg):
    """Three of two images each, from the tiny data set, not augmented."""
    dataset = cfg.dataloader.train.dataset
    for key in ("names", "label_names"):
        if key in dataset:
            dataset[key] = dataset[key].replace("shapes_", "tiny_")
    mapper = instantiate(cfg.dataloader.train.mapper)
    mapper.augmentations = T.AugmentationList([])
    inputs = [mapper(copy.deepcopy(record)) for record in instantiate(dataset)[:6]]
    return inputs[:2], inputs[2:4], inputs[4:]


def losses(model, batch, seed, in_bfloat16):
    torch.manual_seed(seed)  # anchors, points and noise are drawn alike
    with EventStorage(), torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            return {name: loss.float() for name, loss in model(batch).items()}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_losses_agree_to_2_percent(framework, tiny_root):
    cfg = model_zoo.get_config(f"shapes/{FRAMEWORKS[framework]}")
    model = instantiate(cfg.model).train()
    if framework == "Sparse R-CNN":
        # A stage that was never trained moves boxes by images; what two roundings of one feature
        # make of them has nothing in common after four such stages.
        for stage in model.head.head_series:
            stage.bboxes_delta.weight.data.mul_(0.3)
    # A proposal more or less among the few that are sampled is averaged out.
    totals = torch.zeros(2)
    for seed, batch in enumerate(batches(cfg)):
        for column in range(2):
            parts = losses(model, batch, seed, in_bfloat16=bool(column))
            totals[column] += torch.stack(list(parts.values())).sum()
    full, half = totals.tolist()
    assert 0 < full and half != full, "nothing was computed in bfloat16"
    assert half == pytest.approx(full, rel=0.02)
