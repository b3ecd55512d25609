"""Small networks of which a paper says what must stay, and what is shared by their tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune

TABLE = [
    *("level", "l1", "l2", "fpgm", "slim", "apoz", "mean-activation", "taylor-fo", "admm"),
    *("movement", "linear", "agp", "lottery-ticket", "simulated-annealing", "auto-compress"),
    *("amc", "netadapt", "sensitivity", "transformer-head", "soft-movement", "recover"),
    *("repair", "obs"),
]


class Mlp(nn.Module):
    """Eight hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


class Normed(nn.Module):
    """Eight channels that a norm scales."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu())


class Idle(nn.Module):
    """Two hidden layers of sixty-four, of which three quarters of the second do nothing at all."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 4)
        with torch.no_grad():
            self.c.weight[:, 16:] = 0.0
            self.b.weight[16:] *= 0.01  # which every metric of weights sees
            self.b.bias[16:] *= 0.01

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


class Attention(nn.Module):
    """Four heads of two, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 4, 2)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(self.up(x).relu())


@dataclass
class Tuned:
    """Fine-tune by plain SGD, and write down what the weights were before and after each call."""

    loss: Callable[[Any], Tensor]
    lr: float = 0.1
    watched: str = "first.weight"
    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)

    def __call__(self, module: nn.Module, step: int) -> None:
        self.before.append(module.get_parameter(self.watched).detach().clone())
        optimizer = torch.optim.SGD(module.parameters(), self.lr)
        optimizer.zero_grad()
        self.loss(module).backward()
        optimizer.step()
        self.after.append(module.get_parameter(self.watched).detach().clone())


def prune(model: nn.Module, spec: Any, x: Tensor | None = None, **given: Any) -> Any:
    inputs = (torch.randn(2, 4) if x is None else x,)
    return fxprune.prune(model.eval(), spec, inputs, **given)


def kept(slim: Any, parameter: str = "first.weight") -> list[int]:
    return slim.plan.kept[parameter][0].tolist()


def nothing(module: Any) -> Tensor:
    """Return a loss of which no gradient comes: what moves the weights then is the method's own."""
    return 0.0 * sum(one.sum() for one in module.parameters())
