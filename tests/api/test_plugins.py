"""Plug-ins: the template is installed and all of it used; what is wrong with one is said."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fxprune
from fxprune.allocators import ALLOCATORS
from fxprune.errors import FileError, PluginError
from fxprune.extend import check_rule
from fxprune.metrics import METRICS
from fxprune.objectives import OBJECTIVES
from fxprune.plugins import GROUPS, run_file
from fxprune.rules import RULES
from fxprune.schedules import SCHEDULES
from tests.support.command import Done
from tests.support.noise import noise

ROOT = Path(fxprune.__file__).parent.parent
TEMPLATE = ROOT / "docs" / "plugin_template"

USED = """
import sys
import numpy as np
import torch
from torch import nn
import fxprune
from fxprune.extend import check_rule

assert not [name for name in sys.modules if name.startswith("fxprune_example")]
from fxprune.spec import presets
assert "example" in presets.names()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)
        self.scale = nn.Parameter(torch.rand(16) + 0.5)

    def forward(self, x):
        return self.b(torch.ops.fxprune_example.scaled_tanh(self.a(x), self.scale))


import fxprune_example.operators

operator = torch.ops.fxprune_example.scaled_tanh.default
print(check_rule(operator, torch.randn(2, 5), torch.rand(5)))
torch.manual_seed(0)
net, x = Net(), torch.randn(4, 6)
slim = fxprune.prune(net, "example", x, fine_tune=lambda model, step: None)
print(slim.a.out_features, tuple(slim.scale.shape), slim.plan.spec["metric"]["name"])

steps = "couple,widest{at_least=2},score{metric=cubes},allocate{ratio=0.5},shrink"
noted = fxprune.run(net, steps, x)
print([note for note in noted.report.notes if "widest" in note])

fxprune.export_onnx(slim, "slim.onnx", x)
import onnxruntime
session = onnxruntime.InferenceSession("slim.onnx")
found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
print(bool(np.abs(found - slim(x).detach().numpy()).max() < 1e-5))

from fxprune.latency.devices import device
print(device("no-threads").__module__)
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what the file of a test registers."""
    for table in (METRICS, ALLOCATORS, SCHEDULES, OBJECTIVES):
        monkeypatch.setattr(table, "own", dict(table.own))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which the template is installed as pip installs it."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(TEMPLATE, folder / "sources")  # which a build writes beside
    command = "install --quiet --no-deps --no-build-isolation --no-index --target"
    subprocess.run(
        [sys.executable, "-m", "pip", *command.split(), folder / "site", folder / "sources"],
        check=True,
        capture_output=True,
    )
    return folder / "site"


def python(script: str, at: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    where = os.pathsep.join(str(one) for one in (*paths, ROOT))
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=at,
        env={**os.environ, "PYTHONPATH": where},
        capture_output=True,
        text=True,
    )


def test_the_template_is_used_once_it_is_installed(installed: Path, tmp_path: Path) -> None:
    done = python(USED, tmp_path, installed)
    assert done.stdout.splitlines() == [
        "7 units can leave, 100% exact; 11 removals tried",
        "8 (8,) cubes",
        "['scale:hidden is the widest target']",
        "True",
        "fxprune_example.devices",
    ], done.stderr


def distribution(at: Path, group: str, line: str) -> None:
    """Write what pip writes of a distribution with one entry point."""
    info = at / "broken-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{line}\n")


TRIED = """
import torch
import fxprune
from fxprune.errors import FxpruneError
net, x = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.randn(2, 4)
try:
    fxprune.prune(net, {"metric": "mine", "objective": {"ratio": 0.5}}, x)
except FxpruneError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("line", "module", "said"),
    [
        ("mine = absent_module:Metric", "", ["'mine' of broken 1.2", "absent_module", "uninstall"]),
        ("mine = broken_one:METRIC", "METRIC = 3", ["'mine' of broken 1.2", "broken_one:METRIC"]),
        ("mine = broken_one:METRIC", "1 / 0", ["broken 1.2", "division by zero"]),
    ],
    ids=["absent", "no metric", "raises"],
)
def test_a_broken_plug_in_is_named(line: str, module: str, said: list[str], tmp_path: Path) -> None:
    distribution(tmp_path, "fxprune.metrics", line)
    (tmp_path / "broken_one.py").write_text(module)
    done = python(TRIED, tmp_path, tmp_path)
    assert done.stdout.startswith("PluginError"), done.stdout + done.stderr
    assert all(one in done.stdout for one in said), done.stdout


# ---- a file that is named ------------------------------------------------------------------------

FILE = """
from fxprune.extend import metric, weight_scores
from dataclasses import dataclass

@metric("{name}")
@dataclass(frozen=True)
class Mine:
    needs = "nothing"

    def score(self, evidence):
        return weight_scores(evidence, lambda weights: weights.abs())
"""


def test_a_file_is_run_where_the_command_names_it(
    tmp_path: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    torch.export.save(torch.export.export(net, (noise(2, 4),)), "net.pt2")
    Path("mine.py").write_text(FILE.format(name="of-a-file"))
    words = ["prune", "net.pt2", "--metric", "of-a-file", "--ratio", "0.5", "-o", "slim.pt2"]
    assert command(*words).status != 0
    done = command(*words, "--plugin", "mine.py")
    assert done.status == 0, done.err
    assert fxprune.load("slim.pt2").plan.spec["metric"]["name"] == "of-a-file"


@pytest.mark.parametrize(
    ("name", "text", "error", "said"),
    [
        ("absent.py", None, FileError, "absent.py: cannot be read"),
        ("mine.txt", "", FileError, "ends in .py"),
        ("mine.py", "raise ValueError('no')", PluginError, "mine.py: the plug-in raised"),
        ("l2.py", FILE.format(name="l2"), PluginError, "'l2' is the name of .* already"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    name: str, text: str | None, error: type[Exception], said: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=said):
        run_file(tmp_path / name)


# ---- rules and metrics of the caller's own ------------------------------------------------------


def test_a_rule_that_couples_too_little_is_found() -> None:
    with torch.library._scoped_library("fxprune_test", "DEF") as library:
        library.define("flipped(Tensor x) -> Tensor")
        library.impl("flipped", lambda x: x.flip(-1), "CompositeExplicitAutograd")
        from fxprune.extend import rule

        rule(torch.ops.fxprune_test.flipped.default, "... c -> ... c", replace=True)
        with pytest.raises(fxprune.errors.VerifyError, match="flipped"):
            check_rule(torch.ops.fxprune_test.flipped.default, noise(3, 6))
        del RULES[torch.ops.fxprune_test.flipped.default]


def test_a_function_may_score() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))

    def last_first(evidence: fxprune.extend.Evidence) -> list[object]:
        return [range(len(one.units)) for one in evidence.targets]

    spec = {"metric": last_first, "objective": {"ratio": 0.5}}
    slim = fxprune.prune(net, spec, noise(2, 4))
    assert torch.equal(slim.get_submodule("0").weight, net[0].weight[4:])

    def last_two(evidence: fxprune.extend.Evidence) -> list[object]:
        return [[1.0]]

    with pytest.raises(fxprune.errors.CallbackError, match=r"last_two must return .* \[units\]"):
        fxprune.prune(net, {**spec, "metric": last_two}, noise(2, 4))


def test_the_page_on_plug_ins_is_true(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    done = python("\n".join(blocks), tmp_path)
    assert done.returncode == 0, done.stderr
    for name in re.findall(r"`(fxprune\.[a-z]+)`", text):
        assert name in (*GROUPS, "fxprune.extend"), name
