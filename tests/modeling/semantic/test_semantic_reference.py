"""Parity with the official heads and segmentor, by cases with random weights."""

import pytest
import torch
from detectron2.modeling import FPN, Backbone
from timm.models.vision_transformer import VisionTransformer

from vitadapter_d2.checkpoint.detection import convert_neck
from vitadapter_d2.checkpoint.official import convert_official
from vitadapter_d2.checkpoint.semantic import convert_semantic_head
from vitadapter_d2.modeling.backbone import (
    SpatialPriorModule,
    ViTAdapter,
    interaction_blocks,
    plain_vit,
)
from vitadapter_d2.modeling.semantic import (
    FCNHead,
    SemanticFPNHead,
    SemanticSegmentor,
    UPerNetHead,
)

pytestmark = pytest.mark.weights

LEVELS = ("res2", "res3", "res4", "res5")
PARTS = {
    "neck": ("backbone.", convert_neck),
    "decode_head": ("sem_seg_head.", convert_semantic_head),
    "auxiliary_head": ("auxiliary_head.", convert_semantic_head),
}


def new_names(keys):
    """Official names -> ours; part by part, as a neck is told by all of its names."""
    names = {}
    for part, (prefix, convert) in PARTS.items():
        own = [key for key in keys if key.startswith(f"{part}.")]
        numbers = {key.removeprefix(f"{part}."): torch.tensor(i) for i, key in enumerate(own)}
        names |= {own[i]: prefix + key for key, i in convert(numbers).items()}
    return names


class Maps(Backbone):
    """Stands before a neck or head whose case starts at the maps."""

    def __init__(self, maps):
        super().__init__()
        self.maps = dict(zip(LEVELS, maps, strict=True))
        self._out_feature_strides = dict(zip(LEVELS, (4, 8, 16, 32), strict=True))
        self._out_feature_channels = {name: m.shape[1] for name, m in self.maps.items()}
        self._out_features = list(LEVELS)

    def forward(self, image):
        return self.maps


def upernet(backbone):
    return SemanticSegmentor(
        backbone=backbone,
        sem_seg_head=UPerNetHead(48, 7, channels=32),
        auxiliary_head=FCNHead(48, 7, channels=24),
    )


def semantic_fpn(maps):
    backbone = FPN(Maps(maps), LEVELS, out_channels=32)
    return SemanticSegmentor(backbone=backbone, sem_seg_head=SemanticFPNHead(32, 7, channels=24))


def load(model, case):
    names = new_names(case.state_dict)
    model.load_state_dict({names[key]: value for key, value in case.state_dict.items()})
    return model.eval()


def check_outputs_and_gradients(case, model, outputs):
    case.check_outputs(outputs)
    names = new_names(case.state_dict)
    case.check_gradients(outputs, model, names.__getitem__)
    parameters = dict(model.named_parameters())
    assert len(case.grad_abs_sum) == len(parameters)
    for name, expected in case.grad_abs_sum.items():
        total = parameters[names[name]].grad.abs().sum().item()
        assert total == pytest.approx(expected, rel=1e-3), name


def test_upernet_with_auxiliary_head(reference_case):
    case = reference_case("uper_fcn_head")
    model = load(upernet(Maps(case.input)), case)
    assert sum(parameter.numel() for parameter in model.parameters()) == case.n_params
    features = model.backbone(None)
    outputs = [model.sem_seg_head(features), model.auxiliary_head(features)]
    check_outputs_and_gradients(case, model, outputs)


def test_semantic_fpn_with_detectron2_neck(reference_case):
    case = reference_case("semfpn_head_bn")
    model = load(semantic_fpn(case.input), case)
    assert sum(parameter.numel() for parameter in model.parameters()) == case.n_params
    features = model.backbone(None)
    outputs = [model.sem_seg_head(features), *features.values()]
    check_outputs_and_gradients(case, model, outputs)


@pytest.mark.parametrize("name", ["uper_fcn_head", "semfpn_head_bn"])
def test_losses_average_over_all_pixels(reference_case, name):
    case = reference_case(name)
    model = load(upernet(Maps(case.input)) if "uper" in name else semantic_fpn(case.input), case)
    labels = case.gt.squeeze(1)
    assert (labels == 255).any(), "the case must tell the two averages apart"
    model.training = True  # of the segmentor alone: the case has the norms' stored statistics
    images = torch.zeros(len(labels), 3, *labels.shape[-2:])
    batch = [{"image": i, "sem_seg": label} for i, label in zip(images, labels, strict=True)]
    losses = [loss.item() for loss in model(batch).values()]
    expected = [float(value) for key, value in case.losses.items() if "loss" in key]
    assert losses == pytest.approx(expected, rel=1e-4)


@pytest.fixture
def segmentor():
    vit = VisionTransformer(
        img_size=224, patch_size=16, embed_dim=48, depth=4, num_heads=4, num_classes=0
    )
    return upernet(
        ViTAdapter(
            vit=plain_vit(vit),
            spatial_prior=SpatialPriorModule(embed_dim=48, channels=8),
            interactions=interaction_blocks(
                48, [(i, i) for i in range(4)], num_heads=6, deform_ratio=0.5
            ),
            added_stages=(0, 1, 2, 3),
        )
    )


def test_whole_image_output_at_original_size(reference_case, segmentor):
    case = reference_case("segmentor_upernet_slide")
    segmentor.load_state_dict(convert_official(case.state_dict))
    segmentor.eval()
    image = case.input[0] * segmentor.pixel_std + segmentor.pixel_mean
    height, width = case.ori_shape[:2]
    with torch.no_grad():
        (output,) = segmentor([{"image": image, "height": height, "width": width}])
    (expected,) = dict(zip(case.out_names, case.outputs, strict=True))["whole_prob"]
    torch.testing.assert_close(output["sem_seg"].softmax(0), expected, atol=1e-4, rtol=1e-4)
