"""Metrics that learn, in a whole run: who looks on and when, killed and resumed, and refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import CallbackError, CheckpointError, FxpruneError, SpecError
from tests.loop.training_loops import (
    NAME,
    moved,
    plain,
    same,
    spec,
)
from tests.support.metrics_of import scores
from tests.support.small_nets import Residual, X

# ---- in the loop ---------------------------------------------------------------------------------


TRAINED: dict[str, Any] = {
    "movement": "movement",
    "slim": {"name": "slim", "penalty": 0.01},
    "admm": {"name": "admm", "rho": 0.1},
}


@pytest.mark.parametrize("name", TRAINED)
def test_nobody_looks_on_after_the_last_removal(name: str) -> None:
    hooks: list[int] = []

    def tune(module: nn.Module, step: int) -> None:
        hooks.append(sum(len(p._backward_hooks or ()) for p in module.parameters()))
        plain(module)

    schedule = {"name": "linear", "steps": 2, "warmup": 1}
    slim = fxprune.prune(Residual(), spec(TRAINED[name], **schedule), X, fine_tune=tune)
    assert [count > 0 for count in hooks] == [True, True, False]
    assert len(slim.state_dict()["stem.weight"]) == 3


def test_movement_removes_what_moved_towards_zero() -> None:
    model, seen = Residual(), list[dict[str, Tensor]]()

    def tune(module: Any, step: int) -> None:
        if not seen:
            seen.append(moved(copy.deepcopy(module), plain))
        plain(module)

    slim = fxprune.prune(model, spec("movement", warmup=1), X, fine_tune=tune)
    learned = {f"movement:{name}": one for name, one in seen[0].items()}
    score = scores(model, "movement", X, learned=learned)[NAME]
    kept = slim.plan.kept["stem.weight"][0].tolist()
    assert sorted(kept) == sorted(np.argsort(score)[3:].tolist())
    magnitude = np.argsort(scores(model, "l2", X)[NAME])[3:].tolist()
    assert sorted(kept) != sorted(magnitude)  # else this shows nothing


@pytest.mark.parametrize("name", TRAINED)
def test_a_killed_run_goes_on_with_what_it_learned(name: str, tmp_path: Any) -> None:
    schedule = {"name": "linear", "steps": 3, "warmup": 3}
    given, torn = spec(TRAINED[name], **schedule), list[int]()

    def tune(module: nn.Module, step: int) -> None:
        if step == 4 and not torn:
            torn.append(step)
            raise KeyboardInterrupt
        plain(module)

    model = Residual()
    with pytest.raises(KeyboardInterrupt):
        fxprune.prune(model, given, X, fine_tune=tune, checkpoint=tmp_path)
    resumed = fxprune.prune(model, given, X, fine_tune=tune, checkpoint=tmp_path)
    whole = fxprune.prune(model, given, X, fine_tune=tune)
    assert resumed.plan == whole.plan
    same(resumed, whole)
    with pytest.raises(CheckpointError):
        fxprune.prune(model, spec("l2"), X, checkpoint=tmp_path)


def diverge(module: nn.Module, step: int) -> None:
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))


def tune(module: nn.Module, step: int) -> None:
    plain(module)


WARM = {"warmup": 1}
ERRORS: dict[str, tuple[Any, dict[str, Any], dict[str, Any], type[FxpruneError], str]] = {
    "movement without fine_tune": (
        "movement",
        {},
        {},
        SpecError,
        "movement learns while .*missing",
    ),
    "movement without a warm-up": (
        "movement",
        {"fine_tune": tune},
        {},
        SpecError,
        "one-shot removes before that; set its warmup to 1 or more",
    ),
    "admm without a warm-up": ("admm", {"fine_tune": tune}, {}, SpecError, "set its warmup"),
    "a penalty without fine_tune": (TRAINED["slim"], {}, {}, SpecError, "slim learns while"),
    "a penalty without a warm-up": (
        TRAINED["slim"],
        {"fine_tune": tune},
        {},
        SpecError,
        "set its warmup",
    ),
    "no backward pass": (
        "movement",
        {"fine_tune": lambda module, step: None},
        WARM,
        CallbackError,
        "fine_tune: no backward pass with finite gradients reached the weights of stem:channel",
    ),
    "weights that are not numbers": (
        "movement",
        {"fine_tune": diverge},
        WARM,
        CallbackError,
        "holds values that are not finite",
    ),
    "a fine_tune that raises": (
        "admm",
        {"fine_tune": lambda module, step: 1 / 0},
        WARM,
        CallbackError,
        "fine_tune: it raised ZeroDivisionError",
    ),
    "a negative penalty": (
        {"name": "slim", "penalty": -1.0},
        {},
        {},
        SpecError,
        "penalty=-1: 0 or more is needed",
    ),
    "no rho": ({"name": "admm", "rho": 0.0}, {}, {}, SpecError, "rho=0: a number above 0"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_learned(name: str) -> None:
    metric, calls, schedule, error, said = ERRORS[name]
    model = Residual()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(error, match=said) as raised:
        fxprune.prune(model, spec(metric, **schedule), X, **calls)
    assert "\n" not in str(raised.value)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert not any(p._backward_hooks for p in model.parameters())


# ---- several of a kind ---------------------------------------------------------------------------


def both(*metrics: Any) -> dict[str, Any]:
    targets = [{"include": ["stem"]}, {"kind": "block", "include": ["head"]}]
    return {
        "target": [{**t, "metric": m} for t, m in zip(targets, metrics, strict=True)],
        "allocation": {"round_to": 1},
        "schedule": {"name": "one-shot", "warmup": 1},
        "objective": {"ratio": 0.3},
    }


def test_two_of_a_kind_learn_once() -> None:
    """A reduction or a normalisation of its own does not make a metric learn a second time."""
    hooks: list[int] = []

    def tune(module: nn.Module, step: int) -> None:
        hooks.append(max(len(p._backward_hooks or ()) for p in module.parameters()))
        plain(module)

    pair = [{"name": "movement", "normalize": "mean"}, {"name": "movement", "reduction": "mean"}]
    fxprune.prune(Residual(), both(*pair), X, fine_tune=tune)
    assert hooks[0] == 1
    fxprune.prune(Residual(), both("movement", {"name": "admm", "rho": 0.1}), X, fine_tune=tune)
    assert max(hooks) == 2  # of two kinds each learns its own


OTHER: dict[str, tuple[Any, Any, str]] = {
    "rho": (
        {"name": "admm", "rho": 0.1},
        "admm",
        r"target\.1\.metric: admm with rho=0\.001 would learn from the same weights as "
        r"target\.0\.metric with rho=0\.1",
    ),
    "mode": (
        "movement",
        {"name": "movement", "mode": "soft"},
        "movement with mode=soft would .* mode=hard",
    ),
    "penalty": (
        {"name": "slim", "penalty": 1e-3},
        {"name": "slim", "penalty": 1e-4},
        "slim with penalty=0.0001 would",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_two_of_a_kind_that_would_learn_otherwise_are_refused(name: str) -> None:
    one, other, said = OTHER[name]
    with pytest.raises(SpecError, match=said) as raised:
        fxprune.prune(Residual(), both(one, other), X, fine_tune=tune)
    assert "\n" not in str(raised.value)


def test_admm_alternates_between_the_steps_of_a_schedule_too() -> None:
    """Z and U are renewed after every training but the last: Z is what would stay of W + U."""
    found: list[dict[str, Tensor]] = []
    given = spec({"name": "admm", "rho": 0.1}, warmup=2)
    given |= {"schedule": {"name": "linear", "steps": 3, "warmup": 2}}
    from fxprune.metrics.admm import Admm

    class Watched:
        def __init__(self) -> None:
            self.settle = Admm.settle

        def __call__(self, metric: Any, name: str, *rest: Any) -> None:
            self.settle(metric, name, *rest)
            if name == "stem.weight":
                weight, keep, learned = rest
                found.append({"w": weight.clone(), "keep": keep.clone(), **learned})

    watched_settle = Watched()
    Admm.settle = lambda *given: watched_settle(*given)  # type: ignore[method-assign]
    try:
        fxprune.prune(Residual(), given, X, fine_tune=tune)
    finally:
        Admm.settle = watched_settle.settle  # type: ignore[method-assign]
    assert len(found) == 4  # two of the warm-up, and after the first two of three removals
    assert [len(one["w"]) for one in found] == [6, 6, 5, 4]
    for one in found:
        z = one["admm-z:stem.weight"]
        assert z.shape == one["w"].shape
        assert not z[~one["keep"]].any()
    assert not torch.equal(found[2]["admm-z:stem.weight"], found[1]["admm-z:stem.weight"][:5])
