"""Small models that are called in any way, and what they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

X = torch.ones(4, 8)
HALF = {"objective": {"ratio": 0.5}}


class Called(nn.Module):
    """Two layers, and a forward given by a test."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)
        self.given = forward

    def body(self, x: Tensor) -> Any:
        return self.last(self.first(x).relu())


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


class Counting(Called):
    def __init__(self) -> None:
        super().__init__(len)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Any:
        self.calls.add_(1)
        return self.body(x)
