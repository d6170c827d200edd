import pytest
import torch
from deform_cases import make_case
from torch.testing import assert_close

from vitadapter_d2.ops import ms_deform_attn, ms_deform_attn_fused


def flat(shapes):
    return [size for shape in shapes for size in shape]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(ops, dtype):
    case = make_case(dtype=dtype).requiring_grad()
    shapes = flat(case.shapes)
    grad = torch.rand(2, 7, 15, dtype=dtype)
    plain = (case.value, shapes, case.locations, case.weights)
    fused = (case.value, shapes, case.points, case.offsets, case.logits)
    torch.library.opcheck(ops.ms_deform_attn.default, plain)
    torch.library.opcheck(ops.ms_deform_attn_fused.default, fused)
    # The backward ops are not differentiable, which test_aot_dispatch would try to see.
    tests = ("test_schema", "test_faketensor")
    with torch.no_grad():
        torch.library.opcheck(ops.ms_deform_attn_backward.default, (grad, *plain), test_utils=tests)
        for needed in (False, True):
            torch.library.opcheck(
                ops.ms_deform_attn_fused_backward.default, (grad, *fused, needed), test_utils=tests
            )


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_in_one_graph(ops, dynamic):
    def run(value, shapes, points, offsets, logits):
        fused = ms_deform_attn_fused(value, shapes, points, offsets, logits)
        return fused + ms_deform_attn(value, shapes, offsets.sigmoid(), logits)

    case = make_case()
    compiled_run = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    results = []
    for function in (run, compiled_run):
        leaves = case.requiring_grad()
        output = function(*leaves.fused)
        output.square().sum().backward()
        results.append([output, *(t.grad for t in leaves.fused if isinstance(t, torch.Tensor))])
    assert_close(results[0], results[1])


def test_exports(ops):
    class Model(torch.nn.Module):
        def forward(self, value, locations, weights):
            return ms_deform_attn(value, [(5, 4), (3, 2)], locations, weights)

    case = make_case()
    arguments = (case.value, case.locations, case.weights)
    program = torch.export.export(Model(), arguments)
    assert_close(program.module()(*arguments), ms_deform_attn(*case.plain))


def test_autocast_leaves_the_arguments_alone(ops):
    case = make_case(dtype=torch.float32)
    expected = ms_deform_attn_fused(*case.fused)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = ms_deform_attn_fused(*case.fused)
    assert output.dtype == torch.float32
    assert torch.equal(output, expected)


@pytest.mark.parametrize("function", [ms_deform_attn, ms_deform_attn_fused])
def test_double_backward_is_refused(ops, function):
    case = make_case().requiring_grad()
    arguments = case.plain if function is ms_deform_attn else case.fused
    (grad,) = torch.autograd.grad(function(*arguments).sum(), case.value, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward is not supported"):
        grad.sum().backward()


def test_only_wanted_gradients_are_returned(ops):
    case = make_case().requiring_grad()
    points = case.points.detach()
    arguments = (case.value, case.shapes, points, case.offsets, case.logits)
    ms_deform_attn_fused(*arguments).sum().backward()
    assert points.grad is None and case.offsets.grad is not None


BAD_PLAIN = {
    "value rank": (0, lambda t: t[0], "value: expected shape"),
    "value dtype": (0, lambda t: t.long(), "value: expected a floating point dtype"),
    "value rows": (0, lambda t: t[:, 1:], "value: expected S = 26"),
    "shapes tensor": (1, torch.tensor, "spatial_shapes: expected a sequence"),
    "no level": (1, lambda s: [], "spatial_shapes: expected one"),
    "a triple": (1, lambda s: [(1, 2, 3)], "spatial_shapes: expected one"),
    "a size of zero": (1, lambda s: [(0, 4), (13, 2)], "spatial_shapes: expected sizes"),
    "locations": (2, lambda t: t[..., :1], "sampling_locations: expected shape"),
    "locations rank": (2, lambda t: t[0], "sampling_locations: expected shape"),
    "locations dtype": (2, lambda t: t.float(), "sampling_locations: expected float64"),
    "locations device": (2, lambda t: t.to("meta"), "sampling_locations: expected device"),
    "weights rank": (3, lambda t: t[0], "attention_weights: expected shape"),
    "weights heads": (3, lambda t: t[:, :, 1:], "attention_weights: expected shape"),
}
BAD_FUSED = {
    "points numbers": (2, lambda t: t[..., :1], "reference_points: expected shape"),
    "points batch": (2, lambda t: torch.cat([t, t]), "reference_points: expected shape"),
    "points queries": (2, lambda t: t[:, 1:], "reference_points: expected shape"),
    "offsets": (3, lambda t: t[:, :, :, :1], "offsets: expected shape"),
    "logits dtype": (4, lambda t: t.int(), "logits: expected float64"),
    "logits rank": (4, lambda t: t[..., None], "logits: expected shape"),
}


@pytest.mark.parametrize("what", BAD_PLAIN)
def test_bad_arguments_of_the_plain_entry_are_named(what):
    place, change, message = BAD_PLAIN[what]
    arguments = list(make_case().plain)
    arguments[place] = change(arguments[place])
    with pytest.raises(ValueError, match=message):
        ms_deform_attn(*arguments)


@pytest.mark.parametrize("what", BAD_FUSED)
def test_bad_arguments_of_the_fused_entry_are_named(what):
    place, change, message = BAD_FUSED[what]
    arguments = list(make_case().fused)
    arguments[place] = change(arguments[place])
    with pytest.raises(ValueError, match=message):
        ms_deform_attn_fused(*arguments)


def test_a_single_precision_value_refuses_double_locations():
    case = make_case()
    with pytest.raises(ValueError, match="attention_weights: expected float32"):
        ms_deform_attn(case.value.float(), *case.plain[1:])


@pytest.mark.parametrize(
    "place,change,message",
    [
        (0, lambda t: t[:, 1:], "value: expected S = 26"),
        (0, lambda t: t.long(), "value: expected float64"),
        (1, lambda s: s[:3], "spatial_shapes: expected 2 sizes per level, got 3"),
        (1, lambda s: [-5, -4, 3, 2], "spatial_shapes: expected sizes of 1 or more"),
        (2, lambda t: t[:, 1:], "sampling_locations: expected size 7"),
        (2, lambda t: t.float(), "sampling_locations: expected float64"),
        (3, lambda t: t[:, :, :, :1], "attention_weights: expected size 2"),
        (3, lambda t: t[0], "attention_weights: expected rank 5"),
    ],
)
def test_the_compiled_op_checks_before_it_reads(compiled, place, change, message):
    case = make_case()
    arguments = [case.value, flat(case.shapes), case.locations, case.weights]
    arguments[place] = change(arguments[place])
    with pytest.raises(RuntimeError, match=message):
        compiled.ms_deform_attn(*arguments)
