import pytest
import torch

from vitadapter_d2.checkpoint.rename import rename_key
from vitadapter_d2.checkpoint.vit_adapter import SPATIAL_PRIOR_RULES, convert_spatial_prior
from vitadapter_d2.layers.levels import flatten_levels
from vitadapter_d2.modeling.backbone import SpatialPriorModule


@pytest.mark.weights
def test_official_outputs_and_gradients(reference_case):
    case = reference_case("spm")
    module = SpatialPriorModule(48, channels=16).eval()
    module.load_state_dict(convert_spatial_prior(case.state_dict))
    res2, *coarser = module(case.input)
    outputs = [res2, *(flatten_levels([level]) for level in coarser)]
    case.check_outputs(outputs)

    def rename(key):
        return rename_key(f"spm.{key}", SPATIAL_PRIOR_RULES).removeprefix("spatial_prior.")

    case.check_gradients(outputs, module, rename)


def test_norm_is_a_parameter():
    module = SpatialPriorModule(8, channels=32, norm="GN")
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in module.modules())
    assert [level.shape[-1] for level in module(torch.randn(1, 3, 32, 32))] == [8, 4, 2, 1]
