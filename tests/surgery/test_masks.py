"""Masks of weights stay: through training, copies, files and compilation, step by step."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import fxprune
from tests.support.masked_net import X, network, train, zeroed

# ---- masks stay ----------------------------------------------------------------------------------

TARGETS: dict[str, dict[str, Any]] = {
    "elements": {"kind": "block"},
    "rows": {"kind": "block", "block": "all", "axes": [0]},
    "filters": {
        "kind": "block",
        "block": ["all", "all", "all"],
        "axes": [1, 2, 3],
        "type": "Conv2d",
    },
    "ragged": {"kind": "block", "block": [3, 3], "axes": [0, 1]},
    "2:4": {"kind": "block", "block": {"n": 2, "m": 4}, "axes": [0], "include": ["first"]},
    "biases": {"kind": "block", "tensor": "bias"},
}


@pytest.mark.parametrize("name", TARGETS)
def test_masks_stay_through_everything(name: str, tmp_path: Path) -> None:
    model = network()
    spec = {"target": TARGETS[name], "objective": {"ratio": 0.5}}
    slim = fxprune.prune(model, spec, X)
    masks = slim.plan.masks
    assert masks
    assert all(0 < int(mask.sum()) < mask.numel() for mask in masks.values())
    with torch.no_grad():
        wanted = copy.deepcopy(model)
        for key, mask in masks.items():
            wanted.get_parameter(key).mul_(mask)
        assert torch.allclose(slim(*X), wanted(*X), atol=1e-6)
    path = tmp_path / "slim.pt2"
    fxprune.save(slim, path)
    pickled = io.BytesIO()
    torch.save(slim, pickled)
    pickled.seek(0)
    copies = {
        "itself": slim,
        "a copy": copy.deepcopy(slim),
        "a pickle": torch.load(pickled, weights_only=False),
        "a file": fxprune.load(path),
    }
    for what, one in copies.items():
        train(one.train())
        one.eval()
        one(*X)  # weights after the optimizer's last step are masked by the next forward
        assert zeroed(one), what
        assert {key: mask.tolist() for key, mask in one.plan.masks.items()} == {
            key: mask.tolist() for key, mask in masks.items()
        }
        for key, mask in masks.items():
            assert torch.equal(one.state_dict()[f"{key}_mask"], mask)
    fresh = fxprune.prune(model, spec, X)
    fresh.load_state_dict(slim.state_dict())
    assert torch.equal(fresh(*X), slim(*X))


def test_the_onnx_file_holds_the_zeros(tmp_path: Path) -> None:
    spec = {"target": {"kind": "block"}, "objective": {"ratio": 0.75}}
    slim = fxprune.prune(network(), spec, X)
    train(slim.train())
    slim.eval()
    fxprune.export_onnx(slim, tmp_path / "slim.onnx")
    values = {
        one.name: onnx.numpy_helper.to_array(one)
        for one in onnx.load(tmp_path / "slim.onnx").graph.initializer
    }
    assert any((value == 0).mean() > 0.7 for value in values.values() if value.ndim == 4)
    session = onnxruntime.InferenceSession(tmp_path / "slim.onnx")
    feeds = {session.get_inputs()[0].name: X[0].numpy()}
    assert np.allclose(session.run(None, feeds)[0], slim(*X).detach().numpy(), atol=1e-5)


def test_what_is_masked_is_said_apart_from_what_is_removed() -> None:
    spec = {"target": {"kind": "block"}, "objective": {"params": 0.5}}
    report = fxprune.prune(network(), spec, X).report
    assert report.parameters_after == report.parameters_before
    assert report.masked == pytest.approx(0.5 * report.parameters_before, rel=0.01)
    assert any("make neither the file nor a run" in note for note in report.notes)


def test_channels_and_elements_in_one_specification() -> None:
    spec = {
        "target": [{"kind": "channel"}, {"kind": "block", "metric": "l1"}],
        "allocation": "global",
        "objective": {"params": 0.4},
    }
    model = network()
    slim = fxprune.prune(model, spec, X)
    report = slim.report
    hidden = sum(int((~mask).sum()) for mask in slim.plan.masks.values())
    left = sum(p.numel() for p in slim.parameters()) - hidden
    assert left == report.parameters_after - report.masked
    assert left / report.parameters_before == pytest.approx(0.4, rel=0.01)
    assert report.parameters_after < report.parameters_before
    assert all(
        mask.shape == slim.get_parameter(name).shape for name, mask in slim.plan.masks.items()
    )


# ---- schedules, and masks that may be taken back -------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "agp", "exponential", "lottery-ticket"])
def test_schedules_on_elements(name: str) -> None:
    spec = {
        "target": {"kind": "block"},
        "schedule": {"name": name, "steps": 3},
        "objective": {"ratio": 0.8},
    }
    seen: list[float] = []

    def tune(module: nn.Module, step: int) -> None:
        train(module, step)
        with torch.no_grad():
            module(*X)
        weights = [p for p in module.parameters() if p.ndim > 1]
        gone = sum(int((p == 0).sum()) for p in weights)
        seen.append(gone / sum(p.numel() for p in weights))

    slim = fxprune.prune(network(), spec, X, fine_tune=tune)
    assert zeroed(slim)
    goals = [1 - step.goal for step in slim.report.steps]
    assert seen[-3:] == pytest.approx(goals, abs=0.01)


def test_movement_lets_masked_weights_come_back() -> None:
    """What the first step masks is not what the last does, though every step masks more."""
    spec = {
        "target": {"kind": "block"},
        "metric": "movement",
        "schedule": {"name": "movement", "steps": 4, "cooldown": 0},
        "objective": {"ratio": 0.6},
    }
    zeros: list[dict[str, Tensor]] = []

    def tune(module: nn.Module, step: int) -> None:
        train(module, step)
        masks = dict(module.named_buffers())
        zeros.append({k: ~v for k, v in masks.items() if k.endswith("_mask")})

    slim = fxprune.prune(network(), spec, X, fine_tune=tune)
    first, last = zeros[1], zeros[-1]
    assert any(bool((first[key] & ~last[key]).any()) for key in first)
    assert zeroed(slim)
    held = copy.deepcopy(slim)
    assert torch.equal(held(*X), slim(*X))


def test_a_mask_straight_through_hides_and_gives_back() -> None:
    from fxprune.surgery import masks

    model = network()
    dense = model.second.weight.detach().clone()
    mask = torch.rand_like(dense) > 0.5
    masks.attach(model, {"second.weight": mask}, dense=True)
    with torch.no_grad():
        model(*X)
    assert torch.equal(model.second.weight, dense)
    model(*X).square().sum().backward()
    assert torch.equal(model.second.weight, dense)
    reached = model.second.weight.grad
    assert reached is not None
    assert bool((reached[~mask] != 0).any())
    other = network()
    with torch.no_grad():
        other.second.weight.mul_(mask)
    other(*X).square().sum().backward()
    assert torch.allclose(reached, other.second.weight.grad)  # of the masked model, everywhere
    assert torch.allclose(model.first.weight.grad, other.first.weight.grad)


# ---- compiled ------------------------------------------------------------------------------------


def moving(module: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer with a momentum that pushes every weight, those at zero as well."""
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9, weight_decay=0.1)
    for parameter in module.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
    return optimizer


@pytest.mark.parametrize("whole", [True, False])
def test_masks_hold_in_a_compiled_loop(whole: bool) -> None:
    """Compiled as one graph, trained with a momentum that moves masked weights at every step."""
    slim = fxprune.prune(network(), {"target": {"kind": "block"}, "objective": {"ratio": 0.5}}, X)
    masks = slim.plan.masks
    plain = copy.deepcopy(slim)
    compiled = torch.compile(slim, backend="aot_eager", fullgraph=whole)
    pairs = [(compiled, slim, moving(slim.train())), (plain, plain, moving(plain.train()))]
    made = torch.Generator().manual_seed(0)
    for _ in range(3):
        images, losses = torch.randn(4, 3, 8, 8, generator=made), []
        for run, module, optimizer in pairs:
            loss = run(images).square().sum()
            assert zeroed(module), "in the forward"
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert not zeroed(module)  # what the momentum does, until somebody looks
            state = module.state_dict()
            assert not any(bool(state[name][~mask].any()) for name, mask in masks.items())
            losses.append(loss.detach())
        torch.testing.assert_close(losses[0], losses[1])
    slim.eval(), plain.eval()
    torch.testing.assert_close(compiled(*X), plain(*X))


def test_a_compiled_module_lets_gradients_through_masks() -> None:
    """Movement in a compiled loop: the mask is on in the forward, and off for the optimizer."""
    from fxprune.surgery import masks

    model, other = network(), network()
    dense = model.second.weight.detach().clone()
    mask = torch.rand_like(dense) > 0.5
    for one in (model, other):
        masks.attach(one, {"second.weight": mask}, dense=True)
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(*X), other(*X))
    compiled(*X).square().sum().backward()
    other(*X).square().sum().backward()
    assert torch.equal(model.second.weight, dense)
    torch.testing.assert_close(model.second.weight.grad, other.second.weight.grad)
    with torch.no_grad():
        compiled(*X)
    assert torch.equal(model.second.weight, dense)
