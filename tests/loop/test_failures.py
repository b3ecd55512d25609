"""The loop when something goes wrong: said in a line, nothing broken, and killed runs go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import CallbackError, CheckpointError, FxpruneError, SpecError
from tests.loop.looped import Net, X, batches, loss, network

# ---- what goes wrong -----------------------------------------------------------------------------


def raising(*_: Any) -> Any:
    raise ValueError("the disk is full\nand more")


def poison(module: nn.Module, step: int) -> None:
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))


STEPS = {"schedule": {"name": "linear", "steps": 2}, "objective": {"macs": 0.5}}
TUNED = {"schedule": {"name": "linear", "steps": 2, "warmup": 1}, "objective": {"macs": 0.5}}
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], type[FxpruneError], str]] = {
    "an evaluator raises": (STEPS, {"evaluate": raising}, CallbackError, "evaluate: it raised Val"),
    "an evaluator gives nan": (
        STEPS,
        {"evaluate": lambda module: float("nan")},
        CallbackError,
        "evaluate: it returned nan",
    ),
    "an evaluator gives nothing": (
        STEPS,
        {"evaluate": lambda module: None},
        CallbackError,
        "evaluate: it raised TypeError",
    ),
    "training raises": (STEPS, {"fine_tune": raising}, CallbackError, "fine_tune: it raised Value"),
    "training breaks the weights": (STEPS, {"fine_tune": poison}, CallbackError, "not finite"),
    "training is no function": (STEPS, {"fine_tune": 3}, CallbackError, "fine_tune: a function is"),
    "a warm-up without training": (TUNED, {}, SpecError, "fine_tune is missing"),
    "no batches": (
        STEPS,
        {"fine_tune": fxprune.FineTune(batches=[], loss=loss)},
        FxpruneError,
        "there is no batch",
    ),
    "a loss that is nan": (
        STEPS,
        {"fine_tune": fxprune.FineTune(batches=batches(), loss=lambda m, b: m(b[0]).sum() * 1e999)},
        CallbackError,
        "the loss is",
    ),
    "an optimizer of something else": (
        STEPS,
        {"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(2))], 0.1)},
        CallbackError,
        "optimizer: it holds a parameter that the model has not",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_goes_wrong_is_said_and_nothing_is_broken(name: str, tmp_path: Path) -> None:
    spec, given, error, said = WRONG[name]
    model = network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(error, match=said) as raised:
        fxprune.prune(model, spec, X, checkpoint=tmp_path / "run", **given)
    assert "\n" not in str(raised.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert [name for name in left if name.startswith(".")] == []  # no half-written file


# ---- killed and gone on --------------------------------------------------------------------------

RESUMED: dict[str, dict[str, Any]] = {
    "agp": {"schedule": {"name": "agp", "steps": 3}, "objective": {"macs": 0.4}},
    "lottery": {"schedule": {"name": "lottery-ticket", "steps": 2}, "objective": {"ratio": 0.5}},
    "data": {
        "metric": "taylor-fo",
        "allocation": "global",
        "schedule": {"name": "linear", "steps": 2, "warmup": 1},
        "objective": {"params": 0.5},
    },
}


def shuffled(optimizer: torch.optim.Optimizer | None) -> Callable[[nn.Module, int], None]:
    """Return a training that depends on chance, and on its optimizer's momentum."""

    def tune(module: nn.Module, step: int) -> None:
        used = optimizer or torch.optim.SGD(module.parameters(), 0.05)
        data = batches()
        for k in torch.randperm(len(data)).tolist():
            used.zero_grad()
            loss(module, data[k]).backward()
            used.step()

    return tune


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_run_that_stopped_goes_on(name: str, at: int, carried: bool, tmp_path: Path) -> None:
    def run(folder: Path, stop: int | None) -> Any:
        torch.manual_seed(3)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9) if carried else None
        tune = shuffled(optimizer)

        def stopping(module: nn.Module, step: int) -> None:
            tune(module, step)
            if step == stop:
                raise KeyboardInterrupt

        return fxprune.prune(
            model,
            RESUMED[name],
            X,
            calibrate=batches(),
            loss=loss,
            fine_tune=stopping,
            optimizer=optimizer,
            checkpoint=folder,
        )

    whole = run(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", at)
    torch.rand(7)  # another process would have another state of chance
    again = run(tmp_path / "cut", None)
    assert again.plan == whole.plan
    assert again.report.steps == whole.report.steps
    state = again.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in whole.state_dict().items())


KILLED = """
import os, signal, torch
import fxprune
from tests.loop.looped import *
from tests.loop.test_failures import RESUMED
def tune(module, step):
    if step == {stop}: os.kill(os.getpid(), signal.SIGKILL)
    train(module, step)
slim = fxprune.prune(network(), RESUMED["agp"], X0, fine_tune=tune, checkpoint={folder!r})
print("PLAN", [t.kept for t in slim.report.targets], sum(float(p.sum()) for p in slim.parameters()))
"""


def test_a_process_that_was_killed_goes_on(tmp_path: Path) -> None:
    def run(folder: str, stop: int) -> subprocess.CompletedProcess[str]:
        text = KILLED.format(stop=stop, folder=folder)
        text = text.replace("X0", "(torch.ones(2, 3, 8, 8),)")
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run(
            [sys.executable, "-c", text],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )

    whole = run(str(tmp_path / "whole"), -1)
    assert whole.returncode == 0, whole.stderr
    assert run(str(tmp_path / "cut"), 1).returncode == -signal.SIGKILL
    again = run(str(tmp_path / "cut"), -1)
    assert again.stdout == whole.stdout
    assert "PLAN" in again.stdout


def test_a_checkpoint_of_another_is_refused(tmp_path: Path) -> None:
    fxprune.prune(network(), STEPS, X, checkpoint=tmp_path)
    other = {**STEPS, "objective": {"macs": 0.6}}
    with pytest.raises(CheckpointError, match="is of another model, specification"):
        fxprune.prune(network(), other, X, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="is of another model, specification"):
        fxprune.prune(Net().eval(), STEPS, X, checkpoint=tmp_path)
    (tmp_path / "schedule.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        fxprune.prune(network(), STEPS, X, checkpoint=tmp_path)
