"""Verify: exact removals are compared whatever else is approximate, and a wrong rule is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import pipeline
from fxprune.api import parse_passes
from fxprune.capture import capture
from fxprune.errors import VerifyError
from fxprune.passes import PASSES, verified
from fxprune.program import Verified
from fxprune.rules import RULES, Rule, Site, TensorGuard
from tests.support.noise import noise

X = noise(2, 4, 6)
PASSES_TO_RUN = "couple,score,allocate{ratio=0.5},shrink"
aten = torch.ops.aten


class Turned(nn.Module):
    """Turn the order of hidden features around; with norms, whose width is approximate."""

    def __init__(self, norms: bool) -> None:
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 16), nn.Linear(16, 12)
        self.norm = nn.LayerNorm(12) if norms else nn.Identity()
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.stem(x))
        return self.head(self.norm(x + self.down(self.up(x).relu().flip(2))))


def _same_order(site: Site) -> TensorGuard:
    return site.tensor("self")


def _other_sizes(edit: Any) -> None:
    edit.set("dims", [0])


WRONG: dict[str, Rule] = {
    "its coupling": Rule(_same_order),
    "its rewriting": Rule(RULES[aten.flip.default].couple, rewrite=_other_sizes),
}


@pytest.mark.parametrize("norms", [False, True], ids=["all exact", "some approximate"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_rule_is_named(monkeypatch: pytest.MonkeyPatch, wrong: str, norms: bool) -> None:
    monkeypatch.setitem(RULES, aten.flip.default, WRONG[wrong])
    with pytest.raises(VerifyError) as raised:
        fxprune.run(Turned(norms).eval(), PASSES_TO_RUN, (X,))
    said = str(raised.value)
    assert "the rule of aten.flip.default is wrong" in said
    assert "up.weight" in said or "up:" in said
    assert "test_verify.py:" in said
    assert "\n" not in said


@pytest.mark.parametrize("norms", [False, True], ids=["all exact", "some approximate"])
def test_right_rules_pass(norms: bool) -> None:
    program = capture(Turned(norms).eval(), (X,))
    program = pipeline.run(program, verified(parse_passes(PASSES_TO_RUN)))
    assert program[Verified].difference <= program[Verified].allowed


def test_run_verifies_unless_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, aten.flip.default, WRONG["its coupling"])
    with pytest.raises(VerifyError):
        fxprune.run(Turned(False).eval(), PASSES_TO_RUN, (X,))
    slim = fxprune.run(Turned(False).eval(), PASSES_TO_RUN, (X,), verify=False)
    assert slim(X).shape == (2, 4, 3)


ORDERS = {
    "shrink": "shrink,restore,verify",
    "shrink,restore": "shrink,restore,verify",
    "shrink,verify,restore": "shrink,verify,restore",
    "shrink,couple,shrink": "shrink,verify,couple,shrink,restore,verify",
    "fold,couple,eliminate": "fold,couple,eliminate",
    "shrink,couple,eliminate": "shrink,verify,couple,eliminate",
}


@pytest.mark.parametrize("given", ORDERS)
def test_where_verify_is_put(given: str) -> None:
    passes = verified(tuple(PASSES[name]() for name in given.split(",")))
    assert ",".join(one.name for one in passes) == ORDERS[given]


def test_what_comes_after_the_graph_is_told_from_a_rule() -> None:
    program = pipeline.run(capture(Turned(True).eval(), (X,)), parse_passes(PASSES_TO_RUN))
    with torch.no_grad():
        program.module.get_parameter("down.weight").mul_(1.5)
    with pytest.raises(VerifyError, match="every operator of the smaller graph gives the right"):
        pipeline.run(program, parse_passes("verify"))
