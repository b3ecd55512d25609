"""Repair after the fact, of modules that any tool pruned."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import InputError
from tests.support.noise import noise


class Net(nn.Module):
    """Two normed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12)
        self.b, self.m = nn.Conv2d(12, 8, 3), nn.BatchNorm2d(8)
        self.c = nn.Linear(8, 4)
        for norm in (self.n, self.m):
            norm.running_mean.copy_(0.1 * noise(len(norm.weight)))
            norm.bias.data.copy_(0.1 * noise(len(norm.weight)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.m(self.b(self.n(self.a(x)).relu())).relu()
        return self.c(x.mean((2, 3)))


def by_hand(model: nn.Module, kept: list[int]) -> nn.Module:
    """Cut the first convolution as another tool would, in place of a copy."""
    small = copy.deepcopy(model)
    small.a.weight = nn.Parameter(model.a.weight.detach()[kept])
    small.a.bias = nn.Parameter(model.a.bias.detach()[kept])
    for name in ("weight", "bias"):
        setattr(small.n, name, nn.Parameter(getattr(model.n, name).detach()[kept]))
    for name in ("running_mean", "running_var"):
        setattr(small.n, name, getattr(model.n, name)[kept])
    small.b.weight = nn.Parameter(model.b.weight.detach()[:, kept])
    return small


def far(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((one(x) - other(x)).square().mean())


def test_what_another_tool_cut_is_repaired() -> None:
    model, x = Net().eval(), noise(32, 3, 8, 8)
    small = by_hand(model, [0, 2, 3, 5, 8, 11])
    before = {name: one.clone() for name, one in small.state_dict().items()}
    mended = fxprune.repair(small, model, [(x, torch.zeros(32))])
    assert type(mended) is Net
    assert far(mended, model, x) < 0.3 * far(small, model, x)
    torch.testing.assert_close(dict(small.state_dict()), before)


def test_it_does_what_the_key_repair_does() -> None:
    model, x = Net().eval(), noise(32, 3, 8, 8)
    spec = {"metric": "l2", "objective": {"macs": 0.5}}
    bare = fxprune.prune(model, spec | {"repair": "none"}, (x[:2],))
    wanted = fxprune.prune(model, spec | {"repair": "least-squares"}, (x[:2],), calibrate=[x])
    mended = fxprune.repair(bare, model, [x])
    torch.testing.assert_close(mended(x), wanted(x), rtol=1e-3, atol=1e-4)


def test_another_model_is_refused() -> None:
    model, x = Net().eval(), noise(4, 3, 8, 8)
    small = by_hand(model, [0, 2, 3])
    small.n.bias.data += 1.0
    for name in ("a.bias", "n.weight", "n.running_mean", "n.running_var"):
        one = small.state_dict()[name]
        one.copy_(one + 1.0)
    with pytest.raises(InputError, match="do not correspond"):
        fxprune.repair(small, model, [x])


def test_a_method_without_batches_is_refused() -> None:
    model, x = Net().eval(), noise(4, 3, 8, 8)
    with pytest.raises(InputError, match="least-squares"):
        fxprune.repair(by_hand(model, [0, 2, 3]), model, [x], method="none")
