"""Movement, hard and soft, against loops that do the same by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.capture import capture
from fxprune.loop.learned_metrics import watching
from fxprune.metrics import make
from tests.loop.training_loops import (
    BATCHES,
    LOOPS,
    NAME,
    entropy,
    moved,
    plain,
    same,
    watched,
)
from tests.support.metrics_of import scores
from tests.support.small_nets import Residual, X

# ---- movement ------------------------------------------------------------------------------------


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


# ---- soft ----------------------------------------------------------------------------------------

SOFT = {"mode": "soft", "rate": 0.3, "penalty": 0.7}


def softly(model: nn.Module, loop: Any, grid: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """Return S of every parameter after a loop, by the formula; of blocks of rows × columns."""
    found = {name: torch.zeros_like(p) for name, p in model.named_parameters()}

    def blocked(moved: Tensor) -> Tensor:
        if grid is None or moved.ndim < 2:
            return moved
        result = torch.zeros_like(moved)
        for i in range(0, moved.shape[0], grid[0]):
            for j in range(0, moved.shape[1], grid[1]):
                part = (slice(i, i + grid[0]), slice(j, j + grid[1]))
                result[part] = moved[part].sum((0, 1))
        return result

    def brings(module: nn.Module, loss: Tensor) -> None:
        named = dict(module.named_parameters())
        for (name, p), g in zip(
            named.items(), torch.autograd.grad(loss, [*named.values()]), strict=True
        ):
            moved, kept = blocked(g * p.detach()), torch.sigmoid(found[name])
            size = moved.square().mean().sqrt()
            step = (moved / size if size > 0 else moved) + 0.7 * kept * (1 - kept)
            found[name] = found[name] - 0.3 * step
            p.grad = g if p.grad is None else p.grad + g

    loop(model, brings)
    return found


@pytest.mark.parametrize("loop", LOOPS)
def test_soft_scores_descend_the_loss_and_the_penalty(loop: Any) -> None:
    model, learned = Residual(), dict[str, Tensor]()
    twin = copy.deepcopy(model)
    watched(model, make("movement", SOFT), loop, learned)
    wanted = softly(twin, loop)
    same(model, twin)
    for name, tensor in wanted.items():
        found = learned[f"movement:{name}"]
        torch.testing.assert_close(found, tensor, msg=name, atol=1e-4, rtol=1e-3)


def soft(target: Any, **changes: Any) -> dict[str, Any]:
    return {
        "target": target,
        "metric": {"name": "movement", **SOFT},
        "allocation": {"name": "threshold", "threshold": 0.45},
        "schedule": {"name": "one-shot", "warmup": 1},
        "objective": {"ratio": 0.5},
        **changes,
    }


BLOCKS: dict[str, Any] = {
    "elements": (1, 1),
    "blocks": (2, 2),
    "ragged blocks": (4, 5),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_whose_learned_score_is_under_the_threshold_are_masked(name: str) -> None:
    torch.manual_seed(5)
    model, seen = Residual(), list[dict[str, Tensor]]()
    grid = BLOCKS[name]

    def tune(module: Any, step: int) -> None:
        if not seen:
            seen.append(softly(copy.deepcopy(module), plain, grid))
        plain(module)

    target = {"kind": "block", "block": list(grid), "axes": [0, 1]}
    far = {"ratio": 0.9}  # from what is learned, which would meet another one by chance
    slim = fxprune.prune(model, soft(target, objective=far), X, fine_tune=tune)
    shares = []
    for key, mask in slim.plan.masks.items():
        wanted = seen[0][key].sigmoid()
        clear = (wanted - 0.45).abs() > 1e-4
        over = wanted > 0.45
        if not over.any():  # the best block stays all the same
            assert int(mask.sum()) == int((wanted >= wanted[mask].min()).sum()), key
            over = mask
        assert torch.equal(mask[clear], over[clear]), key
        shares.append(float(mask.float().mean()))
    assert max(shares) > min(shares)  # how much leaves which tensor was learned, not given
    (said,) = [note for note in slim.report.notes if note.startswith("objective.ratio")]
    assert "asked 0.9" in said
    assert "scores above the threshold of 0.45" in said
    assert float(said.split("achieved ")[1].split(":")[0]) == pytest.approx(
        1.0 - slim.report.steps[-1].achieved, abs=1e-4
    )


@pytest.mark.parametrize("target", ["channel", {"kind": "block", "block": 2}])
def test_the_higher_the_penalty_the_sparser(target: Any) -> None:
    def left(penalty: float) -> float:
        torch.manual_seed(0)
        metric = {"name": "movement", "mode": "soft", "rate": 0.2, "penalty": penalty}
        given = soft(target, metric=metric)
        slim = fxprune.prune(Residual(), given, X, fine_tune=lambda module, step: plain(module))
        return slim.report.steps[-1].achieved

    found = [left(penalty) for penalty in (0.0, 0.5, 1.0, 4.0)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.5
    assert found[0] > found[-1] + 0.3


def test_a_unit_of_several_tensors_has_the_mean_score_of_its_weights() -> None:
    model = Residual().eval()
    learned = {f"movement:{name}": torch.randn_like(p) for name, p in model.named_parameters()}
    s = {name.removeprefix("movement:"): one for name, one in learned.items()}
    body = s["body.weight"]
    parts = [s["stem.weight"].flatten(1), body.flatten(1), body.transpose(0, 1).flatten(1)]
    parts += [s["head.weight"].T, s["stem.bias"][:, None], s["body.bias"][:, None]]
    parts += [
        s[f"{norm}.{kind}"][:, None] for norm in ("norm", "other") for kind in ("weight", "bias")
    ]
    wanted = torch.cat(parts, 1).mean(1).sigmoid()
    found = scores(model, "movement", X, learned=learned, mode="soft")[NAME]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4)


@pytest.mark.parametrize("objective", [{"ratio": 0.3}, {"params": 0.6}])
def test_a_threshold_that_may_move_meets_the_objective(objective: Any) -> None:
    given = soft(
        {"kind": "block"},
        allocation={"name": "threshold", "adjust": True},
        schedule={"name": "movement", "steps": 3},
        objective=objective,
    )
    slim = fxprune.prune(Residual(), given, X, fine_tune=lambda module, step: plain(module))
    (name, goal), step = *objective.items(), slim.report.steps[-1]
    kept = 1.0 - goal if name == "ratio" else goal
    assert step.achieved == pytest.approx(kept, rel=0.01)
    assert not any(note.startswith("objective") for note in slim.report.notes)
