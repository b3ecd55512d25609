"""Help: every command has examples and says what its exit status means; the examples are run."""

from __future__ import annotations

import runpy
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fxprune.cli.app import app
from fxprune.cli.help import EXAMPLES, STATUS
from tests.cli.test_cli import TRAINING
from tests.support.command import Done

ORDER = ("prune", "export", "speedup", "run")  # what writes files that the others read goes first
SPEC = "[objective]\nmacs = 0.5\n"
BUILD = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
"""
BUDGET = 'macs = "1 M"\nparameters = 10_000\ncoverage = 0.5\n'


def commands() -> set[str]:
    """Return the names of all commands, those of groups with the group's."""
    found = set()
    for one in app.registered_commands:
        found.add(one.name or one.callback.__name__)  # type: ignore[union-attr]
    for group in app.registered_groups:
        inner = group.typer_instance
        prefix = f"{inner.info.name} " if isinstance(inner.info.name, str) else ""
        for one in inner.registered_commands:
            found.add(prefix + (one.name or one.callback.__name__))  # type: ignore[union-attr]
    return found


def test_every_command_has_examples() -> None:
    assert commands() == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_shows_them(
    name: str, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = command(*name.split(), "--help")
    assert done.status == 0
    shown = " ".join(done.out.split())
    assert all(" ".join(one.split()) in shown for one in EXAMPLES[name])
    assert all(f"{number} {said}" in shown for number, said in STATUS.items())


@pytest.mark.usefixtures("told_clock")
def test_every_example_runs(
    tmp_path: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()),
        nn.Conv2d(16, 4, 1),
    ).eval()
    exported = torch.export.export(model, (torch.randn(2, 3, 8, 8),))
    torch.export.save(exported, "net.pt2")
    Path("spec.toml").write_text(SPEC)
    Path("budget.toml").write_text(BUDGET)
    Path("training.py").write_text(TRAINING)
    Path("net.py").write_text(BUILD)
    Path("whole").mkdir()
    small = runpy.run_path("net.py")["build"]()
    save_file(small.state_dict(), "whole/model.safetensors")
    for name in (*ORDER, *(name for name in EXAMPLES if name not in ORDER)):
        for line in EXAMPLES[name]:
            done = command(*shlex.split(line)[1:])
            assert done.status == 0, f"{line}\n{done.err}"
