"""Verify compares gradients, in the modes that modules come in, or says why it does not."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import pipeline
from fxprune.api import parse_passes
from fxprune.capture import capture
from fxprune.errors import VerifyError
from fxprune.passes import verified
from fxprune.program import Verified
from fxprune.surgery.own_gradients import OwnGradient
from tests.support.noise import noise
from tests.support.own_functions import KEPT, Net

X = noise(4, 6)
STEPS = "couple,score,allocate{ratio=0.5},shrink,restore"
SPEC = {"target": {"kind": "all", "exact": True}, "objective": {"ratio": 0.5}}


class Mixed(nn.Module):
    """Norms over the batch, dropouts as modules and as functions, and noise."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.drop = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.5)
        self.b, self.c = nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.a(x)).relu())
        return self.c(nn.functional.dropout(self.b(x).tanh(), 0.3, self.training))


class Lattice(nn.Module):
    """Draw what there is no constant for, in training."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(6, 16), nn.RReLU(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)))


class Rooted(nn.Module):
    """Take roots of zeros, whose slope is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).square().sqrt())


def checked(model: nn.Module) -> Any:
    program = capture(model, (X,))
    return pipeline.run(program, verified(parse_passes(STEPS)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", KEPT)
def test_a_lost_backward_is_seen(
    name: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Net(KEPT[name]).train(training)
    found = checked(model)[Verified].gradients
    assert found is not None
    assert found <= 1e-4
    monkeypatch.setattr(OwnGradient, "forward", lambda self, y, xs, sizes: y)
    with pytest.raises(VerifyError, match=r"gradients of the shrunk model differ .* at "):
        checked(model)
    steps = parse_passes(f"{STEPS},verify{{gradients=false}}")
    assert pipeline.run(capture(model, (X,)), steps)[Verified].gradients is None


@pytest.mark.parametrize("part", [None, "drop", "norm"])
def test_in_the_modes_the_modules_came_in(part: str | None) -> None:
    model = Mixed().train()
    if part:
        model.get_submodule(part).eval()
    program = checked(model)
    assert program[Verified].gradients is not None
    assert not program.notes
    assert torch.equal(program.module.state_dict()["norm.running_mean"], torch.zeros(8))


def test_a_mode_that_is_not_kept_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm that trained on the statistics of evaluation would not go unnoticed."""
    program = pipeline.run(capture(Mixed().train(), (X,)), parse_passes(STEPS))
    program.module.get_submodule("norm").eval()
    with pytest.raises(VerifyError, match="the gradients"):
        pipeline.run(program, parse_passes("verify"))


OFF = {"frozen": lambda: Mixed().requires_grad_(False), "evaluated": lambda: Mixed().eval()}


@pytest.mark.parametrize("name", OFF)
def test_where_gradients_are_as_good_as_the_numbers_they_are_not_taken(name: str) -> None:
    program = checked(OFF[name]())
    assert program[Verified].gradients is None
    assert not program.notes


WHY = {
    "rrelu": (lambda: Lattice().train(), "rrelu.* draws random numbers"),
    "roots": (lambda: Rooted(), "those of the original are not finite"),
}


@pytest.mark.parametrize("name", WHY)
def test_what_cannot_be_compared_is_said(name: str) -> None:
    make, why = WHY[name]
    slim = fxprune.prune(make(), SPEC, (X,))
    (note,) = (one for one in slim.report.notes if "gradients were not compared" in one)
    assert re.search(why, note)


class Attending(nn.Module):
    """Attend with the fused operator, which may drop weights at random and is asked not to."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(6, 24), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (one.view(1, 1, -1, 8) for one in self.drop(self.a(x)).chunk(3, -1))
        return self.b(nn.functional.scaled_dot_product_attention(q, k, v)[0, 0])


def test_attention_that_drops_nothing_is_compared_in_training() -> None:
    found = checked(Attending().train())[Verified]
    assert found.gradients is not None
    assert found.gradients <= 1e-4
