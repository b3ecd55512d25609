"""Every metric of the registry on every small network: whatever the structure, numbers come out."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import fxprune
from fxprune import passes, pipeline
from fxprune.capture import capture
from fxprune.errors import CalibrationError, SpecError
from fxprune.loop.learned_metrics import watching
from fxprune.metrics import METRICS, Calibration, make
from fxprune.metrics.registry import Lessons, Needs, Scored
from fxprune.plan import Plan
from fxprune.targets import Discovery, Selection
from tests.networks.test_structures import NETWORKS


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_a_frozen_dataclass_that_says_what_it_needs(name: str) -> None:
    cls: Any = METRICS[name]
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert cls.needs in get_args(Needs)
    assert str(cls.__doc__).strip()


def size(module: torch.nn.Module, batch: Any) -> torch.Tensor:
    """Return the mean square of everything that a module returns."""
    leaves = pytree.tree_leaves(module(*batch))
    return sum((one.float().square().mean() for one in leaves), torch.zeros(()))


# they write in place to what autograd still needs, or call what has no gradient
UNDIFFERENTIABLE = {
    "RoutedExperts",
    "Counted",
    "SteppedWrites",
    "WrittenIndex",
    "WrittenThroughViews",
}


@pytest.mark.parametrize("name", sorted(UNDIFFERENTIABLE))
def test_torch_itself_refuses_what_cannot_be_differentiated(name: str) -> None:
    model: Any = next(network for network in NETWORKS if network.__name__ == name)()
    with pytest.raises(RuntimeError):
        size(model, model.inputs).backward()


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_numbers_come_out(network: Any) -> None:
    model = network().eval()
    program = capture(model, model.inputs).with_(Calibration([model.inputs], size))
    program = pipeline.run(program, [passes.make("couple", {})])
    if not program[Discovery].targets:
        return
    program = pipeline.run(program, [passes.make("select", {})])
    for name in [name for name, cls in METRICS.items() if cls.needs != "training"]:
        options = {"per": "batch"} if name == "fisher" else {}
        score = passes.make("score", {"metric": name, "options": options})
        try:
            scored = pipeline.run(program, [score])
        except SpecError:
            if name != "slim":  # which is right where there is no norm
                raise
            continue
        except CalibrationError as error:  # which is right where torch has no gradients
            if name == "reap" and "scores experts" in str(error):  # and where there are none
                continue
            if network.__name__ not in UNDIFFERENTIABLE or "cannot differentiate" not in str(error):
                raise
            continue
        for target, found in zip(scored[Selection].targets, scored[Scored].scores, strict=True):
            assert found.shape == (len(target),), name
            assert np.isfinite(found).all(), name
            assert name == "mean-activation" or (found >= 0).all(), name


LEARNED: list[dict[str, Any]] = [
    *({"name": name} for name, cls in METRICS.items() if cls.needs == "training"),
    {"name": "slim", "penalty": 0.01},
]


def step(module: Any, inputs: Any) -> None:
    optimizer = torch.optim.SGD(module.parameters(), 1e-3)
    size(module, inputs).backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("number", range(len(NETWORKS)), ids=lambda k: NETWORKS[k].__name__)
def test_what_is_learned_ranks_and_prunes(number: int) -> None:
    """All learn from one training and rank; one of them, each time another, prunes in the loop."""
    model: Any = NETWORKS[number]().eval()
    trains = any(p.requires_grad for p in model.parameters())
    program = pipeline.run(capture(model, model.inputs), [passes.make("couple", {})])
    if not trains or not program[Discovery].targets or type(model).__name__ in UNDIFFERENTIABLE:
        return
    program = pipeline.run(program, [passes.make("select", {})])
    module: Any = pipeline.run(program, [passes.make("restore", {})]).module.train()
    learners = [make(one["name"], {k: v for k, v in one.items() if k != "name"}) for one in LEARNED]
    learned: dict[str, torch.Tensor] = {}
    with watching(learners, program.module, module, learned):  # type: ignore[arg-type]
        step(module, model.inputs)
    able = [one for one in LEARNED if _ranks(program.with_(Lessons(learned)), one)]
    assert len(able) >= len(LEARNED) - 1  # slim needs norms
    metric = able[number % len(able)]
    spec = {
        "metric": metric,
        "allocation": {"round_to": 1},
        "schedule": {"name": "one-shot", "warmup": 2 if metric["name"] == "admm" else 1},
        "objective": {"ratio": 0.5},
    }
    slim = fxprune.prune(
        model, spec, model.inputs, fine_tune=lambda module, _: step(module, model.inputs)
    )
    assert any(one.kept < one.units for one in slim.plan.targets), metric


def _ranks(program: Any, metric: dict[str, Any]) -> bool:
    """Tell whether a metric can rank the targets, and check that units go by its numbers."""
    name, options = metric["name"], {k: v for k, v in metric.items() if k != "name"}
    chain = [
        passes.make("score", {"metric": name, "options": options}),
        passes.make("allocate", {"ratio": 0.5, "round_to": 1}),
    ]
    try:
        found = pipeline.run(program, chain)
    except SpecError:
        if name != "slim":  # which is right where there is no norm
            raise
        return False
    assert all(np.isfinite(score).all() for score in found[Scored].scores), metric
    assert any(one.kept < one.units for one in found[Plan].targets), metric
    return True
