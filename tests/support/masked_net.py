"""A small network to mask, and a loop that trains it with all that could move a masked weight."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.noise import noise


class Net(nn.Module):
    """Two convolutions with a norm, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 10, 3, bias=False), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(self.second(x)).mean((2, 3)))


def network() -> Net:
    torch.manual_seed(0)
    return Net().eval()


X = (noise(2, 3, 8, 8),)


def train(module: nn.Module, step: int = 0) -> None:
    """Train with everything that could move a weight that should stay zero."""
    made = torch.Generator().manual_seed(step)
    free = module.parameters()
    optimizer = torch.optim.SGD(free, 0.05, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        images = torch.randn(8, 3, 8, 8, generator=made)
        labels = torch.randint(5, (8,), generator=made)
        optimizer.zero_grad()
        F.cross_entropy(module(images), labels).backward()
        optimizer.step()


def zeroed(slim: Any) -> bool:
    """Tell whether all that the plan's masks drop is zero."""
    parameters = dict(slim.named_parameters())
    return all(bool((parameters[name][~mask] == 0).all()) for name, mask in slim.plan.masks.items())
