"""The command line: every command, and for all that is wrong one line, status 2 and no file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxprune
from fxprune.pipeline import PASSES
from fxprune.spec import Spec
from fxprune.spec.presets import names
from tests.cli.wrong_commands import BAD_CALLBACKS, BAD_SPECS, ERRORS, SPEC, output
from tests.support.command import Done

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
    (folder / "net.onnx").write_text("not a model")
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


Run = Callable[..., Done]


@pytest.fixture
def run(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    """Return a call of the command in a folder of its own, that holds the files."""
    folder = tmp_path / "work"
    shutil.copytree(files, folder)
    monkeypatch.chdir(folder)
    return command


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


def test_a_specification_trains(run: Run) -> None:
    Path("trained.toml").write_text('preset = "recover"\n[fine_tune]\nepochs = 1\n')
    arguments = ("--calibrate", "batches.safetensors", "--batch", "4", "-o", "slim.pt2")
    done = run("prune", "net.pt2", "--spec", "trained.toml", *arguments)
    assert done.status == 0, done.err
    assert "\nfine-tuning 0: 1 epoch;" in done.out
    assert "━" not in done.err  # no bar where nobody looks on
    (told,) = fxprune.load("slim.pt2").report.tunings
    assert told.epochs[0].features is not None


def test_batches_are_cut_along_the_leading_axis(files: Path) -> None:
    from fxprune.cli.callback_files import read_batches

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
    assert done.err.startswith("fxprune: error: ")
    assert done.err.count("\n") == 1
    assert f"see fxprune {arguments[0]}".removesuffix(" unknown") in done.err


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
