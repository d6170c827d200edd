import pytest
import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer_sam import Block as SamBlock
from torch.overrides import TorchFunctionMode

from vitadapter_d2.modeling.backbone.attention import DecomposedBiasAttention, SelfAttention, Window


def naive_windows(attn, tokens, grid, window, pad_projected):
    """Loop over windows and pixels; softmax written out."""
    height, width = grid
    rows, columns = -(-height // window), -(-width // window)
    projected = attn.qkv(tokens)
    padding = torch.zeros_like(projected[0, 0]) if pad_projected else attn.qkv.bias
    output = torch.zeros_like(tokens)
    for row in range(rows):
        for column in range(columns):
            cells = [
                (row * window + i, column * window + j)
                for i in range(window)
                for j in range(window)
            ]
            inside = [y < height and x < width for y, x in cells]
            qkv = torch.stack(
                [
                    projected[:, y * width + x] if ok else padding.expand(len(tokens), -1)
                    for (y, x), ok in zip(cells, inside, strict=True)
                ],
                dim=1,
            )
            query, key, value = qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
            weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
            mixed = (weights @ value).transpose(1, 2).flatten(2)
            for index, ((y, x), ok) in enumerate(zip(cells, inside, strict=True)):
                if ok:
                    output[:, y * width + x] = mixed[:, index]
    return attn.proj(output)


@pytest.mark.parametrize("pad_projected", [True, False])
@pytest.mark.parametrize("grid", [(4, 4), (5, 3)])
def test_windows_equal_the_naive_formulation(grid, pad_projected):
    attn = Attention(16, num_heads=2, qkv_bias=True)
    torch.nn.init.normal_(attn.qkv.bias)
    tokens = torch.randn(2, grid[0] * grid[1], 16)
    expected = naive_windows(attn, tokens, grid, 4, pad_projected)
    actual = SelfAttention(attn, Window(4, pad_projected))(tokens, grid, 0)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("gated", [False, True])
def test_global_attention_equals_timm(gated):
    attn = Attention(
        16, num_heads=2, qkv_bias=True, qk_norm=True, norm_layer=torch.nn.LayerNorm, gated=gated
    )
    tokens = torch.randn(2, 12, 16)
    torch.testing.assert_close(SelfAttention(attn)(tokens, (3, 4), 0), attn(tokens))


def test_no_attention_matrix_is_built():
    class LargestLastTwo(TorchFunctionMode):
        calls = 0
        largest = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            self.calls += func is F.scaled_dot_product_attention
            if isinstance(result, torch.Tensor) and result.ndim >= 2:
                self.largest = max(self.largest, result.shape[-1] * result.shape[-2])
            return result

    attention = SelfAttention(Attention(8, num_heads=2, qkv_bias=True))
    with LargestLastTwo() as mode:
        attention(torch.randn(1, 400, 8), (20, 20), 0)
    assert mode.calls == 1
    assert mode.largest < 400 * 400


def test_windows_refuse_prefix_tokens():
    attention = SelfAttention(Attention(8, num_heads=2), Window(4, pad_projected=True))
    with pytest.raises(ValueError, match="no place for prefix tokens, got 1"):
        attention(torch.randn(1, 17, 8), (4, 4), 1)


@pytest.mark.parametrize("window", [None, 3])
def test_decomposed_bias_equals_timm_on_any_grid(window):
    torch.manual_seed(0)
    block = SamBlock(16, 2, use_rel_pos=True, window_size=window or 0, input_size=(4, 4)).eval()
    for table in (block.attn.rel_pos_h, block.attn.rel_pos_w):
        torch.nn.init.normal_(table)
    tokens = torch.randn(2, 5 * 7, 16, requires_grad=True)
    maps = tokens.unflatten(1, (5, 7))
    timms = block.attn
    block.mlp = torch.nn.Identity()
    expected = block(maps).flatten(1, 2)
    ours = DecomposedBiasAttention(timms, window and Window(window, pad_projected=False))
    inner = tokens + ours(block.norm1(tokens), (5, 7), 0)
    actual = inner + block.norm2(inner)
    torch.testing.assert_close(actual, expected)
    sources = (tokens, timms.rel_pos_h, timms.rel_pos_w, timms.qkv.weight)
    for ours_grad, timms_grad in zip(
        torch.autograd.grad(actual.square().sum(), sources),
        torch.autograd.grad(expected.square().sum(), sources),
        strict=True,
    ):
        torch.testing.assert_close(ours_grad, timms_grad, atol=1e-4, rtol=1e-4)
