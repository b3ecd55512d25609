"""The loop: schedules in terms of the original, callbacks and optimizers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.schedules import SCHEDULES, make
from tests.loop.looped import X, batches, loss, network, train

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
