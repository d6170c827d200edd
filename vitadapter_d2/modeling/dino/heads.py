"""Heads that classify and locate a feature vector, as they start."""

import math

import torch
from torch import nn

from vitadapter_d2.layers.mlp import MLP

PRIOR_PROBABILITY = 0.01  # of every class at the start


def class_head(embed_dim: int, num_classes: int) -> nn.Linear:
    """``(..., C)`` to logits ``(..., K)``, all near ``PRIOR_PROBABILITY`` (focal loss's start)."""
    head = nn.Linear(embed_dim, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
    return head


def box_head(embed_dim: int) -> MLP:
    """``(..., C)`` to ``(..., 4)``, offsets of box logits; zero at the start."""
    head = MLP(embed_dim, embed_dim, 4, num_layers=3)
    with torch.no_grad():
        for parameter in head.layers[-1].parameters():
            parameter.zero_()
    return head
