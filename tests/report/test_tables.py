"""Tables for people: the tree of a model, a report, the difference of plans; narrow, wide, HTML."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import fxprune
from fxprune.files.tables import as_text
from fxprune.report import Analysis
from fxprune.report.difference import Difference
from fxprune.report.report_tables import pinned_lines
from fxprune.targets import Pinned
from tests.support.command import Done

SPEC = {"metric": "l2", "objective": {"ratio": 0.5}}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


def net() -> nn.Module:
    blocks = [Block() for _ in range(4)]
    return nn.Sequential(nn.Linear(8, 16), *blocks, nn.Linear(16, 4)).eval()


X = (torch.zeros(2, 8),)


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return fxprune.analyze(net(), X)


@pytest.fixture(scope="module")
def slim() -> fxprune.SlimModule:
    return fxprune.prune(net(), SPEC, X)


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_tree_has_widths_costs_units_and_what_leaves_with_it(
    analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    shown = rows(str(analysis))
    macs = 8 * 16 + 4 * 2 * 16 * 32 + 16 * 4
    first = f"{8 * 16 / macs:.1%}"
    assert shown[1][:4] == ["model", "Sequential", f"{analysis.parameters:,}", "100.0%"]
    assert shown[2] == [
        "├",
        "0",
        "Linear",
        "144",
        first,
        "16",
        "16",
        "channel~",
        "1.down",
        "+",
        "7",
        "more",
    ]
    assert ["│", "├", "up", "Linear", "544"] in [one[:5] for one in shown]
    assert ["├", "…", "3", "more", "like", "it", "2", "…", "4"] in shown  # folded: they look alike
    assert shown[8][:7] == ["└", "5", "Linear", "68", f"{64 / macs:.1%}", "4", "stays"]
    assert "99.91% of the parameters" in str(analysis)  # all but the last bias


@pytest.mark.parametrize("columns", [80, 120, 160])
def test_a_table_is_no_wider_than_the_terminal(
    columns: int, analysis: Analysis, slim: fxprune.SlimModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    long = "encoder.layers." * 6 + "mlp"
    text = as_text(["name", "n", "kind"], [[long, "123,456", "channel"]], ["n"])
    assert max(map(len, text.splitlines())) <= columns
    assert "123,456" in text
    assert text.count("layers.") == 6  # nothing is cut
    table = str(analysis).split("\n\n")[0]
    assert max(map(len, table.splitlines())) <= columns


def test_a_report_shows_what_was_kept(slim: fxprune.SlimModule) -> None:
    text = str(slim.report)
    assert ["0:channel", "channel", "16", "8", "█████░░░░░", "approximate"] in rows(text)


def test_what_is_pinned_for_one_reason_is_one_line() -> None:
    why = "the caller sees this axis"
    seen = [Pinned(f"layer.{n}", why, "output = output", "") for n in range(5)]
    other = Pinned("w axis 1", "no rule for a.b", "b_1 = a.b", "net.py:3")
    assert pinned_lines([*seen, other]) == [
        "layer.0, layer.1, layer.2 and 2 more are pinned: the caller sees this axis",
        "w axis 1 is pinned: no rule for a.b (b_1 = a.b at net.py:3)",
    ]


def test_what_a_notebook_shows_is_well_formed_and_escaped(
    analysis: Analysis, slim: fxprune.SlimModule
) -> None:
    family = fxprune.prune_family(net(), SPEC, X, sweep=[0.25, 0.5])
    for one in (analysis, slim.report, slim.plan, family):
        html = one._repr_html_()
        tree = ET.fromstring(f"<div>{html}</div>")
        assert tree.findall(".//td")
        assert "background" not in html  # it is read in a dark notebook and in a light one
    assert "channel" in slim.plan._repr_html_()


# ---- the difference of plans ---------------------------------------------------------------------


def test_the_difference_of_plans(slim: fxprune.SlimModule) -> None:
    other = fxprune.prune(net(), {"target": "channel", "objective": {"ratio": 0.25}}, X)
    same = Difference.of(slim.plan, slim.plan)
    assert (bool(same), str(same)) == (False, "the plans keep the same")
    found = Difference.of(slim.plan, other.plan)
    kept = {one.target: (one.units, one.first, one.second) for one in found.targets}
    assert kept["0:channel"] == (16, 8, 12)
    axes = {one.axis: one for one in found.axes}
    mine, theirs = slim.plan.kept["0.weight"][0], other.plan.kept["0.weight"][0]
    both = len({*mine.tolist()} & {*theirs.tolist()})
    assert (axes["0.weight:0"].first, axes["0.weight:0"].second) == (8, 12)
    assert axes["0.weight:0"].both == both
    assert ["0:channel", "16", "8", "12", "+4"] in rows(str(found))


Run = Callable[..., Done]


def test_the_commands(
    slim: fxprune.SlimModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    slim.plan.save("a.json")
    fxprune.save(slim, "b.pt2")
    done = command("diff", "a.json", "b.pt2")
    assert (done.status, done.out.strip()) == (0, "the plans keep the same")
    assert json.loads(command("diff", "a.json", "b.pt2", "--json").out)["targets"] == []
    torch.export.save(torch.export.export(net(), X), "net.pt2")
    assert command("diff", "net.pt2", "a.json").status == 2


PRINTING = {  # command → what its JSON holds
    "prune net.pt2 --spec spec.json -o slim.pt2 --quiet": "wrote",
    "prune net.pt2 --spec spec.json --sweep 0.25,0.5 -o slim.pt2 --quiet": "members",
    "speedup net.pt2 -o slim.pt2": "report",
    "export net.pt2 -o net.onnx": "wrote",
    "run net.pt2 --passes couple,restore -o slim.pt2": "wrote",
    "inspect net.pt2": "targets",
    "explain net.pt2": "held",
    "spec check spec.json": "objective",
    "spec show agp": "schedule",
    "spec list": "agp",
    "spec schema": "properties",
}


def test_every_command_prints_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.export.save(torch.export.export(net(), X), "net.pt2")
    Path("spec.json").write_text(json.dumps(SPEC))
    for line, key in PRINTING.items():
        done = command(*line.split(), "--json")
        assert (done.status, done.err) == (0, ""), line
        assert key in json.loads(done.out), line
    assert {"name", "options", "line"} == json.loads(command("passes", "--json").out)[0].keys()
    compact = json.loads(command("compact", "net.onnx", "-o", "small.onnx", "--json").out)
    assert compact["path"] == "small.onnx"
