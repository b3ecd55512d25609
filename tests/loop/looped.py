"""A small network, its data, and a loop that trains it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.noise import noise


class Net(nn.Module):
    """A stem, a residual block and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.wide, self.back = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 1)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.back(F.relu(self.wide(x)))
        return self.head(self.drop(x.mean((2, 3))))


def network() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    made = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 3, 8, 8, generator=made), torch.randint(5, (8,), generator=made))
        for _ in range(count)
    ]


def loss(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


X = (noise(2, 3, 8, 8),)


def train(module: nn.Module, step: int) -> None:
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    for batch in batches():
        optimizer.zero_grad()
        loss(module, batch).backward()
        optimizer.step()
