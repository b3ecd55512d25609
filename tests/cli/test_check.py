"""The budget of a build: met, exceeded, or no budget at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.command import Done

# after l2 at half of the units: 8·8 + 8 + 8·4 + 4 parameters, 96 MACs
BUDGETS: dict[str, tuple[str, int, str]] = {
    "met": ("parameters = 108\nmacs = 96\ncoverage = 0.5\n", 0, "ok"),
    "exceeded": ("parameters = 107\nmacs = 96\n", 3, "EXCEEDED"),
    "with units": ('macs = "0.1 k"\nbytes = "1 kB"\n', 0, "ok"),
    "too little coverage": ("coverage = 1.1\n", 3, "EXCEEDED"),
    "a key": ("parameter = 1\n", 2, 'budget.toml: unknown key "parameter"; did you mean "param'),
    "no number": ('macs = "few"\n', 2, "budget.toml: macs: 'few': write a number"),
    "nothing": ("", 2, "budget.toml: the budget is empty"),
    "no TOML": ("macs =", 2, "budget.toml: the budget cannot be read"),
    "a latency of none": ("latency = 3\n", 2, "latency: it is measured where"),
}


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Done]
) -> Callable[..., Done]:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    torch.export.save(torch.export.export(model, (torch.zeros(2, 8),)), "net.pt2")
    Path("spec.toml").write_text("[objective]\nratio = 0.5\n")
    return command


@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget(name: str, run: Callable[..., Done]) -> None:
    text, status, said = BUDGETS[name]
    Path("budget.toml").write_text(text)
    before = sorted(Path().iterdir())
    done = run("check", "net.pt2", "spec.toml", "--against", "budget.toml")
    assert done.status == status
    assert said in (done.err if status == 2 else done.out)
    assert sorted(Path().iterdir()) == before  # it writes nothing


def test_a_budget_as_json(run: Callable[..., Done]) -> None:
    Path("budget.toml").write_text("macs = 96\nparameters = 107\n")
    done = run("check", "net.pt2", "spec.toml", "--against", "budget.toml", "--json")
    found = {one["key"]: one for one in json.loads(done.out)}
    assert found["macs"] == {"key": "macs", "allowed": 96, "found": 96, "met": True}
    assert not found["parameters"]["met"]
    assert done.status == 3
