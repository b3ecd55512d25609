"""Operators that write in place become functional exactly where nobody can tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxprune.onnx import export
from fxprune.onnx.writes import with_views_told, without_writes


class Model(nn.Module):
    def __init__(self, run: Callable[[Model, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.register_buffer("seen", torch.zeros(1, 3, 8, 8))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def seen_before(m: Model, x: Tensor) -> Tensor:
    y = m.conv(x)
    return y.exp() + F.relu_(y)


def seen_after(m: Model, x: Tensor) -> Tensor:
    y = m.conv(x)
    z = F.relu_(y)
    return y * 2 + z


def viewed(m: Model, x: Tensor) -> Tensor:
    y = m.conv(x)
    z = y.flatten(1)
    F.relu_(y)
    return z


def of_a_view(m: Model, x: Tensor) -> Tensor:
    y = m.conv(x)
    F.relu_(y[:, :2])
    return y


def wider(m: Model, x: Tensor) -> Tensor:
    return m.conv(x).add_(torch.ones(4, 1, 1))


def numbers(m: Model, x: Tensor) -> Tensor:
    y = m.conv(x).mul(4).int()
    return y.gt_(0) * 3


CASES: dict[str, tuple[Callable[[Model, Tensor], Tensor], int]] = {
    "relu": (lambda m, x: F.relu_(m.norm(m.conv(x))), 1),
    "hardtanh": (lambda m, x: F.hardtanh_(m.conv(x), 0.0, 6.0), 1),
    "two in a row": (lambda m, x: F.relu_(m.conv(x)).mul_(2.0), 2),
    "add": (lambda m, x: F.relu_(m.conv(x).add_(m.conv(x + 1))), 2),
    "read before": (seen_before, 1),
    "read after": (seen_after, 1),
    "a view is read": (viewed, 0),
    "a view is written": (of_a_view, 0),
    "the input": (lambda m, x: F.relu_(x), 0),
    "einsum, a view": (
        lambda m, x: F.relu_(torch.einsum("bchw->bhwc", x)) + x.permute(0, 2, 3, 1),
        0,
    ),
    "other sizes": (wider, 0),
    "other type": (numbers, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_writes_become_functional_where_nobody_can_tell(name: str, tmp_path: Path) -> None:
    run, count = CASES[name]
    model, x = Model(run).eval(), torch.randn(2, 3, 8, 8)
    program = torch.export.export(model, (x,), strict=False)
    wanted = model(x.clone())
    assert without_writes(program) == count
    assert torch.equal(program.module()(x.clone()), wanted)
    assert without_writes(program) == 0
    if name != "the input":
        export(model, tmp_path / "m.onnx", (x,))


def read_after_a_write(m: Model, x: Tensor) -> Tensor:
    y = m.conv(x)
    z = torch.einsum("bchw->bhwc", y)
    F.relu_(y)
    return z.sum(-1)


WRITTEN: dict[str, Callable[[Model, Tensor], Tensor]] = {
    "through a view": CASES["einsum, a view"][0],
    "read after a write": read_after_a_write,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_writes_through_views_that_no_schema_tells_are_exported(name: str, tmp_path: Path) -> None:
    model, x = Model(WRITTEN[name]).eval(), torch.randn(2, 3, 8, 8)
    program = torch.export.export(model, (x,), strict=False)
    wanted = model(x.clone())
    lost = program.run_decompositions({}).module()(x.clone())
    assert not torch.allclose(lost, wanted)  # what torch makes of it by itself
    told = with_views_told(program).run_decompositions({}).module()
    torch.testing.assert_close(told(x.clone()), wanted)
    export(model, tmp_path / "m.onnx", (x,))
