import pytest
import torch
import torch.nn.functional as F
from detectron2.data.catalog import Metadata
from detectron2.modeling import FPN, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from detectron2.structures import BitMasks, Instances, PolygonMasks

from vitadapter_d2.modeling.mask2former import (
    HungarianMatcher,
    Mask2Former,
    MaskedTransformerDecoder,
    MaskFormerHead,
    MSDeformAttnPixelDecoder,
    SetCriterion,
)
from vitadapter_d2.modeling.mask2former.postprocess import MaskUpsampler, semantic_inference

K = 4


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
    head = MaskFormerHead(
        pixel_decoder=MSDeformAttnPixelDecoder(
            in_channels=16,
            embed_dim=64,
            mask_dim=32,
            num_heads=4,
            num_layers=1,
            feedforward_dim=32,
            in_features=("p2", "p3", "p4", "p5"),
        ),
        predictor=MaskedTransformerDecoder(
            num_classes=K,
            num_queries=6,
            in_channels=64,
            embed_dim=64,
            mask_dim=32,
            num_heads=4,
            feedforward_dim=32,
            num_layers=3,
        ),
    )
    criterion = SetCriterion(num_classes=K, matcher=HungarianMatcher(num_points=32), num_points=32)
    metadata = Metadata(thing_dataset_id_to_contiguous_id={10: 0, 20: 2})
    options = {"metadata": metadata, "panoptic_on": True, "instance_on": True} | kwargs
    return Mask2Former(backbone=make_backbone(), sem_seg_head=head, criterion=criterion, **options)


def make_input(height, width, count, /, **extra):
    instances = Instances((height, width))
    instances.gt_classes = torch.randint(0, K, (count,))
    instances.gt_masks = BitMasks(torch.rand(count, height, width) > 0.5)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "instances": instances} | extra


def test_training_gives_weighted_losses_and_a_gradient_for_every_parameter():
    model = make_model()
    losses = model([make_input(40, 70, 3), make_input(64, 33, 0)])
    kinds = ("loss_ce", "loss_mask", "loss_dice")
    assert set(losses) == {kind + end for kind in kinds for end in ("", "_0", "_1", "_2")}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_training_lowers_the_loss():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    batch = [make_input(64, 64, 2)]
    batch[0]["instances"].gt_masks = BitMasks(torch.zeros(2, 64, 64, dtype=torch.bool))
    batch[0]["instances"].gt_masks.tensor[0, :32] = True
    batch[0]["instances"].gt_masks.tensor[1, 32:] = True
    totals = []
    for _ in range(25):
        total = sum(model(batch).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.6 * totals[0]


def test_inference_gives_all_outputs_at_the_wanted_size():
    model = make_model(object_mask_threshold=0.0, overlap_threshold=0.0).eval()
    with torch.no_grad():
        first, second = model([make_input(40, 70, 0, height=80, width=141), make_input(64, 33, 0)])
    for output, size in ((first, (80, 141)), (second, (64, 33))):
        assert output["sem_seg"].shape == (K, *size)
        panoptic, segments = output["panoptic_seg"]
        assert panoptic.shape == size
        assert set(panoptic.unique().tolist()) - {0} == {each["id"] for each in segments}
        assert {each["category_id"] for each in segments if each["isthing"]} <= {0, 2}
        instances = output["instances"]
        assert instances.image_size == size and instances.pred_masks.shape[1:] == size
        assert set(instances.pred_classes.tolist()) == {0, 2}  # things only: panoptic is on


@pytest.mark.parametrize("switch", ["semantic_on", "panoptic_on", "instance_on"])
def test_switches_choose_the_outputs(switch):
    off = {"semantic_on": False, "panoptic_on": False, "instance_on": False}
    model = make_model(**(off | {switch: True})).eval()
    with torch.no_grad():
        (output,) = model([make_input(32, 40, 0)])
    names = {"semantic_on": "sem_seg", "panoptic_on": "panoptic_seg", "instance_on": "instances"}
    assert set(output) == {names[switch]}
    if switch == "instance_on":
        assert set(output["instances"].pred_classes.tolist()) == set(range(K))


def test_no_switch_is_an_error():
    with pytest.raises(ValueError, match="must be True"):
        make_model(semantic_on=False, panoptic_on=False, instance_on=False)


def test_semantic_map_is_resized_before_or_after_the_sum():
    model = make_model(panoptic_on=False, instance_on=False).eval()
    item = make_input(40, 70, 0, height=60, width=90)
    with torch.no_grad():
        (after,) = model([item])
        model.sem_seg_postprocess_before_inference = True
        (before,) = model([item])
    assert after["sem_seg"].shape == before["sem_seg"].shape == (K, 60, 90)
    assert not torch.equal(after["sem_seg"], before["sem_seg"])
    torch.testing.assert_close(after["sem_seg"], before["sem_seg"], atol=0.1, rtol=0.1)
    assert make_model(panoptic_on=True).sem_seg_postprocess_before_inference


@pytest.mark.parametrize("is_product_first", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (40, 70), (1, 1)])
def test_semantic_scores_are_the_output_at_input_size(size, is_product_first):
    model = make_model(
        panoptic_on=False,
        instance_on=False,
        sem_seg_product_before_upsampling=is_product_first,
        pixel_mean=(1.0, 2.0, 3.0),
    ).eval()
    items = [make_input(*size, 0), make_input(*size, 0)]
    with torch.no_grad():
        scores = model.semantic_scores(
            torch.stack([model.normalize(item["image"]) for item in items])
        )
        outputs = model(items)
    assert scores.shape == (2, K, *size)
    torch.testing.assert_close(scores, torch.stack([output["sem_seg"] for output in outputs]))


def test_product_may_go_before_the_upsampling_beside_other_outputs():
    model = make_model(sem_seg_product_before_upsampling=True).eval()
    item = make_input(40, 70, 0, height=60, width=90)
    with torch.no_grad():
        (output,) = model([item])
        last = model.sem_seg_head(model.backbone(model.preprocess_image([item]).tensor))[-1]
    scores = torch.einsum(
        "qk,qhw->khw", last.pred_logits[0].softmax(-1)[:, :-1], last.pred_masks[0].sigmoid()
    )
    padded = F.interpolate(scores[None], (64, 96), mode="bilinear")[..., :40, :70]
    expected = F.interpolate(padded, (60, 90), mode="bilinear")[0]
    torch.testing.assert_close(output["sem_seg"], expected)
    assert {"panoptic_seg", "instances"} < set(output)


def test_contradicting_orders_are_an_error():
    with pytest.raises(ValueError, match="contradict each other"):
        make_model(
            sem_seg_postprocess_before_inference=True, sem_seg_product_before_upsampling=True
        )


def test_the_last_prediction_is_used():
    model = make_model(panoptic_on=False, instance_on=False).eval()
    item = make_input(64, 96, 0)
    with torch.no_grad():
        scores = model([item])[0]["sem_seg"]
        features = model.backbone(model.preprocess_image([item]).tensor)
        last = model.sem_seg_head(features)[-1]
    masks = MaskUpsampler(last.pred_masks[0], (64, 96), (64, 96), (64, 96))
    torch.testing.assert_close(scores, semantic_inference(last.pred_logits[0], masks))


def test_images_are_normalised_then_padded_with_zeros_to_32():
    model = make_model(pixel_mean=(1.0, 2.0, 3.0), pixel_std=(2.0, 2.0, 4.0))
    items = [make_input(40, 70, 0), make_input(64, 33, 0)]
    batch = model.preprocess_image(items)
    assert batch.tensor.shape == (2, 3, 64, 96)
    image = items[0]["image"].float()
    torch.testing.assert_close(batch.tensor[0, 2, :40, :70], (image[2] - 3) / 4)
    assert (batch.tensor[0, :, 40:] == 0).all() and (batch.tensor[0, :, :, 70:] == 0).all()


def test_result_of_an_image_does_not_depend_on_its_padding():
    model = make_model(panoptic_on=False, instance_on=False).eval()
    item = make_input(64, 96, 0)
    with torch.no_grad():
        alone = model([item])[0]["sem_seg"]
        beside = model([item, make_input(40, 70, 0)])[0]["sem_seg"]
    torch.testing.assert_close(alone, beside)


def test_names_outside_of_the_head_are_those_of_facebook():
    names = set(make_model().state_dict())
    prefixes = {name.split(".")[0] for name in names}
    assert prefixes == {"backbone", "sem_seg_head", "criterion"}
    assert {name for name in names if name.startswith("criterion")} == {"criterion.empty_weight"}
    assert "sem_seg_head.predictor.query_feat.weight" in names
    assert "sem_seg_head.pixel_decoder.transformer.level_embed" in names


def test_masks_may_be_a_plain_tensor_and_fields_may_miss_without_objects():
    model = make_model()
    plain, empty = make_input(64, 64, 2), make_input(64, 64, 0)
    plain["instances"].gt_masks = plain["instances"].gt_masks.tensor
    empty["instances"] = Instances((64, 64))
    assert all(loss.isfinite() for loss in model([plain, empty]).values())


def test_wrong_targets_are_named():
    model = make_model()
    item = make_input(64, 64, 2)
    item["instances"].gt_classes[1] = K
    with pytest.raises(ValueError, match=r"gt_classes must be in \[0, 4\)"):
        model([item])
    item = make_input(64, 64, 1)
    item["instances"].gt_masks = PolygonMasks([[[0.0, 0.0, 9.0, 0.0, 9.0, 9.0]]])
    with pytest.raises(ValueError, match="bitmask.*PolygonMasks"):
        model([item])
    item["instances"].gt_masks = torch.ones(1, 32, 32, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"size of their image, \(64, 64\), got \(1, 32, 32\)"):
        model([item])
    item["instances"].remove("gt_classes")
    with pytest.raises(ValueError, match=r"instances need gt_classes, got \['gt_masks'\]"):
        model([item])
    del item["instances"]
    with pytest.raises(ValueError, match="training needs 'instances'"):
        model([item])


@pytest.mark.parametrize("metadata", [None, Metadata()])
def test_panoptic_output_without_thing_classes_is_an_error(metadata):
    model = make_model(metadata=metadata).eval()
    with pytest.raises(ValueError, match="thing_dataset_id_to_contiguous_id"):
        model([make_input(64, 64, 0)])


@pytest.mark.parametrize("training", [True, False])
def test_bf16_autocast_is_finite(training):
    model = make_model().train(training)
    with torch.autocast("cpu", torch.bfloat16):
        result = model([make_input(40, 70, 3)])
    if training:
        sum(result.values()).backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    else:
        assert result[0]["sem_seg"].isfinite().all()
        assert result[0]["instances"].scores.isfinite().all()
