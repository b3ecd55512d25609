"""The loop: schedules in terms of the original, callbacks, optimizers, and killed runs."""

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
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.errors import CallbackError, CheckpointError, FxpruneError, SpecError
from fxprune.schedules import SCHEDULES, make


class Net(nn.Module):
    """A stem, a residual block and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.wide, self.back = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 1)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.back(F.relu(self.wide(x)))
        return self.head(self.drop(x.mean((2, 3))))


def network() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    made = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 3, 8, 8, generator=made), torch.randint(5, (8,), generator=made))
        for _ in range(count)
    ]


def loss(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


X = (torch.randn(2, 3, 8, 8),)


def train(module: nn.Module, step: int) -> None:
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    for batch in batches():
        optimizer.zero_grad()
        loss(module, batch).backward()
        optimizer.step()


# ---- schedules -----------------------------------------------------------------------------------

CURVES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "one-shot": ({}, [0.8]),
    "linear": ({"steps": 4}, [0.2, 0.4, 0.6, 0.8]),
    "agp": ({"steps": 4}, [0.8 * (1 - (1 - t / 4) ** 3) for t in (1, 2, 3, 4)]),
    "exponential": ({"steps": 3}, [1 - 0.2 ** (t / 3) for t in (1, 2, 3)]),
    "lottery-ticket": ({"steps": 3}, [1 - 0.2 ** (t / 3) for t in (1, 2, 3)]),
    "movement": (
        {"steps": 5, "cooldown": 1},
        [*(0.8 * (1 - (1 - t / 4) ** 3) for t in (1, 2, 3, 4)), 0.8],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_curves_of_the_papers(name: str) -> None:
    options, curve = CURVES[name]
    schedule = make(name, options)
    found = [schedule.sparsity(t, 0.8) for t in range(1, schedule.count + 1)]
    assert found == pytest.approx(curve)
    assert found[-1] == 0.8


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("objective", [{"macs": 0.4}, {"params": 0.4}, {"ratio": 0.6}])
@pytest.mark.parametrize("name", SCHEDULES)
def test_each_step_is_of_the_original(
    name: str, objective: dict[str, float], allocation: str
) -> None:
    steps: list[int] = []
    spec = {
        "schedule": {"name": name, **CURVES[name][0]},
        "objective": objective,
        "allocation": {"name": allocation, "round_to": 1},
    }
    slim = fxprune.prune(network(), spec, X, fine_tune=lambda module, step: steps.append(step))
    schedule = make(name, CURVES[name][0])
    final = 1 - objective["macs"] if "macs" in objective else 0.6
    goals = [1 - schedule.sparsity(t, final) for t in range(1, schedule.count + 1)]
    report = slim.report
    assert steps == list(range(schedule.warmup + schedule.count))
    assert [step.goal for step in report.steps] == pytest.approx(goals)
    assert [step.achieved for step in report.steps] == pytest.approx(goals, rel=0.08)
    if "macs" in objective:
        whole = fxprune.analyze(network(), X).macs
        assert report.macs_before == whole
        assert report.macs_after / whole == pytest.approx(0.4, rel=0.03)
    units = {"stem:channel": 16, "wide:channel": 32}
    assert {t.name: t.units for t in report.targets} == units
    for target in report.targets:
        module = target.name.split(":")[0]
        assert target.kept == len(slim.state_dict()[f"{module}.weight"])
    assert slim(torch.randn(5, 3, 8, 8)).shape == (5, 5)


@pytest.mark.parametrize("name", ["linear", "lottery-ticket"])
def test_the_plan_is_of_the_original(name: str) -> None:
    """Without training, what is left is the original's weights at the plan's indices."""
    model, spec = network(), {"schedule": {"name": name, "steps": 3}, "objective": {"macs": 0.4}}
    slim = fxprune.prune(model, spec, X, fine_tune=lambda module, step: None)
    given = dict(model.state_dict())
    for name, tensor in slim.state_dict().items():
        wanted = given[name]
        for dim, index in enumerate(slim.plan.kept.get(name, ())):
            wanted = wanted.index_select(dim, index)
        assert torch.equal(tensor, wanted), name


def test_bounds_are_of_the_original() -> None:
    spec = {
        "schedule": {"name": "linear", "steps": 4},
        "objective": {"macs": 0.5},
        "allocation": {"name": "global", "max_ratio": 0.5, "min_keep": 10, "round_to": 1},
    }
    for target in fxprune.prune(network(), spec, X).report.targets:
        assert target.kept >= max(10, target.units / 2)


def test_min_ratio_is_taken_from_every_target() -> None:
    spec = {
        "objective": {"macs": 0.9},
        "allocation": {"name": "global", "min_ratio": 0.25, "round_to": 1},
    }
    report = fxprune.prune(network(), spec, X).report
    assert all(target.kept <= 0.75 * target.units for target in report.targets)


def test_a_lottery_ticket_is_wound_back_and_trained_again() -> None:
    seen: list[float] = []
    model = network()

    def tune(module: nn.Module, step: int) -> None:
        seen.append(float(module.get_parameter("head.bias").detach().sum()))
        with torch.no_grad():
            module.get_parameter("head.bias").add_(1.0)

    spec = {"schedule": {"name": "lottery-ticket", "steps": 2}, "objective": {"ratio": 0.5}}
    slim = fxprune.prune(model, spec, X, fine_tune=tune)
    given = float(model.head.bias.detach().sum())
    assert seen == pytest.approx([given] * 3)
    assert float(slim.get_parameter("head.bias").detach().sum()) == pytest.approx(given + 5)


def test_the_caller_is_left_as_it_was() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    spec = {"schedule": {"name": "agp", "steps": 2}, "objective": {"macs": 0.5}}
    slim = fxprune.prune(model, spec, X, fine_tune=train)
    assert not model.training
    assert not slim.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# ---- the default fine-tuning, and optimizers -----------------------------------------------------


def test_the_default_fine_tuning_learns() -> None:
    data = batches(4)
    tune = fxprune.FineTune(batches=data, loss=loss, epochs=6, lr=0.1)
    spec = {"schedule": {"name": "agp", "steps": 2}, "objective": {"macs": 0.5}}
    bare = fxprune.prune(network(), spec, X)
    slim = fxprune.prune(network(), spec, X, fine_tune=tune)

    def measured(module: nn.Module) -> float:
        with torch.no_grad():
            return sum(float(loss(module, batch)) for batch in data)

    assert measured(slim) < 0.95 * measured(bare)


def test_recalibration_makes_the_statistics_those_of_the_batches() -> None:
    data, model = batches(2), network()
    tune = fxprune.FineTune(batches=data, loss=loss, epochs=0)
    slim = fxprune.prune(model, {"objective": {"macs": 0.5}}, X, fine_tune=tune)
    seen = torch.cat([slim.stem(images) for images, _ in data])
    assert torch.allclose(slim.norm.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert slim.norm.momentum == 0.1
    assert not slim.training


def test_distillation_follows_the_teacher() -> None:
    model, data = network(), batches(2)
    teacher = network()
    with torch.no_grad():
        teacher.head.bias.add_(torch.tensor([3.0, 0, 0, 0, 0]))
    tune = fxprune.FineTune(
        batches=data, loss=loss, epochs=20, lr=0.1, teacher=teacher, distillation=1.0
    )
    slim = fxprune.prune(model, {"objective": {"macs": 0.8}}, X, fine_tune=tune)
    images = data[0][0]
    assert (slim(images).argmax(1) == 0).all()
    assert not (model(images).argmax(1) == 0).all()


def test_momentum_survives_the_cut() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    for index, one in enumerate(model.parameters()):
        ramp = torch.arange(one.numel(), dtype=torch.float32).reshape(one.shape)
        optimizer.state[one] = {"momentum_buffer": ramp + index, "note": 7}
    order = [name for name, _ in model.named_parameters()]
    seen: list[int] = []

    def tune(module: nn.Module, step: int) -> None:
        held = [one for group in optimizer.param_groups for one in group["params"]]
        assert {id(one) for one in held} == {id(one) for one in module.parameters()}
        seen.append(step)

    spec = {"schedule": {"name": "linear", "steps": 2}, "objective": {"macs": 0.4}}
    slim = fxprune.prune(model, spec, X, fine_tune=tune, optimizer=optimizer)
    assert seen == [0, 1]
    given = dict(model.named_parameters())
    for name, parameter in slim.named_parameters():
        state = optimizer.state[parameter]
        wanted = torch.arange(given[name].numel(), dtype=torch.float32).reshape(given[name].shape)
        for dim, index in enumerate(slim.plan.kept[name]):
            wanted = wanted.index_select(dim, index)
        assert torch.equal(state["momentum_buffer"], wanted + order.index(name))
        assert state["note"] == 7
    assert len(optimizer.state) == len(list(slim.parameters()))


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
        {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)},
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
import sys, torch
sys.path.insert(0, {tests!r})
from test_loop import *
def tune(module, step):
    if step == {stop}: os.kill(os.getpid(), signal.SIGKILL)
    train(module, step)
slim = fxprune.prune(network(), RESUMED["agp"], X0, fine_tune=tune, checkpoint={folder!r})
print("PLAN", [t.kept for t in slim.report.targets], sum(float(p.sum()) for p in slim.parameters()))
"""


def test_a_process_that_was_killed_goes_on(tmp_path: Path) -> None:
    def run(folder: str, stop: int) -> subprocess.CompletedProcess[str]:
        text = KILLED.format(tests=str(Path(__file__).parent), stop=stop, folder=folder)
        text = text.replace("X0", "(torch.ones(2, 3, 8, 8),)")
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
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
