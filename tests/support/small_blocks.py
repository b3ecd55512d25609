"""A small residual network of equal blocks, and a small transformer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.noise import noise

IMAGES, TOKENS = (noise(2, 3, 8, 8),), (noise(2, 5, 32),)


class Blocks(nn.Module):
    """A small ResNet: three equal blocks of other widths on one residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        widths = (16, 32, 48)
        self.down = nn.ModuleList(nn.Conv2d(24, n, 3, padding=1, bias=False) for n in widths)
        self.bn1 = nn.ModuleList(nn.BatchNorm2d(n) for n in widths)
        self.up = nn.ModuleList(nn.Conv2d(n, 24, 3, padding=1, bias=False) for n in widths)
        self.bn2 = nn.ModuleList(nn.BatchNorm2d(24) for _ in widths)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        for down, bn1, up, bn2 in zip(self.down, self.bn1, self.up, self.bn2, strict=True):
            x = (x + bn2(up(bn1(down(x)).relu()))).relu()
        return self.head(x.mean((2, 3)))


class Transformer(nn.Module):
    """Two blocks of four heads and an MLP each."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (
            nn.ModuleList(nn.Linear(32, 32) for _ in range(2)) for _ in range(4)
        )
        self.up = nn.ModuleList((nn.Linear(32, 64), nn.Linear(32, 96)))
        self.down = nn.ModuleList((nn.Linear(64, 32), nn.Linear(96, 32)))
        self.norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(2):
            y = self.norm(x)
            q, k, v = (
                m[i](y).unflatten(2, (4, 8)).transpose(1, 2) for m in (self.q, self.k, self.v)
            )
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + self.o[i](y)
            x = x + self.down[i](self.up[i](x).relu())
        return x
