"""Explanations: what is tied is tied through operators that tie it; a cause is the first one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import FileError, InputError
from fxprune.report import coupling_graph
from tests.support.command import Done


class Tied(nn.Module):
    """Two branches meet in a sum; what the unruled operator reads is added to a third."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(8, 16)
        self.c, self.held = nn.Linear(16, 12), nn.Linear(8, 12)
        self.out = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x) + self.b(x).relu()
        held = torch.renorm(self.held(x), 2.0, 0, 1.0)  # an operator without a rule
        return self.out(self.c(h) + held)


@pytest.fixture(scope="module")
def analysis() -> fxprune.report.Analysis:
    return fxprune.analyze(Tied().eval(), (torch.zeros(2, 8),))


def operators(links: object) -> list[str]:
    return [one.operator.split(".")[1] for one in links]  # type: ignore[attr-defined]


def test_what_leaves_together_is_told_with_the_chain(analysis: fxprune.report.Analysis) -> None:
    (group,) = analysis.explain("a").together
    chains = {(one.parameter, one.axis): operators(one.links) for one in group.tied}
    assert chains == {
        ("a.weight", 0): [],
        ("a.bias", 0): ["linear"],
        ("b.weight", 0): ["linear", "add", "relu", "linear"],
        ("b.bias", 0): ["linear", "add", "relu", "linear"],
        ("c.weight", 1): ["linear", "add", "linear"],
    }


def test_each_link_has_the_users_own_line(analysis: fxprune.report.Analysis) -> None:
    chain = analysis.explain_pair("a", "b").chain
    assert chain is not None
    assert operators(chain) == ["linear", "add", "relu", "linear"]
    assert all(one.source.startswith(__file__) for one in chain)
    assert "h = self.a(x) + self.b(x).relu()" in str(analysis.explain_pair("a", "b"))


def test_the_first_cause_is_told_not_the_last_symptom(analysis: fxprune.report.Analysis) -> None:
    causes = {
        (one.parameter, one.axis): (one.cause.reason, one.freed) for one in analysis.explain().held
    }
    # c meets what renorm holds in a sum: the sum is the symptom, renorm the cause
    assert causes[("c.weight", 0)][0].startswith("no rule for aten.renorm")
    assert causes[("out.weight", 0)] == ("the caller sees this axis", None)


def test_what_a_rule_would_free_is_a_bound(analysis: fxprune.report.Analysis) -> None:
    held = {one.parameter: one for one in analysis.explain("held").held if one.axis == 0}
    assert held["held.weight"].freed == 8 * 12 + 12  # held itself; its sum with c is still unknown
    assert "fxprune.extend" in held["held.weight"].step


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("a", "b"), "lose units of a:hidden together"),
        (("a", "out"), "share no unit"),
        (("a", "a"), "are parts of a:hidden"),
    ],
)
def test_a_pair(analysis: fxprune.report.Analysis, pair: tuple[str, str], said: str) -> None:
    assert said in analysis.explain_pair(*pair).verdict


@pytest.mark.parametrize("name", ["aa", "b.weigth"])
def test_an_unknown_name_is_refused_with_the_nearest(
    analysis: fxprune.report.Analysis, name: str
) -> None:
    with pytest.raises(InputError, match="did you mean"):
        analysis.explain(name)
    with pytest.raises(InputError, match="did you mean"):
        analysis.explain_pair("a", name)


# ---- the graph -----------------------------------------------------------------------------------


def test_the_graph_has_operators_parameters_and_targets(analysis: fxprune.report.Analysis) -> None:
    graph = analysis.graph()
    kinds = nx.get_node_attributes(graph, "kind")
    assert {kinds[name] for name in kinds} == {
        *("operator", "parameter", "target", "input", "output")
    }
    tied = {
        (name, about["axis"])
        for _, name, about in graph.out_edges("a:hidden", data=True)
        if about["kind"] == "axis"
    }
    assert tied == set(analysis.targets[0].footprint)
    assert graph.edges["a.weight", "linear", 0]["carries"] == "0: a:hidden"


def test_the_graph_is_written_and_read_again(
    analysis: fxprune.report.Analysis, tmp_path: Path
) -> None:
    graph = analysis.graph()
    for suffix in coupling_graph.FORMATS:
        coupling_graph.write(graph, tmp_path / f"graph{suffix}")
    read = nx.read_graphml(tmp_path / "graph.graphml")
    assert set(read.nodes) == set(graph.nodes)
    data = json.loads((tmp_path / "graph.json").read_text())
    again = nx.node_link_graph(data, edges="edges")
    assert nx.utils.graphs_equal(again, graph)
    dot = (tmp_path / "graph.dot").read_text()
    assert '"a:hidden" -> "b.weight" [label="axis 0", style=dashed];' in dot
    with pytest.raises(FileError, match=r"\.graphml"):
        coupling_graph.write(graph, tmp_path / "graph.png")


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Done]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.export.save(torch.export.export(Tied().eval(), (torch.zeros(2, 8),)), "net.pt2")
    done = command("explain", "net.pt2", "a", "-o", "graph.dot")
    assert (done.status, done.err) == (0, "")
    assert "b.weight axis 0" in done.out
    assert Path("graph.dot").read_text().startswith("digraph")
    pair = json.loads(command("explain", "net.pt2", "--pair", "a", "b", "--json").out)
    assert [link["dim"] for link in pair["chain"]] == [1, 1, 1, 0]
    wrong = command("explain", "net.pt2", "a", "-o", "graph.png")
    assert (wrong.status, wrong.err.count("\n")) == (2, 1)


def test_dot_quotes_what_it_would_read_as_its_own(tmp_path: Path) -> None:
    graph = nx.MultiDiGraph()
    graph.add_node('C:\\n"x\\', kind="target", units=3, why="")
    dot = coupling_graph.to_dot(graph)
    name = '"C:\\\\n\\"x\\\\"'
    assert f'  {name} [shape=box, label={name[:-1]}\\n3 units"' in dot
