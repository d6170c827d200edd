"""The configurations of Mask R-CNN and Cascade Mask R-CNN against what was published."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances
from detectron2.utils.events import EventStorage
from PIL import Image
from pycocotools import mask as mask_utils

from vitadapter_d2 import model_zoo


def config(name):
    return model_zoo.get_config(f"coco/{name}")


def meta_model(name):
    with torch.device("meta"):
        return instantiate(config(name).model)


TRIANGLE = [[20.0, 10.0, 180.0, 30.0, 90.0, 140.0]]


@pytest.fixture
def training_mapper(tmp_path):
    """A configuration's mapper as a function of nothing: one image with one object."""
    image = np.random.default_rng(0).integers(0, 256, (160, 240, 3), dtype=np.uint8)
    file_name = tmp_path / "image.png"
    Image.fromarray(image).save(file_name)
    annotation = dict(bbox=[20, 10, 180, 140], bbox_mode=BoxMode.XYXY_ABS, category_id=3)

    def mapper_of(name, segmentation=TRIANGLE, **options):
        cfg = config(name).dataloader.train.mapper
        cfg.update(options)
        mapper = instantiate(cfg)
        annotations = [annotation | dict(segmentation=segmentation)]
        record = dict(file_name=str(file_name), height=160, width=240, annotations=annotations)
        return lambda: mapper(copy.deepcopy(record))

    return mapper_of


def test_multi_scale_training_resizes_to_the_published_sides(training_mapper):
    np.random.seed(0)
    draw = training_mapper("mask_rcnn_deit_adapter_tiny_fpn_3x_coco")
    outputs = [draw() for _ in range(12)]
    sides = {min(output["image"].shape[1:]) for output in outputs}
    assert sides <= set(range(480, 801, 32))
    assert len(sides) > 3
    assert max(max(output["image"].shape[1:]) for output in outputs) <= 1024
    ratios = {output["image"].shape[1] / output["image"].shape[2] for output in outputs}
    assert any(abs(ratio - 160 / 240) < 0.01 for ratio in ratios)  # the whole image
    assert any(abs(ratio - 160 / 240) > 0.1 for ratio in ratios)  # a part of it
    for output in outputs:
        if len(instances := output["instances"]):
            height, width = output["image"].shape[1:]
            assert (instances.gt_boxes.tensor <= torch.tensor([width, height] * 2)).all()


JITTERED = "mask_rcnn_mae_adapter_base_lsj_fpn_25ep_coco"


def test_large_scale_jitter_cuts_to_1024_and_boxes_to_what_is_left(training_mapper):
    np.random.seed(0)
    draw = training_mapper(JITTERED)
    outputs = [draw() for _ in range(8)]
    sizes = [tuple(output["image"].shape[1:]) for output in outputs]
    assert max(map(max, sizes)) == 1024 and min(map(min, sizes)) < 512
    for output, size in zip(outputs, sizes, strict=True):
        assert output["instances"].image_size == size  # proposals are clipped to it
        tight = output["instances"].gt_masks.get_bounding_boxes().tensor
        torch.testing.assert_close(output["instances"].gt_boxes.tensor, tight)


def test_large_scale_jitter_of_run_length_masks_gives_the_boxes_of_polygons(training_mapper):
    (encoded,) = mask_utils.frPyObjects(TRIANGLE, 160, 240)
    jitters = [
        training_mapper(JITTERED),
        training_mapper(JITTERED, segmentation=encoded, instance_mask_format="bitmask"),
    ]
    for seed in range(6):
        boxes = []
        for draw in jitters:
            np.random.seed(seed)
            boxes.append(draw()["instances"].gt_boxes.tensor)
        torch.testing.assert_close(*boxes, atol=8, rtol=0)  # a pixel, enlarged


def test_large_scale_jitter_trains_on_squares_whose_padding_is_no_part_of_the_image():
    model = instantiate(tiny_detector(JITTERED)).train()
    image = torch.randint(0, 256, (3, 40, 70), dtype=torch.uint8)
    images = model.preprocess_image([dict(image=image)])
    assert images.tensor.shape == (1, 3, 1024, 1024)
    assert [tuple(size) for size in images.image_sizes] == [(40, 70)]
    padding = images.tensor.clone()
    padding[..., :40, :70] = 0
    assert not padding.any() and images.tensor[..., :40, :70].all()
    assert model.proposal_generator.pad_multiple is None
    assert model.eval().preprocess_image([dict(image=image)]).tensor.shape == (1, 3, 64, 96)


def test_the_largest_dinov2_is_trained_with_another_normalisation(training_mapper):
    np.random.seed(0)
    name = "mask_rcnn_dinov2_adapter_large_fpn_3x_coco"
    image = training_mapper(name)()["image"]
    cfg = config(name).model
    mean, std = (torch.tensor(values)[:, None, None] for values in (cfg.pixel_mean, cfg.pixel_std))
    normal = (image - mean) / std
    assert -1.0001 <= normal.min() < -0.9
    assert 0.9 < normal.max() <= 1.0001


def test_stages_of_a_cascade_have_their_own_weights():
    heads = meta_model("cascade_mask_rcnn_deit_adapter_small_fpn_3x_coco").roi_heads
    weights = [predictor.box2box_transform.weights for predictor in heads.box_predictor]
    rounded = [[round(weight, 2) for weight in stage] for stage in weights]
    assert rounded == [[10, 10, 5, 5], [20, 20, 10, 10], [30.30, 30.30, 14.93, 14.93]]
    assert [predictor.loss_weight for predictor in heads.box_predictor] == [
        {"loss_cls": 1.0, "loss_box_reg": 10.0},
        {"loss_cls": 0.5, "loss_box_reg": 5.0},
        {"loss_cls": 0.25, "loss_box_reg": 2.5},
    ]
    assert [head.loss_weight for head in heads.mask_head] == [1.0, 0.5, 0.25]
    assert [matcher.thresholds[1] for matcher in heads.proposal_matchers] == [0.5, 0.6, 0.7]
    assert heads.box_predictor[0].bbox_pred.out_features == 4 * 80


def tiny_detector(name):
    cfg = config(name).model
    tiny = model_zoo.get_config("shapes/mask_rcnn_vit_adapter_shapes").model
    cfg.backbone.bottom_up = tiny.backbone.bottom_up
    cfg.roi_heads.batch_size_per_image = 8
    cfg.roi_heads.box_predictor.test_topk_per_image = 5
    cfg.proposal_generator.post_nms_topk = (20, 20)
    return cfg


@pytest.mark.parametrize("name", ["mask_rcnn_deit_adapter_small_3x_coco", JITTERED])
def test_other_necks_and_heads_train_and_detect(name):
    cfg = tiny_detector(name)
    if name == JITTERED:
        cfg.train_side = 128
    model = instantiate(cfg).train()
    instances = Instances((64, 96), gt_boxes=Boxes(torch.tensor([[8.0, 8, 60, 50]])))
    instances.gt_classes = torch.tensor([5])
    instances.gt_masks = BitMasks(torch.ones(1, 64, 96, dtype=torch.bool))
    nothing = instances[:0]
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with EventStorage():
        losses = model([dict(image=image, instances=found) for found in (instances, nothing)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        (output,) = model.eval()([dict(image=image, height=64, width=96)])
    assert output["instances"].image_size == (64, 96)
