"""The layers of ML-Decoder: attention of queries to places, and a linear layer for each group of classes."""

from __future__ import annotations

import math

import torch
from torch import nn


class CrossAttention(nn.Module):
    """Queries that gather what they look for from tokens, by multi-head attention."""

    def __init__(self, width: int, n_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Map queries (1, G, W), the same for all images, and tokens (B, N, W) to what was found (B, G, W)."""
        query = split_heads(self.query(queries), self.n_heads).expand(len(tokens), -1, -1, -1)
        key, value = (split_heads(layer(tokens), self.n_heads) for layer in (self.key, self.value))
        return self.output(attend(query, key, value, dropout=self.dropout if self.training else 0.0))


class GroupLinear(nn.Module):
    """A linear layer for each group: class c is output c % D of group c // D, where D is `group_size`."""

    def __init__(self, width: int, n_classes: int, *, group_size: int) -> None:
        super().__init__()
        n_groups, bound = math.ceil(n_classes / group_size), 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(n_groups, width, group_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(n_classes))

    def forward(self, groups: torch.Tensor) -> torch.Tensor:
        """Map groups (B, G, W) to logits (B, C); the last group may have more outputs than classes are left."""
        logits = torch.einsum("bgw,gwd->bgd", groups, self.weight).flatten(1)  # (B, G * D)
        return logits[:, : len(self.bias)] + self.bias


def split_heads(features: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Part the features (B, N, F) of each place among the heads."""
    return features.unflatten(2, (n_heads, -1)).transpose(1, 2)  # (B, H, N, F / H)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, dropout: float = 0.0) -> torch.Tensor:
    """Return for each query (B, H, Q, F / H) the mean of the values that its keys choose."""
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2)  # (B, Q, F)
