import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone

from vitadapter_d2.checkpoint.detection import convert_neck, neck_rules
from vitadapter_d2.checkpoint.rename import rename_key
from vitadapter_d2.modeling.necks import ChannelMapper

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class Given(Backbone):
    """Passes its levels on."""

    size_divisibility = 32

    def __init__(self, channels):
        super().__init__()
        self._out_features = list(STRIDES)
        self._out_feature_strides = STRIDES
        self._out_feature_channels = dict.fromkeys(STRIDES, channels)

    def forward(self, levels):
        return dict(zip(STRIDES, levels, strict=True))


def levels_of(channels, height, width):
    return [torch.randn(2, channels, height * 2**n, width * 2**n) for n in (3, 2, 1, 0)]


@pytest.mark.weights
def test_projections_meet_the_reference(reference_case):
    case = reference_case("neck_channel_mapper_pool")
    neck = ChannelMapper(Given(48), list(STRIDES), 32)
    neck.load_state_dict(convert_neck(case.state_dict))
    outputs = list(neck(case.input).values())
    case.check_outputs(outputs)
    rules = neck_rules(case.state_dict)
    case.check_gradients(outputs, neck, lambda key: rename_key(key, rules))


def test_each_level_is_projected_and_the_last_is_pooled():
    neck = ChannelMapper(Given(6), list(STRIDES), 4)
    levels = levels_of(6, 3, 5)
    outputs = neck(levels)
    for number, level in zip((2, 3, 4, 5), levels, strict=True):
        projection = neck.get_submodule(f"fpn_lateral{number}")
        expected = torch.einsum("oc,bchw->bohw", projection.weight[..., 0, 0], level)
        expected = (expected + projection.bias[:, None, None]).clamp(min=0)
        torch.testing.assert_close(outputs[f"p{number}"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs["p6"], F.max_pool2d(outputs["p5"], 2, 2))


def test_its_description_is_that_of_its_outputs():
    neck = ChannelMapper(Given(6), list(STRIDES), 4)
    shapes = neck.output_shape()
    assert [*shapes] == [*neck(levels_of(6, 2, 2))] == ["p2", "p3", "p4", "p5", "p6"]
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32, 64]
    assert {shape.channels for shape in shapes.values()} == {4}
    assert neck.size_divisibility == neck.padding_constraints["size_divisibility"] == 32


@pytest.mark.parametrize(("size", "pooled"), [((1, 1), (1, 1)), ((1, 5), (1, 2)), ((4, 1), (2, 1))])
def test_the_smallest_level_is_not_pooled_away(size, pooled):
    outputs = ChannelMapper(Given(6), list(STRIDES), 4)(levels_of(6, *size))
    assert tuple(outputs["p6"].shape[2:]) == pooled


def test_with_a_norm_there_is_no_bias():
    neck = ChannelMapper(Given(6), ["res4", "res5"], 4, norm="BN")
    assert sorted(name for name, _ in neck.named_parameters()) == sorted(
        f"fpn_lateral{level}.{part}"
        for level in (4, 5)
        for part in ("weight", "norm.weight", "norm.bias")
    )
    outputs = neck(levels_of(6, 2, 3))
    assert [*outputs] == ["p4", "p5", "p6"]
    normal = neck.fpn_lateral5.norm
    assert normal.running_mean.any()  # it ran


def test_no_level_is_refused():
    with pytest.raises(ValueError, match="at least one level"):
        ChannelMapper(Given(6), [], 4)
