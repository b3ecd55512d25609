"""Small networks whose units are shared: by a residual sum, and by a fused projection."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.noise import noise

X = (noise(2, 3, 6, 6),)
TOKENS = (noise(2, 5, 6),)


class Chain(nn.Module):
    """Three hidden features whose weights are small whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 1)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.0], [0.0, 4.0]]))
            self.first.bias.copy_(torch.tensor([-5.0, 1.0, 0.0]))
            self.last.weight.copy_(torch.tensor([[2.0, -1.0, 6.0]]))
            self.last.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


class Residual(nn.Module):
    """Channels that two convolutions make, two norms scale, and one more convolution reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.body, self.other = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)
        for norm in (self.norm, self.other):
            nn.init.normal_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.other(self.body(x))
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Two heads of three, found in a fused projection."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(6, 18), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.mixed(x).transpose(1, 2).flatten(2))

    def mixed(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 3)).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v)


class Tied(nn.Module):
    """Classify with the weights of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden = nn.Embedding(10, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Any:
        return self.head(self.hidden(self.table(ids)).relu())


class Fixed(nn.Module):
    """Compute with the batch size, which the capture then fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu()) * torch.ones(int(x.shape[0]) // 2 * 2, 1)


class Fused(nn.Module):
    """A fused QKV of four heads of eight."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 96), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Any:
        q, k, v = self.qkv(x).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def shuffled(model: Any, order: list[int]) -> Any:
    """Return a `Residual` of the same function, its channels in another order."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for module in (twin.stem, twin.norm, twin.body, twin.other):
            for tensor in module.state_dict().values():
                if tensor.ndim:
                    tensor.copy_(tensor[order].clone())
        twin.body.weight.copy_(twin.body.weight[:, order].clone())
        twin.head.weight.copy_(twin.head.weight[:, order].clone())
    torch.testing.assert_close(twin(X[0]), model(X[0]))
    return twin
