"""Metrics that learn while the caller fine-tunes, against loops that do the same by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.capture import capture
from fxprune.errors import CallbackError, CheckpointError, FxpruneError, SpecError
from fxprune.metrics import METRICS, make
from fxprune.watching import watching
from tests.metrics_of import scores
from tests.small_nets import Residual, X

BATCHES = [(torch.randn(4, 3, 6, 6), torch.randint(4, (4,))) for _ in range(4)]
NAME = "stem:channel"
Gradients = Callable[[nn.Module, Tensor], None]  # of a loss: brings them to the parameters
Penalty = Callable[[nn.Module], None]  # called before each step of the optimizer


def entropy(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def backward(module: nn.Module, loss: Tensor) -> None:
    loss.backward()


def nothing(module: nn.Module) -> None:
    pass


def plain(module: nn.Module, brings: Gradients = backward, before: Penalty = nothing) -> None:
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
    for batch in BATCHES:
        optimizer.zero_grad()
        brings(module, entropy(module, batch))
        before(module)
        optimizer.step()


def zeroed(module: nn.Module, brings: Gradients = backward, before: Penalty = nothing) -> None:
    optimizer = torch.optim.AdamW(module.parameters(), 0.01)
    for batch in BATCHES:
        optimizer.zero_grad(set_to_none=False)
        brings(module, entropy(module, batch))
        before(module)
        optimizer.step()


def accumulated(module: nn.Module, brings: Gradients = backward, before: Penalty = nothing) -> None:
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    for pair in (BATCHES[:2], BATCHES[2:]):
        for batch in pair:
            brings(module, entropy(module, batch) / 2)
        before(module)
        nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


LOOPS = [plain, zeroed, accumulated]


def watched(model: nn.Module, metric: Any, loop: Any, learned: dict[str, Tensor]) -> None:
    with watching([metric], capture(model, X).module, model, learned):
        loop(model)
    assert not any(p._backward_hooks for p in model.parameters())


def same(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], msg=name)


# ---- movement ------------------------------------------------------------------------------------


def moved(model: nn.Module, loop: Any) -> dict[str, Tensor]:
    """Return −Σ g·w of every parameter, g being the gradient of one backward pass alone."""
    found = {name: torch.zeros_like(p) for name, p in model.named_parameters()}

    def brings(module: nn.Module, loss: Tensor) -> None:
        named = dict(module.named_parameters())
        for (name, p), g in zip(
            named.items(), torch.autograd.grad(loss, [*named.values()]), strict=True
        ):
            found[name] -= g * p.detach()
            p.grad = g if p.grad is None else p.grad + g

    loop(model, brings)
    return found


@pytest.mark.parametrize("loop", LOOPS)
def test_movement_adds_up_every_backward_pass_once(loop: Any) -> None:
    model = Residual()
    twin = copy.deepcopy(model)
    learned: dict[str, Tensor] = {}
    watched(model, make("movement", {}), loop, learned)
    wanted = moved(twin, loop)
    same(model, twin)
    assert learned.keys() == {f"movement:{name}" for name in wanted}
    for name, tensor in wanted.items():
        torch.testing.assert_close(learned[f"movement:{name}"], tensor, msg=name)
    watched(model, make("movement", {}), loop, learned)  # and goes on
    more = moved(twin, loop)
    torch.testing.assert_close(
        learned["movement:stem.weight"], wanted["stem.weight"] + more["stem.weight"]
    )


def test_movement_sums_over_the_footprint() -> None:
    model = Residual().eval()
    learned = {f"movement:{name}": torch.randn_like(p) for name, p in model.named_parameters()}
    s = {name.removeprefix("movement:"): one.numpy() for name, one in learned.items()}
    body = s["body.weight"]
    made = [s["stem.weight"].sum((1, 2, 3)), body.sum((1, 2, 3)), s["stem.bias"], s["body.bias"]]
    made += [s[f"{norm}.{kind}"] for norm in ("norm", "other") for kind in ("weight", "bias")]
    parts = [*made, body.sum((0, 2, 3)), s["head.weight"].sum(0)]
    found = scores(model, "movement", X, learned=learned)[NAME]
    np.testing.assert_allclose(found, sum(parts), rtol=1e-4, atol=1e-5)
    assert (found < 0).any()
    most = scores(model, "movement", X, learned=learned, reduction="max")[NAME]
    np.testing.assert_allclose(most, np.max(parts, axis=0), rtol=1e-4, atol=1e-5)


def test_movement_leaves_out_gradients_that_are_not_finite() -> None:
    def scaled(module: nn.Module) -> None:
        entropy(module, BATCHES[0]).backward()
        (entropy(module, BATCHES[1]) * float("inf")).backward()

    model, learned = Residual().eval(), dict[str, Tensor]()
    watched(model, make("movement", {}), scaled, learned)
    twin, once = copy.deepcopy(model), dict[str, Tensor]()
    watched(twin, make("movement", {}), lambda m: entropy(m, BATCHES[0]).backward(), once)
    for name, tensor in once.items():
        torch.testing.assert_close(learned[name], tensor)


def test_frozen_and_shared_parameters() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight
            self.two.bias.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).relu())

    model, x, learned = Tied(), torch.randn(3, 4), dict[str, Tensor]()
    with watching([make("movement", {})], capture(model, (x,)).module, model, learned):
        model(x).square().mean().backward()
    assert model.one.weight.grad is not None
    (shared,) = learned.keys() - {"movement:one.bias"}  # under one of its two names
    torch.testing.assert_close(learned[shared], -model.one.weight.grad * model.one.weight.detach())


# ---- slim ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_slim_penalises_the_scales_once_a_step(loop: Any) -> None:
    model = Residual()
    twin = copy.deepcopy(model)

    def before(module: Any) -> None:
        for norm in (module.norm, module.other):
            norm.weight.grad += 0.1 * norm.weight.detach().sign()

    watched(model, make("slim", {"penalty": 0.1}), loop, {})
    loop(twin, backward, before)
    same(model, twin)
    other = copy.deepcopy(twin)
    loop(other)
    assert not torch.equal(other.norm.weight, twin.norm.weight)


def test_slim_without_a_penalty_needs_and_watches_nothing() -> None:
    graph = capture(Residual().eval(), X).module
    assert make("slim", {}).needs == METRICS["slim"].needs == "nothing"
    assert make("slim", {}).watched(graph) == []
    assert make("slim", {"penalty": 0.1}).needs == "training"
    assert METRICS["slim"].needs == "nothing"
    assert make("slim", {"penalty": 0.1}).watched(graph) == ["norm.weight", "other.weight"]


# ---- ADMM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_admm_alternates(loop: Any) -> None:
    model, keep = Residual(), torch.ones(6, 3, 3, 3, dtype=torch.bool)
    keep[[1, 4]] = False
    twin, metric, learned = copy.deepcopy(model), make("admm", {"rho": 0.5}), dict[str, Tensor]()
    z = u = None

    def before(module: Any) -> None:
        if z is not None:
            w = module.stem.weight
            w.grad += 0.5 * (w.detach() - z + u)

    for _ in range(3):
        watched(model, metric, loop, learned)
        for name, p in model.named_parameters():
            mine = keep if name == "stem.weight" else torch.ones_like(p, dtype=torch.bool)
            metric.settle(name, p.detach(), mine, learned)
        loop(twin, backward, before)
        w = twin.stem.weight.detach()
        z, u = (w * keep, 0 * w) if z is None else ((w + u) * keep, w + u - (w + u) * keep)
    same(model, twin)
    assert learned.keys() == {"admm-z:stem.weight", "admm-u:stem.weight"}
    torch.testing.assert_close(learned["admm-z:stem.weight"], z)
    torch.testing.assert_close(learned["admm-u:stem.weight"], u)
    assert u is not None
    assert u.abs().max() > 0
    with torch.no_grad():
        whole = copy.deepcopy(model)
        whole.stem.weight += u
    found = scores(model, "admm", X, learned=learned)[NAME]
    np.testing.assert_allclose(found, scores(whole, "l2", X)[NAME], rtol=1e-5)
    assert not np.allclose(found, scores(model, "l2", X)[NAME])


def test_admm_drives_what_will_leave_towards_zero() -> None:
    def left(rho: float) -> float:
        """Return the share of the smaller channels in the energy of the stem after a warm-up."""
        seen: list[float] = []

        def tune(module: Any, step: int) -> None:
            plain(module)
            energy = module.stem.weight.detach().square().sum((1, 2, 3)).sort().values
            seen.append(float(energy[: len(energy) // 2].sum() / energy.sum()))

        torch.manual_seed(0)
        metric = {"name": "admm", "rho": rho}
        fxprune.prune(Residual(), spec(metric, warmup=6), X, fine_tune=tune)
        return seen[5]

    assert left(2.0) < left(1e-6) / 10


# ---- in the loop ---------------------------------------------------------------------------------


def spec(metric: Any, **schedule: Any) -> dict[str, Any]:
    return {
        "metric": metric,
        "allocation": {"round_to": 1},
        "schedule": {"name": "one-shot", **schedule},
        "objective": {"ratio": 0.5},
    }


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
