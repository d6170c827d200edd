"""Plain multi-layer perceptron."""

import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between them; the heads of the DETR family use it.

    Args:
        in_dim: width of the input.
        hidden_dim: width between the layers.
        out_dim: width of the output.
        num_layers: number of linear layers, at least 1.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(
            nn.Linear(width, after) for width, after in zip(widths, widths[1:], strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_dim)`` to ``(..., out_dim)``."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)
