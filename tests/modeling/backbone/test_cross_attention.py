"""Attention objects against their formulation with a mask."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from torch.utils.flop_counter import FlopCounterMode

from vitadapter_d2.modeling.backbone.cross_attention import (
    CrossAttention,
    CrossShaped,
    Deformable,
    Global,
    Levels,
    PaleShaped,
)

GRIDS = [
    ([(4, 6)], [(8, 12), (4, 6), (2, 3)]),  # the usual, multiples of 32
    ([(5, 7)], [(11, 13), (5, 7), (3, 4)]),  # nothing divides anything
    ([(1, 1)], [(2, 2), (1, 1), (1, 1)]),
]
PATTERNS = [
    Global(),
    CrossShaped(1),
    CrossShaped(2),
    CrossShaped(100),
    PaleShaped(1),
    PaleShaped(2),
    PaleShaped(100),
]


def levels(shapes, device="cpu"):
    return Levels.of(shapes, torch.device(device))


def groups_of(pattern, shapes, axis, num_bands):
    """The group of every token, from the coordinates of its centre."""
    centers = levels(shapes).centers[0, :, 0].double().flip(-1)[:, axis]  # y, then x
    band = (centers * num_bands).floor().long()
    if isinstance(pattern, CrossShaped):
        return band // pattern.stripe_width
    if isinstance(pattern, PaleShaped):
        return band % -(-num_bands // pattern.lines)
    return torch.zeros_like(band)


def brute_force(attn, query, queries, value, values):
    """The whole matrix of logits, masked where query and value are in different groups."""
    heads = attn.num_heads
    q = attn.query_proj(query).unflatten(-1, (heads, -1))
    k = attn.key_proj(value).unflatten(-1, (heads, -1))
    v = attn.value_proj(value).unflatten(-1, (heads, -1))
    logits = torch.einsum("bqmd,bsmd->bmqs", q, k) * q.shape[-1] ** -0.5
    masks = []
    for axis in (0, 1):
        num_bands = min(shape[axis] for shape in (*queries, *values))
        query_group = groups_of(attn.pattern, queries, axis, num_bands)
        value_group = groups_of(attn.pattern, values, axis, num_bands)
        masks.append(query_group[:, None] == value_group)
    mask = torch.stack(masks).repeat_interleave(heads // 2, dim=0)  # (M, Q, S)
    weights = logits.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return attn.output_proj(torch.einsum("bmqs,bsmd->bqmd", weights, v).flatten(2))


@pytest.mark.parametrize("grids", GRIDS, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("swapped", [False, True], ids=["injector", "extractor"])
def test_regions_equal_the_masked_matrix(pattern, grids, swapped):
    queries, values = grids[::-1] if swapped else grids
    attn = CrossAttention(16, 4, pattern).double()
    inputs = [
        torch.randn(2, sum(h * w for h, w in shapes), 16, dtype=torch.float64).requires_grad_()
        for shapes in (queries, values)
    ]
    actual = attn(inputs[0], levels(queries), inputs[1], levels(values))
    expected = brute_force(attn, inputs[0], queries, inputs[1], values)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(expected)
    leaves = [*inputs, *attn.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((actual * weights).sum(), leaves),
        torch.autograd.grad((expected * weights).sum(), leaves),
    )


def test_a_query_reaches_its_rows_and_columns_and_no_other_pixel():
    """Of an 8 x 8 map with two pales: rows 0, 2, 4, 6 or columns 1, 3, 5, 7 for one query."""
    attn = CrossAttention(8, 2, PaleShaped(4))
    query, value = torch.randn(1, 64, 8), torch.randn(1, 64, 8).requires_grad_()
    sizes = levels([(8, 8)])
    attn(query, sizes, value, sizes)[0, 2 * 8 + 3].sum().backward()
    reached = value.grad[0].abs().sum(-1).view(8, 8) > 0
    rows, columns = torch.arange(8)[:, None], torch.arange(8)
    torch.testing.assert_close(reached, (rows % 2 == 0) | (columns % 2 == 1))


def multiply_adds(builder):
    """Of 4 injectors and 6 extractors of ViT-Adapter-S at 800 x 1280, without sampling."""
    grid, pyramid = [(50, 80)], [(100, 160), (50, 80), (25, 40)]
    with torch.device("meta"):
        injector, extractor = builder(384, 6, 3), builder(384, 6, 1)
        tokens, cells = torch.empty(1, 4000, 384), torch.empty(1, 21000, 384)
        counts = []
        for attn, query, queries, value, values in (
            (injector, tokens, grid, cells, pyramid),
            (extractor, cells, pyramid, tokens, grid),
        ):
            with FlopCounterMode(display=False) as counter:
                attn(query, levels(queries, "meta"), value, levels(values, "meta"))
            counts.append(counter.get_total_flops() / 2)
    return 4 * counts[0] + 6 * counts[1]


@pytest.mark.parametrize(("pattern", "printed_giga"), [(Global(), 1080), (CrossShaped(1), 456)])
def test_cost_is_that_of_the_ablation(pattern, printed_giga):
    added = multiply_adds(pattern) - multiply_adds(Deformable())
    assert 403 + added / 1e9 == pytest.approx(printed_giga, rel=0.005)


@pytest.mark.parametrize("pattern", [Global(), CrossShaped(2), PaleShaped(2)], ids=str)
def test_attention_compiles_without_graph_breaks(pattern):
    grid, pyramid = GRIDS[1]
    sides = torch.randn(1, 35, 8), levels(grid), torch.randn(1, 190, 8), levels(pyramid)
    attn = CrossAttention(8, 2, pattern).eval()
    with torch.no_grad():
        compiled = torch.compile(attn, fullgraph=True, backend="eager")(*sides)
        torch.testing.assert_close(compiled, attn(*sides))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossShaped(0), "stripe_width must be at least 1, got 0"),
        (lambda: PaleShaped(-1), "lines must be at least 1, got -1"),
        (lambda: CrossAttention(16, 3, Global()), "16 must be a multiple of num_heads, got 3"),
    ],
)
def test_bad_sizes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_stripes_need_an_even_number_of_heads():
    sizes = levels([(2, 2)])
    with pytest.raises(ValueError, match="heads must be even, got 3"):
        CrossAttention(9, 3, CrossShaped())(
            torch.zeros(1, 4, 9), sizes, torch.zeros(1, 4, 9), sizes
        )


def test_builders_are_configurable():
    built = instantiate(L(PaleShaped)(lines=3))(16, 4, 1)
    assert built.pattern == PaleShaped(3)
