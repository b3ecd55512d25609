"""The walk over a graph: operators without a rule pin everything they touch, and say so."""

from __future__ import annotations

import torch
from torch import nn

import fxprune
from fxprune.capture import capture
from fxprune.coupling import couple
from fxprune.rules.site import TensorGuard


class Spectrum(nn.Module):
    """A network with an operator that has no rule between two layers that have one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.mixed = nn.Parameter(torch.randn(8, 16))
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spread = torch.fft.fft(self.mixed).real
        return self.last(self.first(x) @ spread.t())


def test_an_operator_without_a_rule_pins_every_axis_of_every_operand() -> None:
    program = capture(Spectrum().eval(), torch.randn(2, 6))
    coupling = couple(program.module)
    (node,) = [n for n in program.module.graph.nodes if "fft" in str(n.target)]
    for operand in node.all_input_nodes:
        value = coupling.values[operand]
        assert isinstance(value, TensorGuard)
        assert [coupling.guards.normal(g).shape[1] for g in value.dims] == [0, 0]
    assert coupling.unruled == {node.name: str(node.target)}


def test_the_report_names_the_operator_and_prunes_the_rest() -> None:
    model = nn.Sequential(Spectrum(), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    slim = fxprune.prune(model, {"objective": {"ratio": 0.5}}, (torch.randn(2, 6),))
    assert any("no rule for aten.fft_fft" in note for note in slim.report.notes)
    assert len(slim.plan.kept["1.weight"][0]) == 16
    assert tuple(slim.state_dict()["0.mixed"].shape) == (8, 16)
