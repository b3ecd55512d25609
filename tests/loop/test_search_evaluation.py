"""Each allocation with each objective on a small net; what evaluators are given, and do wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import pipeline
from fxprune.allocators import ALLOCATORS, Choice
from fxprune.capture import capture
from fxprune.errors import CallbackError, SpecError
from fxprune.loop.trials import Trials
from fxprune.passes import make as make_pass
from fxprune.passes import removing
from tests.support.small_blocks import IMAGES, Blocks


class Net(nn.Module):
    """Three convolutions of one resolution and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 48, 3, padding=1)
        self.three, self.head = nn.Conv2d(48, 40, 3, padding=1), nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.three(self.two(self.one(x).relu()).relu()).relu()
        return self.head(x.mean((2, 3)))


def liveliness(module: nn.Module) -> float:
    """Score a `Net`, masked or shrunk: what is left of its second layer is worth most."""
    found = {name: p.detach() for name, p in module.named_parameters()}
    live = [
        float((found[f"{name}.weight"].flatten(1).abs().sum(1) > 0).sum()) / width
        for name, width in (("one", 32), ("two", 48), ("three", 40))
    ]
    return 1.0 - float(np.dot([0.2, 1.0, 0.1], [(1 - share) ** 2 for share in live]))


OBJECTIVES = [("ratio", 0.4), ("params", 0.5), ("macs", 0.5), ("bytes", 0.5), ("activations", 0.6)]
SHORT: dict[str, dict[str, Any]] = {
    "simulated-annealing": {"trials": 12},
    "optuna": {"trials": 12},
    "netadapt": {"step": 0.1},
    "threshold": {"adjust": True},
}


@pytest.mark.parametrize("allocation", ALLOCATORS)
@pytest.mark.parametrize(("objective", "goal"), OBJECTIVES)
def test_every_allocation_meets_every_objective(
    allocation: str, objective: str, goal: float
) -> None:
    spec = {
        "objective": {objective: goal},
        "allocation": {"name": allocation, **SHORT.get(allocation, {})},
    }
    slim = fxprune.prune(Net().eval(), spec, IMAGES, evaluate=liveliness)
    kept = 1 - goal if objective == "ratio" else goal
    achieved = slim.report.steps[-1].achieved
    assert achieved == pytest.approx(kept, rel=0.015 if objective == "ratio" else 0.01)
    assert slim(IMAGES[0]).isfinite().all()


@pytest.mark.parametrize("allocation", [n for n in ALLOCATORS if ALLOCATORS[n].needs == "evaluate"])
def test_a_search_in_steps_is_of_the_original(allocation: str) -> None:
    few = {"trials": 40} if "trials" in SHORT.get(allocation, {}) else {}
    spec = {
        "objective": {"macs": 0.4},
        "allocation": {"name": allocation, "min_keep": 9, "round_to": 2, **few},
        "schedule": {"name": "linear", "steps": 2},
    }
    report = fxprune.prune(Net().eval(), spec, IMAGES, evaluate=liveliness).report
    assert [step.goal for step in report.steps] == pytest.approx([0.7, 0.4])
    assert report.steps[-1].achieved == pytest.approx(0.4, rel=0.01)
    assert min(t.kept for t in report.targets) >= 9
    uniform = spec | {"allocation": "uniform"}
    other = fxprune.prune(Net().eval(), uniform, IMAGES, evaluate=liveliness).report
    assert report.steps[-1].score > other.steps[-1].score


# ---- what the evaluator is given, and what it does -----------------------------------------------


@pytest.mark.parametrize("goal", [0.7, 0.3])
def test_a_masked_evaluation_equals_a_shrunk_one(goal: float) -> None:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    model = Blocks().eval()
    for norm in (model.norm, *model.bn1, *model.bn2):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.weight, 0.5, 2.0)

    seen: list[int] = []

    def evaluate(module: nn.Module) -> float:
        seen.append(sum(p.numel() for p in module.parameters()))
        with torch.no_grad():
            return float(module(x).double().square().sum())

    steps = [
        make_pass("couple", {}),
        make_pass("score", {"metric": "l2"}),
        make_pass("allocate", {"objective": {"macs": goal}}),
    ]
    program = pipeline.run(capture(model, IMAGES), steps)
    choice = Choice(program[Choice].alive, 0.0)
    masked = Trials(evaluate).score(program, choice)
    shrunk = evaluate(pipeline.run(program, removing()).module)
    assert masked == pytest.approx(shrunk, rel=1e-5)
    assert seen[0] > seen[1], "the first was the whole model, with zeros"
    assert masked != pytest.approx(evaluate(model), rel=1e-3)


BROKEN: dict[str, tuple[Callable[[nn.Module], float], str]] = {
    "raises": (lambda module: 1 / 0, "evaluate: it raised ZeroDivisionError"),
    "nan": (lambda module: float("nan"), "evaluate: it returned nan"),
    "text": (lambda module: "good", "evaluate: it raised ValueError"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("allocation", [n for n in ALLOCATORS if ALLOCATORS[n].needs == "evaluate"])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_evaluator_is_said(broken: str, allocation: str) -> None:
    evaluate, said = BROKEN[broken]
    model = Net().eval()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    spec = {"allocation": allocation, "objective": {"macs": 0.5}}
    with pytest.raises(CallbackError, match=said) as error:
        fxprune.prune(model, spec, IMAGES, evaluate=evaluate)
    assert "\n" not in str(error.value)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "trials": ({"name": "simulated-annealing", "trials": 1}, "trials=1"),
    "reach": ({"name": "simulated-annealing", "reach": 0.0}, "reach=0"),
    "sampler": ({"name": "optuna", "sampler": "cmaes"}, "allocation.sampler.*cma-es"),
    "no trials": ({"name": "optuna", "trials": 0}, "trials=0"),
    "step": ({"name": "sensitivity", "step": 0.0}, "step=0"),
    "decay": ({"name": "netadapt", "decay": 1.5}, "decay=1.5"),
    "storage": ({"name": "optuna", "storage": "nowhere"}, "allocation.storage: 'nowhere'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_are_said(name: str) -> None:
    allocation, said = WRONG[name]
    spec = {"allocation": allocation, "objective": {"macs": 0.5}}
    with pytest.raises(SpecError, match=said) as error:
        fxprune.prune(Net().eval(), spec, IMAGES, evaluate=liveliness)
    assert "allocation" in str(error.value)
    assert "\n" not in str(error.value)
