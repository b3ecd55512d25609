"""fxprune forecast: a table or JSON, and one line for all that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.command import Done

Run = Callable[..., Done]
CALLS = """
import torch

calibrate = [torch.ones(4, 8) * k for k in range(1, 4)]

def evaluate(module):
    with torch.no_grad():
        return -float(module(calibrate[0]).square().mean())

def fine_tune(module, step):
    raise RuntimeError("nothing is trained")
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    torch.export.save(torch.export.export(model, (torch.randn(2, 8),)), tmp_path / "net.pt2")
    (tmp_path / "calls.py").write_text(CALLS)
    monkeypatch.chdir(tmp_path)
    return command


def test_a_table_and_json(run: Run) -> None:
    given = ("forecast", "net.pt2", "l1", "agp", "--sweep", "0.8,0.5", "--callbacks", "calls.py")
    done = run(*given, "--quiet")
    assert (done.status, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == [
        *("original", "l1", "l1", "agp", "agp")
    ]
    data = json.loads(run(*given, "--quiet", "--json").out)
    assert [one["goal"] for one in data["outlooks"]] == [0.8, 0.5, 0.8, 0.5]
    assert all(one["score"] is not None and one["error"] >= 0 for one in data["outlooks"])
    assert sorted(path.name for path in Path().iterdir()) == ["calls.py", "net.pt2"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("l7",), 'unknown preset "l7"'),
        (("l2", "--sweep", "half"), '--sweep "half": not a list of numbers'),
        (("no.toml",), "no.toml: the spec cannot be read"),
        (("movement",), "fine_tune is missing"),
    ],
)
def test_what_is_wrong_is_one_line(run: Run, given: tuple[str, ...], said: str) -> None:
    done = run("forecast", "net.pt2", *given, "--quiet")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert said in done.err
