import pytest
import torch

from vitadapter_d2.layers.ms_deform_attn import MSDeformAttn


@pytest.mark.parametrize(
    "name", ["msdeformattn_l1_r050", "msdeformattn_l3_r100", "msdeformattn_refbox_mask"]
)
def test_official_outputs_and_gradients(reference_case, name):
    case = reference_case(name)
    config = case.config
    module = MSDeformAttn(
        config["d_model"],
        config["n_levels"],
        config["n_heads"],
        config["n_points"],
        config["ratio"],
    )
    module.load_state_dict(case.state_dict)
    inputs = [tensor.requires_grad_() for tensor in case.input]
    mask = case.data.get("padding_mask")
    output = module(*inputs, config["spatial_shapes"], mask)
    case.check_outputs([output])
    case.check_gradients([output], module, str)
    case.check_input_gradients(inputs)


def test_initial_points_lie_on_rays_one_pixel_apart():
    module = MSDeformAttn(16, num_levels=2, num_heads=4, num_points=3)
    offsets = module.sampling_offsets.bias.detach().view(4, 2, 3, 2)
    for head, ray in enumerate([(1, 0), (0, 1), (-1, 0), (0, -1)]):
        for point in range(3):
            expected = torch.tensor(ray, dtype=torch.float32) * (point + 1)
            torch.testing.assert_close(
                offsets[head, :, point], expected.expand(2, 2), atol=1e-6, rtol=0
            )


def test_autocast_keeps_locations_in_float32():
    module = MSDeformAttn(32, num_levels=1, num_heads=2)
    torch.nn.init.zeros_(module.sampling_offsets.bias)
    # 1 x 4096 cells: neighbouring centres are one value in bfloat16.
    query = torch.randn(1, 4096, 32)
    centers = (torch.arange(4096) + 0.5) / 4096
    points = torch.stack((centers, torch.full_like(centers, 0.5)), -1)[None, :, None]
    exact = module(query, points, query, [(1, 4096)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = module(query, points, query, [(1, 4096)])
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).abs().max() < 0.05


def test_value_width_must_fit_the_heads():
    with pytest.raises(ValueError, match="value width 10 .* num_heads, got 4"):
        MSDeformAttn(20, num_levels=1, num_heads=4, value_ratio=0.5)
