import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import FPN, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances

from vitadapter_d2 import model_zoo
from vitadapter_d2.modeling.roi_pooler import PreciseROIPooler
from vitadapter_d2.modeling.sparse_rcnn import (
    BoxPrediction,
    DynamicHead,
    HungarianMatcher,
    SetCriterion,
    SparseRCNN,
)
from vitadapter_d2.modeling.sparse_rcnn.model import best_detections

K, Q = 4, 20


def make_backbone():
    """A small one of Detectron2's own, with size_divisibility 32."""
    stages = [
        ResNet.make_stage(
            BasicBlock, 1, stride_per_block=[stride], in_channels=before, out_channels=after
        )
        for stride, before, after in ((1, 4, 8), (2, 8, 12), (2, 12, 16), (2, 16, 20))
    ]
    names = ["res2", "res3", "res4", "res5"]
    resnet = ResNet(BasicStem(out_channels=4), stages, out_features=names)
    return FPN(resnet, names, out_channels=16)


def make_model(**kwargs):
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    head = DynamicHead(
        # Boxes of 64 pixels already come from the last level.
        box_pooler=PreciseROIPooler(7, scales, 2, "ROIAlignV2", canonical_box_size=32),
        box2box_transform=Box2BoxTransform((2.0, 2.0, 1.0, 1.0)),
        num_classes=K,
        num_stages=3,
        embed_dim=16,
        dynamic_dim=8,
        num_heads=4,
        feedforward_dim=32,
    )
    criterion = SetCriterion(matcher=HungarianMatcher())
    options = {"num_proposals": Q, "test_topk_per_image": 30} | kwargs
    return SparseRCNN(backbone=make_backbone(), head=head, criterion=criterion, **options)


def make_input(height, width, count, /, **extra):
    corners = torch.rand(count, 2) * torch.tensor([width, height]) * 0.6
    sides = 1 + torch.rand(count, 2) * torch.tensor([width, height]) * 0.4
    instances = Instances((height, width))
    instances.gt_classes = torch.randint(0, K, (count,))
    instances.gt_boxes = Boxes(torch.cat([corners, corners + sides], dim=1))
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "instances": instances} | extra


def assert_all_learn(model, losses):
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_training_gives_losses_of_all_stages_and_a_gradient_for_every_parameter():
    model = make_model()
    losses = model([make_input(40, 70, 3), make_input(64, 33, 0), make_input(1, 1, 1)])
    kinds = ("loss_cls", "loss_bbox", "loss_giou")
    assert set(losses) == {kind + end for kind in kinds for end in ("", "_0", "_1")}
    assert_all_learn(model, losses)
    zero = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert not zero


def test_a_batch_without_objects_trains():
    model = make_model()
    losses = model([make_input(40, 70, 0), {"image": torch.zeros(3, 9, 5),
                                            "instances": Instances((9, 5))}])  # fmt: skip
    assert losses["loss_cls"] > 0 and losses["loss_bbox"] == losses["loss_giou"] == 0
    assert_all_learn(model, losses)


def test_images_are_normalised_and_padded_with_zeros():
    model = make_model(pixel_mean=(10.0, 20.0, 30.0), pixel_std=(1.0, 2.0, 5.0))
    image = torch.tensor([11, 24, 40], dtype=torch.uint8)[:, None, None].expand(-1, 5, 7)
    batch = model.preprocess_image([{"image": image}]).tensor
    assert batch.shape == (1, 3, 32, 32)
    expected = torch.tensor([1.0, 2.0, 2.0])[:, None, None].expand(-1, 5, 7)
    torch.testing.assert_close(batch[0, :, :5, :7], expected)
    assert not batch[0, :, 5:].any() and not batch[0, :, :, 7:].any()


def test_proposals_start_as_the_whole_image_without_its_padding():
    model = make_model()
    seen = {}
    model.head.register_forward_hook(lambda _, inputs, __: seen.update(inputs=inputs))
    model([make_input(40, 70, 1), make_input(64, 33, 1)])
    levels, boxes, features = seen["inputs"]
    assert levels[0].shape == (2, 16, 16, 24)  # padded to 64 x 96
    expected = torch.tensor([[0.0, 0.0, 70.0, 40.0], [0.0, 0.0, 33.0, 64.0]])
    torch.testing.assert_close(boxes, expected[:, None].expand(-1, Q, -1))
    torch.testing.assert_close(features, model.init_proposal_features.weight.expand(2, -1, -1))


def test_learned_proposals_are_centers_and_sides():
    model = make_model()
    seen = {}
    model.head.register_forward_hook(lambda _, inputs, __: seen.update(boxes=inputs[1]))
    with torch.no_grad():
        model.init_proposal_boxes.weight[:] = torch.tensor([0.5, 0.25, 0.2, 0.5])
    model([make_input(40, 100, 1)])
    torch.testing.assert_close(seen["boxes"][0, 0], torch.tensor([40.0, 0.0, 60.0, 20.0]))


def test_the_best_pairs_of_proposal_and_class_are_detections():
    logits, boxes = torch.randn(Q, K), torch.rand(Q, 4)
    instances = best_detections(logits, boxes, (10, 20), topk=25)
    pairs = sorted(
        ((logits[q, k].sigmoid().item(), q, k) for q in range(Q) for k in range(K)), reverse=True
    )[:25]
    assert instances.scores.tolist() == pytest.approx([score for score, _, _ in pairs])
    assert instances.pred_classes.tolist() == [k for _, _, k in pairs]
    torch.testing.assert_close(instances.pred_boxes.tensor, boxes[[q for _, q, _ in pairs]])
    assert len({q for _, q, _ in pairs}) < 25  # some are detected as several classes
    assert len(best_detections(logits, boxes, (10, 20), topk=1000)) == Q * K


def test_detections_of_the_last_stage_are_scaled_to_the_output_and_never_cut():
    model = make_model(test_topk_per_image=3).eval()
    logits, boxes = torch.zeros(3, 1, Q, K), torch.full((3, 1, Q, 4), 20.0)
    logits[-1, 0, 4, 2], logits[-1, 0, 7, 1], logits[-1, 0, 9, 3] = 5.0, 3.0, 2.0
    boxes[-1, 0, 4] = torch.tensor([10.0, 5.0, 30.0, 25.0])
    boxes[-1, 0, 7] = torch.tensor([-50.0, -4.0, 90.0, 20.0])
    boxes[-1, 0, 9] = torch.tensor([70.0, 5.0, 80.0, 20.0])  # beside the image
    model.head.forward = lambda *_: BoxPrediction(logits, boxes)
    with torch.no_grad():
        (output,) = model([make_input(40, 60, 0, height=80, width=30)])
    instances = output["instances"]
    assert instances.image_size == (80, 30)
    assert instances.pred_classes.tolist() == [2, 1, 3]
    expected = [[5.0, 10.0, 15.0, 50.0], [-25.0, -8.0, 45.0, 40.0], [35.0, 10.0, 40.0, 40.0]]
    torch.testing.assert_close(instances.pred_boxes.tensor, torch.tensor(expected))


@pytest.mark.parametrize("size", [(1, 1), (33, 97), (64, 64)])
def test_any_size_gives_all_its_detections(size):
    model = make_model().eval()
    with torch.no_grad():
        (output,) = model([make_input(*size, 0)])
    instances = output["instances"]
    assert len(instances) == 30
    assert instances.image_size == size
    assert instances.pred_boxes.tensor.isfinite().all() and instances.pred_boxes.nonempty().all()
    assert (instances.scores.diff() <= 0).all()


def test_images_of_a_batch_do_not_mix():
    model = make_model().eval()
    small, large = make_input(64, 64, 0), make_input(96, 64, 0)
    with torch.no_grad():
        together = model([small, large])[1]["instances"]
        alone = model([large])[0]["instances"]
    torch.testing.assert_close(
        together.pred_boxes.tensor, alone.pred_boxes.tensor, rtol=1e-3, atol=1e-2
    )
    torch.testing.assert_close(together.scores, alone.scores, rtol=1e-3, atol=1e-4)


def test_losses_in_bfloat16_are_those_in_float32():
    model = make_model()
    with torch.no_grad():  # at random, each stage multiplies the differences of the one before
        for stage in model.head.head_series:
            stage.bboxes_delta.weight.mul_(0.1)
    batch = [make_input(96, 128, 5), make_input(70, 90, 3), make_input(64, 64, 0)]
    with torch.no_grad():
        expected = model(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = model(batch)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.02), name


def test_missing_and_wrong_targets_are_refused():
    model = make_model()
    item = make_input(32, 32, 1)
    with pytest.raises(ValueError, match="training needs 'instances'"):
        model([{"image": item["image"]}])
    item["instances"].gt_classes[:] = K
    with pytest.raises(ValueError, match=r"gt_classes must be in \[0, 4\), got 4 to 4"):
        model([item])


@pytest.mark.parametrize("options", [{"num_proposals": 0}, {"test_topk_per_image": 0}])
def test_nothing_to_propose_or_to_return_is_refused(options):
    with pytest.raises(ValueError, match="must be at least 1, got"):
        make_model(**options)


def test_the_published_model_has_the_published_size_and_optimizer():
    cfg = model_zoo.get_config("coco/sparse_rcnn_deit_adapter_small_fpn_3x_coco")
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 109_748_920
    assert len(model.head.head_series) == 6
    assert (model.head.head_series[0].self_attn.num_heads, model.test_topk_per_image) == (8, 300)
    cfg.optimizer.params.model = model
    rules = {}
    for group in instantiate(cfg.optimizer).param_groups:
        for parameter in group["params"]:
            rules[id(parameter)] = (group["lr"], group["weight_decay"])
    rule = {name: rules[id(parameter)] for name, parameter in model.named_parameters()}
    slow = {name for name, (lr, _) in rule.items() if lr != 1e-4}
    assert slow == {"init_proposal_boxes.weight", "init_proposal_features.weight"}
    for name in slow:
        assert rule[name] == pytest.approx((2.5e-5, 1e-4))
    assert rule["head.head_series.0.self_attn.in_proj_bias"][1] == 0
    assert rule["head.head_series.0.inst_interact.norm2.weight"][1] == 0
    # Not called a norm by the official configuration either.
    assert rule["head.head_series.0.cls_module.1.weight"][1] == 0.05
    assert cfg.train.clip_grad_norm == 1.0
