import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitadapter_d2.layers.lora import LoRALinear, merge_lora


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def linear(request):
    return nn.Linear(6, 10, bias=request.param)


def trained(linear, rank=3, alpha=6.0):
    lora = LoRALinear(linear, rank, alpha)
    nn.init.normal_(lora.lora_b)
    return lora


def test_update_starts_at_zero(linear):
    x = torch.randn(4, 6)
    expected = linear(x)
    torch.testing.assert_close(LoRALinear(linear, 2, 2)(x), expected, rtol=0, atol=0)


def test_update_is_the_scaled_product(linear):
    x, lora = torch.randn(2, 4, 6), trained(linear)
    weight = linear.weight + 2.0 * lora.lora_b @ lora.lora_a
    torch.testing.assert_close(lora(x), F.linear(x, weight, linear.bias))
    torch.testing.assert_close(lora.weight, weight)


def test_weight_and_forward_have_the_same_gradients(linear):
    x, lora = torch.randn(4, 6), trained(linear)
    called = torch.autograd.grad(lora(x).square().sum(), [lora.lora_a, lora.lora_b])
    output = F.linear(x, lora.weight, lora.bias)  # as the attention of BEiT and EVA does
    read = torch.autograd.grad(output.square().sum(), [lora.lora_a, lora.lora_b])
    torch.testing.assert_close(called, read)


def test_only_the_update_is_trained(linear):
    lora = trained(linear)
    assert {name for name, p in lora.named_parameters() if p.requires_grad} == {"lora_a", "lora_b"}
    lora(torch.randn(4, 6)).sum().backward()
    assert lora.base_weight.grad is None


def test_base_weights_keep_their_names(linear):
    lora = LoRALinear(copy.deepcopy(linear), 2, 2)
    assert set(lora.state_dict()) == {*linear.state_dict(), "lora_a", "lora_b"}
    missing, unexpected = lora.load_state_dict(linear.state_dict(), strict=False)
    assert (set(missing), unexpected) == ({"lora_a", "lora_b"}, [])
    assign = {name: value + 1 for name, value in lora.state_dict().items()}
    lora.load_state_dict(assign, assign=True)
    torch.testing.assert_close(lora.base_weight.data, linear.weight.data + 1)


def test_copies_and_casts_keep_the_update(linear):
    lora = trained(linear)
    double = copy.deepcopy(lora).double()
    torch.testing.assert_close(double.weight, lora.weight.double())
    assert double.base_weight.dtype == torch.float64


def test_merging_folds_the_update_in(linear):
    names = set(nn.Sequential(linear).state_dict())
    model = nn.Sequential(trained(linear))
    x = torch.randn(4, 6)
    expected = model(x)
    merged = merge_lora(model)
    assert merged is model and type(model[0]) is nn.Linear
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(x), expected)
    assert not any(p.requires_grad for p in model.parameters())


def test_merging_a_layer_alone_returns_a_plain_one(linear):
    lora = trained(linear)
    torch.testing.assert_close(merge_lora(lora).weight.data, lora.weight.data)


def test_rank_must_be_positive(linear):
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        LoRALinear(linear, 0, 1)
