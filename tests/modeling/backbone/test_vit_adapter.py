import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from vitadapter_d2.checkpoint.rename import rename_key
from vitadapter_d2.checkpoint.vit_adapter import BACKBONE_RULES, convert_backbone
from vitadapter_d2.modeling.backbone import (
    SpatialPriorModule,
    ViTAdapter,
    interaction_blocks,
    plain_vit,
)


def build(
    embed_dim=48,
    layer_scale=None,
    windows=(None,),
    added_stages=(-1, -1, -1, -1),
    deform_heads=6,
    keep_prefix_tokens=False,
    recompute=False,
    outputs=("res2", "res3", "res4", "res5"),
    **vit_options,
):
    vit = VisionTransformer(
        img_size=vit_options.pop("img_size", 224),
        embed_dim=embed_dim,
        depth=4,
        num_heads=4,
        num_classes=0,
        init_values=layer_scale,
        **vit_options,
    )
    return ViTAdapter(
        plain_vit(
            vit,
            window_sizes=windows,
            keep_prefix_tokens=keep_prefix_tokens,
            recompute_blocks=recompute,
        ),
        SpatialPriorModule(embed_dim, channels=8),
        interaction_blocks(
            embed_dim,
            [(index, index) for index in range(4)],
            num_heads=deform_heads,
            recompute_attention=recompute,
        ),
        added_stages=added_stages,
        out_features=outputs,
    )


@pytest.mark.weights
@pytest.mark.parametrize(
    ("name", "windows", "added_stages"),
    [
        ("vit_adapter_seg", (None,), (0, 1, 2, 3)),
        ("vit_adapter_det_window", (4, None), (-1, -1, -1, -1)),
    ],
)
def test_official_outputs_and_gradients(reference_case, name, windows, added_stages):
    case = reference_case(name)
    model = build(windows=windows, added_stages=added_stages).eval()
    model.load_state_dict(convert_backbone(case.state_dict))
    outputs = list(model(case.input).values())
    case.check_outputs(outputs)
    case.check_gradients(outputs, model, lambda key: rename_key(key, BACKBONE_RULES))


@pytest.mark.parametrize("size", [(64, 96), (1, 1), (33, 65), (97, 31)])
def test_any_image_size_gives_four_strides(size):
    model = build(windows=(2, None)).eval()
    outputs = model(torch.randn(1, 3, *size))
    for name, stride in zip(("res2", "res3", "res4", "res5"), (4, 8, 16, 32), strict=True):
        assert outputs[name].shape == (1, 48, -(-size[0] // stride), -(-size[1] // stride))
        assert model.output_shape()[name].stride == stride
        assert model.output_shape()[name].channels == 48


def test_odd_sizes_equal_the_zero_padded_image():
    model = build().eval()
    image = torch.randn(1, 3, 50, 70)
    padded = torch.zeros(1, 3, 64, 96)
    padded[:, :, :50, :70] = image
    cropped, whole = model(image), model(padded)
    for name, output in cropped.items():
        height, width = output.shape[-2:]
        torch.testing.assert_close(output, whole[name][:, :, :height, :width], rtol=0, atol=0)


@pytest.mark.parametrize("added_stages", [(0, 1, 2, 3), None])
@pytest.mark.parametrize("keep_prefix_tokens", [False, True])
def test_every_parameter_gets_a_gradient(added_stages, keep_prefix_tokens):
    model = build(
        added_stages=added_stages,
        keep_prefix_tokens=keep_prefix_tokens,
        reg_tokens=2,
        layer_scale=0.5,
    )
    for interaction in model.interactions:
        torch.nn.init.ones_(interaction.injector.gamma)  # at 0 nothing flows through the injector
    outputs = model(torch.randn(2, 3, 64, 64))
    sum(output.square().sum() for output in outputs.values()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert not silent


@pytest.mark.parametrize("added_stages", [(0, 1, 2, 3), (-1, -1, -1, -1), None])
@pytest.mark.parametrize("names", [("res3", "res4", "res5"), ("res5", "res2"), ("res4",)])
def test_chosen_outputs_are_those_of_all(added_stages, names):
    every = build(added_stages=added_stages)
    chosen = build(added_stages=added_stages, outputs=names)
    chosen.load_state_dict(every.state_dict())  # the parameters are the same
    image = torch.randn(2, 3, 50, 70)
    expected, outputs = every(image), chosen(image)
    assert [*outputs] == [*chosen.output_shape()] == sorted(names)
    for name, output in outputs.items():
        assert torch.equal(output, expected[name])


def test_what_unused_outputs_alone_need_is_frozen_and_the_rest_gets_gradients():
    model = build(added_stages=(0, 1, 2, 3), outputs=("res3", "res4", "res5"))
    outputs = model(torch.randn(2, 3, 64, 64))
    sum(output.square().sum() for output in outputs.values()).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None}
    assert silent == {name for name, p in model.named_parameters() if not p.requires_grad}
    modules = {name.rpartition(".")[0] for name in silent}
    assert modules == {"norms.res2", "up", "spatial_prior.proj_res2"}


@pytest.mark.parametrize("names", [(), ("res2", "res6")])
def test_unknown_outputs_are_refused(names):
    with pytest.raises(ValueError, match=r"must be some of \['res2', .*'res5'\], got"):
        build(outputs=names)


def test_zero_gamma_leaves_the_vit_untouched():
    model = build().eval()
    image = torch.randn(1, 3, 64, 64)
    tokens, grid = model.vit.embed(image)
    expected = model.vit.run(tokens, grid, 0, 3)
    captured = []
    model.interactions[-1].register_forward_hook(lambda *call: captured.append(call[2][0]))
    model(image)
    torch.testing.assert_close(captured[0], expected)


def test_gradients_of_one_image_are_half_of_those_of_it_twice():
    model = build().eval()
    image = torch.randn(1, 3, 64, 96)
    weights = [torch.randn(output.shape) for output in model(image).values()]
    gradients = []
    for batch in (image, image.expand(2, -1, -1, -1)):
        model.zero_grad()
        outputs = model(batch).values()
        pairs = zip(outputs, weights, strict=True)
        sum((output * weight).sum() for output, weight in pairs).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(2 * one, two, atol=1e-3, rtol=1e-3)


def test_recomputing_activations_changes_no_number():
    plain, recomputed = build().train(), build(recompute=True).train()
    recomputed.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 64, 64)
    for model, forwards in ((plain, 1), (recomputed, 2)):
        calls = []
        watched = (model.vit.blocks[1].norm1, model.interactions[1].injector.attn)
        for module in watched:
            module.register_forward_hook(lambda *call, calls=calls: calls.append(call[0]))
        sum(output.square().mean() for output in model(image).values()).backward()
        assert [calls.count(module) for module in watched] == [forwards, forwards]
    gradients = dict(recomputed.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name].grad, parameter.grad)


def test_backbone_compiles_without_graph_breaks():
    model = build(windows=(2, None)).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(image)
    torch.testing.assert_close(compiled, expected)


def test_spans_must_cover_the_trunk():
    vit = plain_vit(VisionTransformer(embed_dim=48, depth=4, num_heads=4, num_classes=0))
    blocks = interaction_blocks(48, [(0, 1), (3, 3)], num_heads=6)
    with pytest.raises(ValueError, match="must cover the trunk's 4 blocks"):
        ViTAdapter(vit, SpatialPriorModule(48, 8), blocks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(added_stages=(0, 1, 2, 4)), r"4 indices in \[-4, 3\] of the 4 .*got \(0, 1, 2, 4\)"),
        (dict(added_stages=(0, 1)), "added_stages needs 4 indices"),
    ],
)
def test_stages_must_exist(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_widths_must_agree():
    vit = plain_vit(VisionTransformer(embed_dim=48, depth=1, num_heads=4, num_classes=0))
    blocks = interaction_blocks(48, [(0, 0)], num_heads=6)
    with pytest.raises(ValueError, match="spatial_prior has width 32, the trunk 48"):
        ViTAdapter(vit, SpatialPriorModule(32, 8), blocks)
