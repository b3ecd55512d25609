"""The walk over a graph: operators without a rule pin everything they touch, and say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune
from fxprune.capture import capture
from fxprune.errors import PassError
from fxprune.guards import true
from fxprune.rules import RULES, Rule, TensorGuard
from fxprune.targets import couple
from tests.networks.whole import analyse, obey

LINEAR = torch.ops.aten.linear.default


class Spectrum(nn.Module):
    """A network with an operator that has no rule between two layers that have one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.mixed = nn.Parameter(torch.randn(8, 16))
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spread = torch.linalg.qr(self.mixed)[1]
        return self.last(self.first(x) @ spread.t())


def test_an_operator_without_a_rule_pins_every_axis_of_every_operand() -> None:
    program = capture(Spectrum().eval(), torch.randn(2, 6))
    coupling = couple(program.module)
    (node,) = [n for n in program.module.graph.nodes if "qr" in str(n.target)]
    for operand in node.all_input_nodes:
        value = coupling.values[operand]
        assert isinstance(value, TensorGuard)
        assert [coupling.guards.normal(g).shape[1] for g in value.dims] == [0, 0]
    assert coupling.unruled == {node.name: str(node.target)}


def test_the_report_names_the_operator_and_prunes_the_rest() -> None:
    model = nn.Sequential(Spectrum(), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    slim = fxprune.prune(model, {"objective": {"ratio": 0.5}}, (torch.randn(2, 6),))
    assert any("no rule for aten.linalg_qr" in note for note in slim.report.notes)
    assert len(slim.plan.kept["1.weight"][0]) == 16
    assert tuple(slim.state_dict()["0.mixed"].shape) == (8, 16)


# ---- a rule that raises --------------------------------------------------------------------------


def failing(*_: Any) -> Any:
    raise KeyError("nobody expected this")


def flat(*_: Any) -> TensorGuard:
    return TensorGuard((true(1),), (False,))


BROKEN: dict[str, tuple[Callable[[Rule], Rule], str]] = {
    "coupling raises": (lambda rule: replace(rule, couple=failing), "KeyError: 'nobody expected"),
    "count raises": (lambda rule: replace(rule, macs=failing), "KeyError: 'nobody expected"),
    "wrong sizes": (lambda rule: replace(rule, couple=flat), "it states the sizes (1,) of a"),
}


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 4)
        self.mixed = nn.Parameter(torch.randn(16, 16))
        self.tail = nn.Sequential(nn.Conv1d(4, 32, 1), nn.ReLU(), nn.Conv1d(32, 3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self.last(F.relu(self.first(x)))[..., None])


@pytest.mark.parametrize("case", BROKEN)
def test_a_rule_that_fails_pins_what_it_touches_and_says_so(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, fact = BROKEN[case]
    monkeypatch.setitem(RULES, LINEAR, broken(RULES[LINEAR]))
    analysis = fxprune.analyze(Mixed().eval(), (torch.randn(2, 6),))
    notes = [note for note in analysis.notes if "the rule of aten.linear.default" in note]
    assert [note.split(":")[0] for note in notes] == ["linear", "linear_1"]
    assert all(fact in note and "\n" not in note for note in notes)
    assert [target.name for target in analysis.targets] == ["tail.0:channel"]
    assert any("the rule of aten.linear.default fails" in str(pin) for pin in analysis.pinned)
    slim = fxprune.prune(Mixed().eval(), {"objective": {"ratio": 0.5}}, (torch.randn(2, 6),))
    assert len(slim.plan.kept["tail.0.weight"][0]) == 16


def test_a_rewrite_that_fails_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, LINEAR, replace(RULES[LINEAR], rewrite=failing))
    with pytest.raises(PassError) as refusal:
        fxprune.prune(Mixed().eval(), {"objective": {"ratio": 0.5}}, (torch.randn(2, 6),))
    text = str(refusal.value)
    assert text.startswith("linear: the rule of aten.linear.default cannot rewrite it: KeyError")
    assert "exclude" in text
    assert "\n" not in text


class DynamicConvolution(nn.Module):
    """Mix kernels for each example, and apply them in one convolution of a group an example."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(24, 3, 1)
        self.kernels, self.route = nn.Parameter(torch.randn(4, 24, 16, 3, 3)), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(x))
        n, c, h, w = x.shape
        shares = torch.sigmoid(self.route(x.mean((2, 3))))
        kernels = torch.einsum("bk,koiyz->boiyz", shares, self.kernels).reshape(n * 24, c, 3, 3)
        x = F.conv2d(x.reshape(1, n * c, h, w), kernels, padding=1, groups=n)
        return self.last(F.relu(x.reshape(n, 24, h, w)))


def test_groups_that_the_graph_computes_stay() -> None:
    analysis = analyse(DynamicConvolution(), torch.randn(2, 3, 8, 8))
    assert not analysis.coupling.failed
    assert analysis.stays == {"first.weight 1", "last.weight 0", "last.bias 0"}
    obey(analysis, (torch.randn(3, 3, 8, 8),), exact=True)
    obey(analysis, (torch.randn(3, 3, 8, 8),), exact=False)
