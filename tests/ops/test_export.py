import onnx
import onnxruntime
import pytest
import torch
from deform_cases import make_case
from torch.testing import assert_close

from vitadapter_d2.ops import ms_deform_attn, ms_deform_attn_fused
from vitadapter_d2.ops.export import (
    export_decompositions,
    grid_sample_attn,
    grid_sample_attn_fused,
)

SHAPES = [(5, 4), (3, 2)]


class Plain(torch.nn.Module):
    def forward(self, value, locations, weights):
        return ms_deform_attn(value, SHAPES, locations, weights)


class Fused(torch.nn.Module):
    def forward(self, value, points, offsets, logits):
        return ms_deform_attn_fused(value, SHAPES, points, offsets, logits)


def model_and_arguments(fused, **size):
    case = make_case(shapes=SHAPES, **size)
    value, _, *others = case.fused if fused else case.plain
    return (Fused() if fused else Plain()), (value, *others)


@pytest.mark.parametrize("numbers", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_exported_formulation_equals_the_ops(ops, dtype, numbers):
    case = make_case(shapes=SHAPES, numbers=numbers, dtype=dtype)
    flat = [size for shape in SHAPES for size in shape]
    # Offsets in units of small boxes are large numbers: float32 keeps fewer digits of the pixel.
    single = 1e-4 if numbers == 4 else 1e-5
    tolerance = {torch.float64: 1e-9, torch.float32: single, torch.bfloat16: 2**-7}[dtype]
    for op, formulation, (value, _, *others) in (
        (ms_deform_attn, grid_sample_attn, case.plain),
        (ms_deform_attn_fused, grid_sample_attn_fused, case.fused),
    ):
        expected = op(value, SHAPES, *others)
        output = formulation(value, flat, *others)
        assert output.dtype == expected.dtype
        assert_close(output, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("fused", [False, True])
def test_the_exported_formulation_is_differentiable(fused):
    case = make_case(shapes=SHAPES, Q=3, M=2).requiring_grad()
    value, _, *others = case.fused if fused else case.plain
    formulation = grid_sample_attn_fused if fused else grid_sample_attn
    op = ms_deform_attn_fused if fused else ms_deform_attn
    grads = [
        torch.autograd.grad(output.square().sum(), [value, *others])
        for output in (formulation(value, [5, 4, 3, 2], *others), op(value, SHAPES, *others))
    ]
    assert_close(grads[0], grads[1])


@pytest.mark.parametrize("fused", [False, True])
def test_exports_with_dynamic_sizes(fused):
    model, arguments = model_and_arguments(fused, numbers=4)
    batch, queries = torch.export.Dim("batch", max=64), torch.export.Dim("queries", max=4096)
    per_query = {0: batch, 1: queries}
    program = torch.export.export(
        model, arguments, dynamic_shapes=({0: batch}, *[per_query] * (len(arguments) - 1))
    )
    _, others = model_and_arguments(fused, numbers=4, B=3, Q=11)
    assert_close(program.module()(*others), model(*others))


@pytest.mark.parametrize("fused", [False, True])
def test_decomposition_leaves_standard_operators_only(fused):
    model, arguments = model_and_arguments(fused)
    program = torch.export.export(model, arguments)
    assert any("vitadapter_d2" in str(node.target) for node in program.graph.nodes)
    program = program.run_decompositions(export_decompositions())
    assert not any("vitadapter_d2" in str(node.target) for node in program.graph.nodes)
    assert_close(program.module()(*arguments), model(*arguments))


@pytest.mark.parametrize("numbers", [2, 4])
def test_onnx_runs_the_fused_op(tmp_path, numbers):
    model, arguments = model_and_arguments(True, numbers=numbers, dtype=torch.float32)
    program = torch.export.export(model, arguments).run_decompositions(export_decompositions())
    path = tmp_path / "op.onnx"
    torch.onnx.export(program, f=path, dynamo=True, verbose=False)
    graph = onnx.load(path)
    assert {part.domain for part in graph.opset_import} == {""}
    assert "GridSample" in {node.op_type for node in graph.graph.node}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    (output,) = session.run(None, {n: t.numpy() for n, t in zip(names, arguments, strict=True)})
    assert_close(torch.from_numpy(output), model(*arguments), rtol=1e-4, atol=1e-4)
