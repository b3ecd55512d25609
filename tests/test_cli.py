"""The command line: every command, and for all that is wrong one line, status 2 and no file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxprune
from fxprune.cli import main
from fxprune.pipeline import PASSES
from fxprune.presets import names
from fxprune.spec import Spec

SPEC = 'target = "channel"\nmetric = "l2"\n[objective]\nmacs = 0.5\n'
STEPS = "couple,score{metric=l1},allocate{ratio=0.5},shrink,restore,verify"


def net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()),
        nn.Conv2d(32, 4, 1),
    ).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one model in every form, and files that are none."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model, x = net(), torch.randn(2, 3, 8, 8)
    torch.export.save(torch.export.export(model, (x,)), folder / "net.pt2")
    torch.save(model, folder / "net.pt")
    torch.save(model.state_dict(), folder / "weights.pt")
    torch.save((x,), folder / "example.pt")
    whole = (folder / "net.pt2").read_bytes()
    (folder / "half.pt2").write_bytes(whole[: len(whole) // 2])
    (folder / "text.pt2").write_text("not a model")
    (folder / "text.pt").write_text("not a model")
    (folder / "net.txt").write_text("not a model")
    (folder / "spec.toml").write_text(SPEC)
    (folder / "text.toml").write_text("objective =")
    (folder / "spec.yaml").write_text("metric: l2\nobjective: {macs: 0.5}\n")
    (folder / "training.py").write_text(TRAINING)
    for name, text in BAD_CALLBACKS.items():
        (folder / f"{name}.py").write_text(text)
    save_file({"input": torch.randn(10, 3, 8, 8)}, folder / "batches.safetensors")
    np.savez(folder / "batches.npz", input=np.zeros((10, 3, 8, 8), np.float32), label=np.zeros(10))
    np.savez(folder / "uneven.npz", input=np.zeros((10, 3, 8, 8), np.float32), label=np.zeros(9))
    for name, text in BAD_SPECS.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """Return a call of the command in a folder of its own, that holds the files."""
    folder = tmp_path / "work"
    shutil.copytree(files, folder)
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["fxprune", *arguments])
        capfd.readouterr()
        status: Any = 0
        try:
            main()
        except SystemExit as stopped:
            status = stopped.code
        return Done(status or 0, *capfd.readouterr())

    return call


# ---- every command -------------------------------------------------------------------------------


def test_inspect(run: Run) -> None:
    done = run("inspect", "net.pt2")
    assert (done.status, done.err) == (0, "")
    assert "channel" in done.out
    assert "the caller sees this axis" in done.out
    assert "parameters lie in at least one prunable unit" in done.out
    data = json.loads(run("inspect", "net.pt2", "--json").out)
    assert [target["units"] for target in data["targets"]] == [16, 32]


@pytest.mark.parametrize(
    "model",
    [
        ("net.pt2",),
        ("net.pt", "--trust", "--input-shape", "2,3,8,8"),
        ("net.pt", "--trust", "--example", "example.pt"),
    ],
)
@pytest.mark.parametrize("output", ["slim.onnx", "slim.pt2"])
def test_prune(run: Run, model: tuple[str, ...], output: str) -> None:
    done = run("prune", *model, "--spec", "spec.toml", "-o", output, "--quiet")
    assert (done.status, done.err) == (0, "")
    assert f"wrote {output}" in done.out
    assert "before" in done.out
    if output.endswith(".onnx"):
        onnx.checker.check_model(onnx.load(output))
    else:
        report = fxprune.load(output).report
        assert report.macs_after == pytest.approx(report.macs_before / 2, rel=0.01)


@pytest.mark.parametrize("spec", ["l2", "spec.yaml"])
def test_prune_by_a_preset_and_by_yaml(run: Run, spec: str) -> None:
    done = run("prune", "net.pt2", "--spec", spec, "-o", "slim.pt2")
    assert done.status == 0
    assert all(line.startswith("fxprune: ") for line in done.err.splitlines())
    assert "achieved 0.5" in done.err  # progress, on standard error
    report = fxprune.load("slim.pt2").report
    assert report.macs_after == pytest.approx(report.macs_before / 2, rel=0.01)


TRAINING = """
from pathlib import Path
import torch

calibrate = [(torch.randn(4, 3, 8, 8), torch.randn(4, 4, 4, 4)) for _ in range(2)]

def loss(module, batch):
    return (module(batch[0]) - batch[1]).square().mean()

def evaluate(module):
    with torch.no_grad():
        return -float(loss(module, calibrate[0]))

def fine_tune(module, step):
    Path(f"tuned{step}").touch()
    optimizer = torch.optim.SGD(module.parameters(), 1e-3)
    loss(module, calibrate[0]).backward()
    optimizer.step()
"""


def test_callbacks_of_a_file(run: Run) -> None:
    arguments = ("--callbacks", "training.py", "--checkpoint", "state", "-o", "slim.pt2")
    done = run("prune", "net.pt2", "--spec", "taylor-fo", *arguments)
    assert done.status == 0, done.err
    assert sorted(path.name for path in Path().glob("tuned*")) == [f"tuned{k}" for k in range(5)]
    assert "score -" in done.err
    assert (Path("state") / "schedule.safetensors").exists()
    assert len(fxprune.load("slim.pt2").report.steps) == 5


@pytest.mark.parametrize("data", ["batches.safetensors", "batches.npz"])
def test_batches_of_a_file(run: Run, data: str) -> None:
    arguments = ("--calibrate", data, "--batch", "4", "-o", "slim.pt2", "--quiet")
    done = run("prune", "net.pt2", "--spec", "apoz", *arguments)
    assert (done.status, done.err) == (0, "")


def test_batches_are_cut_along_the_leading_axis(files: Path) -> None:
    from fxprune.callbacks import read_batches

    assert [len(one) for one in read_batches(files / "batches.safetensors", 4)] == [4, 4, 2]
    named = read_batches(files / "batches.npz", 6)
    assert [{k: len(v) for k, v in one.items()} for one in named] == [
        {"input": 6, "label": 6},
        {"input": 4, "label": 4},
    ]


@pytest.mark.parametrize("given", ["spec.toml", "spec.yaml", *names()])
def test_spec_check(run: Run, given: str) -> None:
    done = run("spec", "check", given)
    assert (done.status, done.err, done.out.count("\n")) == (0, "", 1)
    assert done.out.startswith("ok: target ")
    assert "objective " in done.out


def test_spec_show_list_and_schema(run: Run) -> None:
    shown = run("spec", "show", "agp").out
    assert tomllib.loads(shown)["schedule"]["name"] == "agp"
    listed = run("spec", "list").out.splitlines()
    assert [line.split()[0] for line in listed] == names()
    assert json.loads(run("spec", "schema").out) == json.loads(json.dumps(Spec.json_schema()))


def test_export(run: Run) -> None:
    assert run("export", "net.pt2", "-o", "whole.onnx").status == 0
    assert {entry.key for entry in onnx.load("whole.onnx").metadata_props} >= {"fxprune.torch"}


def test_run(run: Run) -> None:
    done = run("run", "net.pt2", "--passes", STEPS, "-o", "slim.pt2")
    assert (done.status, done.err) == (0, "")
    assert [target.kept for target in fxprune.load("slim.pt2").plan.targets] == [8, 16]
    assert run("inspect", "slim.pt2").status == 0  # what comes out goes in again


def test_passes(run: Run) -> None:
    done = run("passes")
    assert done.status == 0
    assert all(f"\n{name}" in f"\n{done.out}" for name in PASSES)
    assert "ratio: float | None = None" in done.out


def test_help(run: Run) -> None:
    done = run("--help")
    assert done.status == 0
    commands = ("inspect", "prune", "export", "run", "passes", "spec")
    assert all(command in done.out for command in commands)


# ---- all that is wrong ---------------------------------------------------------------------------

BAD_SPECS = {
    "key": SPEC.replace("metric", "metrics"),
    "kind": SPEC.replace("channel", "chanel"),
    "name": SPEC.replace("l2", "l7"),
    "type": SPEC.replace("0.5", '"half"'),
    "allocation": f'allocation = "globl"\n{SPEC}',
    "deep": SPEC.replace("0.5", "0.0001"),
    "pattern": SPEC.replace('"channel"', '{ include = "9" }'),
}
BAD_CALLBACKS = {
    "none": "def train(): pass",
    "raises": "import math\nmath.sqrt(-1)",
    "syntax": "def loss(:",
    "number": "loss = 3",
    "one": "import torch\ncalibrate = torch.zeros(2)",
    "function": "def calibrate(): return []",
    "nan": "def evaluate(module): return float('nan')",
}


def spec(name: str) -> tuple[str, ...]:
    return ("prune", "net.pt2", "--spec", f"{name}.toml", "-o", "out.pt2")


def passes(text: str) -> tuple[str, ...]:
    return ("run", "net.pt2", "--passes", text, "-o", "out.pt2")


def model(*words: str) -> tuple[str, ...]:
    return ("prune", *words, "--spec", "spec.toml", "-o", "out.pt2")


def callbacks(*words: str) -> tuple[str, ...]:
    return ("prune", "net.pt2", "--spec", "spec.toml", "-o", "out.pt2", "--quiet", *words)


def output(name: str) -> tuple[str, ...]:
    return ("prune", "net.pt2", "--spec", "spec.toml", "-o", name)


PICKLE = ("net.pt", "--trust")
ERRORS: dict[str, tuple[tuple[str, ...], str]] = {
    "an unknown key": (spec("key"), 'key.toml: unknown key "metrics"; did you mean "metric"?'),
    "an unknown kind": (spec("kind"), 'unknown kind "chanel"; did you mean "channel"?'),
    "an unknown metric": (spec("name"), 'unknown metric "l7"; known: '),
    "a wrong type": (spec("type"), "objective.macs: 'half': input should be a valid number"),
    "an unknown allocation": (spec("allocation"), 'did you mean "global"?'),
    "an objective out of reach": (spec("deep"), "objective.macs: the selected targets can go down"),
    "a pattern of nothing": (spec("pattern"), 'target.include: unknown module "9"'),
    "no TOML": (spec("text"), "text.toml: not TOML"),
    "no spec": (spec("missing"), "missing.toml: the spec cannot be read: No such file"),
    "no model": (model("missing.pt2"), "missing.pt2: there is no such file"),
    "a folder": (model("."), "not a model"),
    "another suffix": (model("net.txt"), "net.txt: not a model: a .pt2 program or a .pt/.pth"),
    "half an archive": (model("half.pt2"), "half.pt2: is truncated or damaged"),
    "a text as .pt2": (model("text.pt2"), "text.pt2: is not a .pt2 archive"),
    "a text as .pt": (model("text.pt", "--trust", "--input-shape", "2"), "text.pt: cannot be"),
    "a pickle without trust": (model("net.pt"), "a pickled model runs code when it is loaded"),
    "a pickle without inputs": (model(*PICKLE), "needs --input-shape or --example"),
    "weights alone": (model("weights.pt", "--trust"), "is a state dict"),
    "a wrong shape": (model(*PICKLE, "--input-shape", "2,4,8,8"), "refuses (2, 4, 8, 8) float32"),
    "a wrong type of input": (
        model(*PICKLE, "--input-shape", "2,3,8,8:int64"),
        "refuses (2, 3, 8, 8) int64",
    ),
    "a wrong shape of a .pt2": (model("net.pt2", "--input-shape", "2,4,8,8"), "refuses (2, 4"),
    "no shape": (model(*PICKLE, "--input-shape", "a,b"), '"a,b" is not a shape; write 2,3,224,224'),
    "no dtype": (
        model(*PICKLE, "--input-shape", "2:float"),
        'unknown dtype "float"; known:',
    ),
    "two sorts of input": (
        model(*PICKLE, "--input-shape", "2", "--example", "example.pt"),
        "--input-shape, --example: give one of the two",
    ),
    "no example": (
        model(*PICKLE, "--example", "no.pt"),
        "no.pt: the example inputs cannot",
    ),
    "a pickled example": (model(*PICKLE, "--example", "net.pt"), "net.pt: holds more than tensors"),
    "an unknown pass": (passes("couple,scor"), 'unknown pass "scor"; did you mean "score"?'),
    "an unknown option": (passes("score{metrc=l1}"), 'unknown option "metrc"; did you mean'),
    "a wrong value": (passes("allocate{ratio=x}"), "passes.allocate.ratio: 'x' is refused"),
    "a wrong order": (passes("score"), "score: needs a program that is coupled; put couple"),
    "no passes": (passes("{"), "is not a list of passes"),
    "a bad suffix": (output("out.bin"), "out.bin: the name must end in .onnx or .pt2"),
    "no folder": (output("no/where.pt2"), "cannot be written: there is no folder"),
    "a folder to write": (output("folder.pt2"), "folder.pt2: is a directory"),
    "an unknown preset": (
        ("prune", "net.pt2", "--spec", "agpp", "-o", "out.pt2"),
        'unknown preset "agpp"; did you mean "agp"?',
    ),
    "no data": (
        ("prune", "net.pt2", "--spec", "apoz", "-o", "out.pt2"),
        "metric: apoz needs batches, and calibrate is missing",
    ),
    "no callbacks": (callbacks("--callbacks", "no.py"), "no.py: there is no such file"),
    "no Python": (callbacks("--callbacks", "spec.toml"), "spec.toml: a Python file is needed"),
    "callbacks of other names": (
        callbacks("--callbacks", "none.py"),
        "none.py: defines none of calibrate, loss, evaluate, fine_tune",
    ),
    "callbacks that raise": (
        callbacks("--callbacks", "raises.py"),
        "raises.py: it raised ValueError: math domain error",
    ),
    "callbacks that are no Python": (
        callbacks("--callbacks", "syntax.py"),
        "syntax.py: it raised SyntaxError",
    ),
    "a number for a function": (
        callbacks("--callbacks", "number.py"),
        "number.py: loss: a function is needed, not int",
    ),
    "one batch for many": (
        callbacks("--callbacks", "one.py"),
        "one.py: calibrate: an iterable of batches is needed, not Tensor",
    ),
    "a function for batches": (
        callbacks("--callbacks", "function.py"),
        "function.py: calibrate: an iterable of batches is needed, not function",
    ),
    "an evaluator of nothing": (
        callbacks("--callbacks", "nan.py"),
        "evaluate: it returned nan; a finite number is needed",
    ),
    "no batches": (callbacks("--calibrate", "no.npz"), "no.npz: the example inputs cannot be read"),
    "batches of a pickle": (
        callbacks("--calibrate", "example.pt"),
        "example.pt: batches are read from .safetensors or .npz",
    ),
    "uneven batches": (
        callbacks("--calibrate", "uneven.npz"),
        "uneven.npz: input holds 10 examples and label 9; make them as many",
    ),
    "batches of none": (callbacks("--calibrate", "batches.npz", "--batch", "0"), "--batch: 0: 1"),
    "batches twice": (
        callbacks("--calibrate", "batches.npz", "--callbacks", "training.py"),
        "--calibrate: training.py defines calibrate too; leave one of the two out",
    ),
    "a spec to check": (("spec", "check", "key.toml"), 'key.toml: unknown key "metrics"'),
    "a name to check": (("spec", "check", "lq"), 'unknown preset "lq"'),
    "no preset to show": (("spec", "show", "agpp"), 'unknown preset "agpp"; did you mean "agp"?'),
    "an export as .pt2": (("export", "net.pt2", "-o", "out.pt2"), "the name must end in .onnx"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_one_line_and_status_two(run: Run, name: str) -> None:
    arguments, said = ERRORS[name]
    Path("folder.pt2").mkdir()
    before = sorted(Path().iterdir())
    done = run(*arguments)
    assert done.status == 2
    assert done.err.startswith("fxprune: error: ")
    assert done.err.count("\n") == 1
    assert said in done.err
    assert done.out == ""
    assert sorted(Path().iterdir()) == before


USAGE = [("prune",), ("prune", "net.pt2"), ("unknown",), ("inspect", "net.pt2", "--jsn"), ("run",)]


@pytest.mark.parametrize("arguments", USAGE)
def test_usage_errors_are_status_two(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert "Usage" in done.err
    assert "Traceback" not in done.err


def test_a_failed_write_keeps_the_old_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out.pt2").write_text("old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", full)
    before = sorted(Path().iterdir())
    done = run(*output("out.pt2"))
    assert done.status == 2
    assert "No space left on device" in done.err
    assert Path("out.pt2").read_text() == "old"
    assert sorted(Path().iterdir()) == before


def test_the_module_is_the_command(files: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fxprune", "prune", str(files / "net.pt2")]
    good = [
        *command,
        "--spec",
        str(files / "spec.toml"),
        "-o",
        str(tmp_path / "slim.pt2"),
        "--quiet",
    ]
    done = subprocess.run(good, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "slim.pt2").exists()
    bad = [*command, "--spec", str(files / "key.toml"), "-o", str(tmp_path / "other.pt2")]
    done = subprocess.run(bad, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert not (tmp_path / "other.pt2").exists()
