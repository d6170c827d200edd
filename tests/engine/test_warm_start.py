"""A published run that starts from a whole model of other classes, by a small file of its kind."""

import pytest
import torch
from detectron2.config import instantiate
from original_files import official_backbone, rename

from vitadapter_d2 import model_zoo
from vitadapter_d2.engine.train import do_train

# Detectron2's names to mmdetection's; the inverse of what the package does.
_DETECTOR = [
    (r"^backbone\.fpn_lateral2\.", "neck.1.lateral_convs.0.conv."),
    (r"^backbone\.fpn_lateral3\.", "neck.1.lateral_convs.1.conv."),
    (r"^backbone\.fpn_lateral4\.", "neck.1.lateral_convs.2.conv."),
    (r"^backbone\.fpn_lateral5\.", "neck.1.lateral_convs.3.conv."),
    (r"^backbone\.fpn_output2\.", "neck.1.fpn_convs.0.conv."),
    (r"^backbone\.fpn_output3\.", "neck.1.fpn_convs.1.conv."),
    (r"^backbone\.fpn_output4\.", "neck.1.fpn_convs.2.conv."),
    (r"^backbone\.fpn_output5\.", "neck.1.fpn_convs.3.conv."),
    (r"^(neck\..*)\.conv\.norm\.", r"\1.gn."),
    (r"^backbone\.extra_attention\.", "neck.0."),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn_head.rpn_conv."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn_head.rpn_cls."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn_head.rpn_reg."),
    (r"^roi_heads\.box_head\.(\d)\.conv1\.norm\.", r"roi_head.bbox_head.\1.shared_convs.0.bn."),
    (r"^roi_heads\.box_head\.(\d)\.conv1\.", r"roi_head.bbox_head.\1.shared_convs.0.conv."),
    (r"^roi_heads\.box_head\.(\d)\.fc1\.", r"roi_head.bbox_head.\1.shared_fcs.0."),
    (r"^roi_heads\.box_predictor\.(\d)\.cls_score\.", r"roi_head.bbox_head.\1.fc_cls."),
    (r"^roi_heads\.box_predictor\.(\d)\.bbox_pred\.", r"roi_head.bbox_head.\1.fc_reg."),
    (r"^backbone\.bottom_up\.", "backbone."),
]


def htcpp(num_classes):
    """As the published one: norms in FPN and box heads, averages, a constant rate."""
    cfg = model_zoo.get_config("shapes/htcpp_vit_adapter_shapes")
    cfg.model.backbone.norm = "GN"
    for head, predictor in zip(
        cfg.model.roi_heads.box_heads, cfg.model.roi_heads.box_predictors, strict=True
    ):
        head.conv_norm = "BN"
        predictor.box_reg_loss_type = "giou"
        predictor.test_score_thresh = 0.99  # what is found is not looked at
    cfg.model.roi_heads.num_classes = num_classes
    return cfg


@pytest.fixture(scope="module")
def objects365(tmp_path_factory):
    """A detector of 20 classes without masks and label maps, with averages beside its weights."""
    torch.manual_seed(5)
    state = instantiate(htcpp(20).model).state_dict()
    boxes = {k: v for k, v in state.items() if ".mask_head." not in k and ".semantic" not in k}
    plain = official_backbone(rename(boxes, _DETECTOR))
    averaged = {f"ema_{name.replace('.', '_')}": tensor + 1 for name, tensor in plain.items()}
    file = tmp_path_factory.mktemp("released") / "htc++_o365.pth"
    torch.save({"meta": {"epoch": 26}, "state_dict": plain | averaged}, file)
    return file, boxes


@pytest.fixture
def cfg(objects365, tiny_root, tmp_path):
    """One iteration that changes no weight."""
    cfg = htcpp(8)
    cfg.zoo = dict(load_from=str(objects365[0]))
    cfg.dataloader.train.dataset.names = "tiny_train"
    cfg.dataloader.train.dataset.label_names = "tiny_train_panoptic"
    cfg.dataloader.train.total_batch_size = 1
    cfg.dataloader.train.num_workers = 0
    cfg.dataloader.test.dataset.names = "tiny_val"
    cfg.dataloader.evaluator = []
    cfg.optimizer.lr = 0.0
    cfg.train.update(output_dir=str(tmp_path / "output"), device="cpu", max_iter=1)
    cfg.train.ema.enabled = True
    cfg.train.init_checkpoint = cfg.zoo.load_from
    return cfg


def test_all_that_fits_is_taken_and_the_rest_starts_fresh(cfg, objects365, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        do_train(cfg)
    trained = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)
    _, boxes = objects365
    parameters = dict(instantiate(cfg.model).named_parameters())
    fitting = {name for name in boxes.keys() & parameters.keys() if ".cls_score." not in name}
    assert any("fpn_lateral5.norm" in name for name in fitting)
    assert any("bottom_up.vit.blocks.0" in name for name in fitting)
    for name in fitting:
        assert torch.equal(trained["model"][name], boxes[name]), name
        assert torch.allclose(trained["ema"][name], boxes[name], atol=1e-6), name
    (other,) = [line for line in caplog.messages if "of another size start fresh" in line]
    assert other.startswith("6 tensors") and "(21, 256) in the file, (9, 256) in the model" in other
    (lacking,) = [line for line in caplog.messages if "that the file lacks start fresh" in line]
    assert "roi_heads.mask_head.0." in lacking


def test_without_being_published_so_it_is_refused(cfg):
    del cfg.zoo.load_from
    with pytest.raises(ValueError, match="of another size than the model"):
        do_train(cfg)


def test_another_adapter_is_refused(cfg, objects365, tmp_path):
    content = torch.load(objects365[0], weights_only=True)
    del content["state_dict"]["backbone.level_embed"]
    torch.save(content, tmp_path / "other.pth")
    cfg.train.init_checkpoint = str(tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"do not agree: .* missing in the file"):
        do_train(cfg)


@pytest.mark.parametrize(
    "name",
    [
        "ade20k/mask2former_beit_adapter_large_896_80k_ade20k",
        "ade20k/mask2former_beitv2_adapter_large_896_80k_ade20k",
        "cityscapes/mask2former_beit_adapter_large_896_80k_cityscapes",
        "coco/htcpp_beitv2_adapter_large_fpn_o365_coco",
    ],
)
def test_the_published_ones_start_there(name):
    cfg = model_zoo.get_config(name)
    assert cfg.train.init_checkpoint == cfg.zoo.load_from != cfg.zoo.pretrained
