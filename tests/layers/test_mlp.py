import torch

from vitadapter_d2.layers.mlp import MLP


def test_relu_lies_between_layers_and_not_after_the_last():
    torch.manual_seed(0)
    mlp = MLP(3, 8, 2, num_layers=3)
    shapes = [tuple(layer.weight.shape) for layer in mlp.layers]
    assert shapes == [(8, 3), (8, 8), (2, 8)]
    x = torch.randn(4, 5, 3)
    first, second, last = mlp.layers
    expected = last(second(first(x).clamp(min=0)).clamp(min=0))
    torch.testing.assert_close(mlp(x), expected)
    assert (expected < 0).any()
