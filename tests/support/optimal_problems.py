"""Networks with the problems that an allocator is given for them, and all choices there are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fxprune import pipeline
from fxprune.allocators import Choice
from fxprune.allocators.budget import Budget
from fxprune.capture import capture
from fxprune.passes import make as make_pass
from fxprune.passes.allocate import Allocate, beside_original, costed


class Concatenated(nn.Module):
    """Two branches of unequal width, joined and read together; one is read alone too."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.joined, self.alone = nn.Conv2d(10, 5, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Any:
        left, right = self.left(x).relu(), self.right(x).relu()
        joined = self.joined(torch.cat([left, right], 1)).relu()
        return joined.mean((1, 2, 3)) + self.alone(left).mean((1, 2, 3))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)
        self.back, self.head = nn.Conv2d(5, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x).relu()
        return self.head((x + self.back(self.body(x).relu())).mean((2, 3)))


class Grouped(nn.Module):
    """Groups of channels, and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.groups = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.wide = nn.Conv2d(8, 6, 1)
        self.depth, self.head = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.groups(self.stem(x).relu()).relu()
        return self.head(self.depth(self.wide(x).relu()).mean((2, 3)))


class Attending(nn.Module):
    """Heads, the size of heads, what goes round them, and a perceptron."""

    def __init__(self, width: int = 6, heads: int = 3, inner: int = 6, depth: int = 1) -> None:
        super().__init__()
        self.heads, self.stem = heads, nn.Linear(4, width)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, inner) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(inner, width) for _ in range(depth))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for qkv, out, up, down in zip(self.qkv, self.out, self.up, self.down, strict=True):
            q, k, v = qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + out(mixed)
            x = x + down(F.gelu(up(x)))
        return self.head(x.mean(1))


def chain() -> nn.Module:
    widths = (5, 6, 5, 6, 4)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))


IMAGE, TOKENS = (2, 3, 6, 6), (2, 5, 4)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "chain": (chain, (2, 5)),
    "concatenated": (Concatenated, IMAGE),
    "residual": (Residual, IMAGE),
    "grouped": (Grouped, IMAGE),
    "attention": (Attending, TOKENS),
    "resnet18": (torchvision.models.resnet18, (2, 3, 32, 32)),
    "vit": (lambda: Attending(64, 4, 128, 3), TOKENS),
}
TINY = ("chain", "concatenated", "residual", "grouped", "attention")


def problem(net: str, objective: dict[str, Any], **bounds: Any) -> Budget:
    """Return what an allocator is given for a net, its scores those of l2."""
    model, shape = NETS[net]
    scored = pipeline.run(
        capture(model().eval(), (torch.randn(shape),)),
        [make_pass("couple", {}), make_pass("score", {"metric": "l2"})],
    )
    allocate, cost = Allocate(objective=objective, **bounds), costed(scored)
    program = beside_original(scored, cost)
    return allocate._budget(program, cost, *allocate._objective())


def worth(given: Budget, normalize: str = "mean") -> Any:
    found = np.zeros(len(given.cost.whole()))
    for target, scores in zip(given.targets, given.scores, strict=True):
        found[target.units] = scores / (abs(scores).mean() if normalize == "mean" else 1.0)
    return found


def kept(given: Budget, choice: Choice, normalize: str = "mean") -> float:
    return float(worth(given, normalize)[choice.alive].sum())


def every(given: Budget) -> list[Choice]:
    """Return all choices there are, the units of each target leaving in their order."""
    listed = given.moves(1)
    return [
        given.choice([moves.first(n) for moves, n in zip(listed, made, strict=True)])
        for made in product(*(range(len(moves) + 1) for moves in listed))
    ]
