"""Networks in quantization-aware training are pruned, and remain what they are."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization as quantization
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.quantization import quantize_fx

import fxprune
from fxprune.capture import capture
from fxprune.errors import ExportError
from tests.support.noise import noise

X = noise(4, 3, 10, 10)
SPEC: dict[str, Any] = {
    "metric": "l2",
    "objective": {"ratio": 0.5},
    "allocation": {"round_to": 1},
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.first, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.relu, self.second = nn.ReLU(), nn.Conv2d(16, 8, 3)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(self.quant(x))))
        return self.dequant(self.last(self.second(x)))


class PerChannel(nn.Module):
    """A convolution whose weight is rounded a channel, one axis of its input a channel too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)
        weight = self.first.weight.detach()
        self.register_buffer("scale", weight.abs().amax((1, 2, 3)) / 127)
        self.register_buffer("zero", torch.zeros(16, dtype=torch.int32))
        self.register_buffer("steps", torch.full((16,), 0.02))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.fake_quantize_per_channel_affine(
            self.first.weight, self.scale, self.zero, 0, -127, 127
        )
        x = F.conv2d(x, weight, self.first.bias).relu()
        x = torch.fake_quantize_per_channel_affine(x, self.steps, self.zero, 1, 0, 255)
        return self.last(torch.fake_quantize_per_tensor_affine(x, 0.05, 3, -16, 47))


def eager(config: Any) -> nn.Module:
    model = Net().train()
    model.qconfig = config
    return quantization.prepare_qat(model)


def traced() -> nn.Module:
    mapping = quantization.get_default_qat_qconfig_mapping("x86")
    return quantize_fx.prepare_qat_fx(Net().train(), mapping, (X,))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "fused": lambda: eager(quantization.get_default_qat_qconfig("x86")),
    "fused, traced with its norm": traced,
    "by a module that asks its switches": lambda: eager(quantization.default_qat_qconfig),
    "by a module, a channel": lambda: eager(
        quantization.get_default_qat_qconfig("fbgemm", version=0)
    ),
    "in plain operators": PerChannel,
}
FUSED = list(NETWORKS)[:2]


def network(name: str, *, observing: bool = False) -> nn.Module:
    """Return a network that has seen some batches, its observers perhaps still on."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch tells that this part of it will move
        model = NETWORKS[name]()
    model.train()
    for _ in range(3):
        model(torch.randn(4, 3, 10, 10))
    if not observing:
        model.apply(quantization.disable_observer)
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_are_removed_exactly(name: str) -> None:
    """The removal verifies itself, in the numbers and in the gradients."""
    model = network(name)
    targets = fxprune.analyze(model, (X,)).targets
    assert targets
    assert all(target.exact for target in targets)
    slim = fxprune.prune(model, SPEC, (X,))
    assert all(plan.kept == (plan.units + 1) // 2 for plan in slim.plan.targets)
    names = set(model.state_dict())
    assert set(slim.state_dict()) <= names
    assert slim(noise(7, 3, 10, 10)).shape[0] == 7


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_the_zeroed_model(name: str) -> None:
    model = network(name)
    slim = fxprune.prune(model, SPEC, (X,))
    whole = capture(model, (X,)).module
    kept, biases = slim.plan.kept, [n for n in slim.state_dict() if n.endswith("bias")]
    with torch.no_grad():
        for name, axes in kept.items():  # a weight of zero is rounded to zero
            parameter = dict(whole.named_parameters()).get(name)
            for dim, index in enumerate(axes) if parameter is not None else ():
                gone = torch.ones(parameter.shape[dim], dtype=torch.bool)
                gone[index] = False
                if not (name.endswith("bn.weight") or name.endswith("norm.weight")):
                    parameter.data.movedim(dim, 0)[gone] = 0.0
    mine, theirs = dict(slim.named_parameters()), dict(whole.named_parameters())
    for module in (slim, whole):
        module(X).square().sum().backward()
    for name in biases:
        expected = theirs[name].grad[kept[name][0]]
        torch.testing.assert_close(mine[name].grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FUSED)
def test_observers_go_on(name: str) -> None:
    """What was on is on: each channel that is kept has its own range, and follows what it sees."""
    model = network(name, observing=True)
    whys = [target.why for target in fxprune.analyze(model, (X,)).targets if not target.exact]
    assert any("the range of what it sees" in why for why in whys)
    slim = fxprune.prune(model, SPEC, (X,)).train()
    before = copy.deepcopy(slim.state_dict())
    ranges = [n for n in before if n.endswith(("min_val", "max_val"))]
    assert any(before[n].shape != model.state_dict()[n].shape for n in ranges)
    slim(10 * X)
    after = slim.state_dict()
    assert any(not torch.equal(before[n], after[n]) for n in ranges)


@pytest.mark.parametrize("name", NETWORKS)
def test_in_onnx_runtime(name: str, tmp_path: Path) -> None:
    """A last bit may be a step of a grid; most entries are the same to the last bits."""
    import onnxruntime

    slim = fxprune.prune(network(name), SPEC, (X,))
    fxprune.export_onnx(slim, tmp_path / "slim.onnx")
    session = onnxruntime.InferenceSession(
        str(tmp_path / "slim.onnx"), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    wanted = slim(X).detach().numpy()
    near = np.isclose(found, wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())
    assert near.mean() > 0.9


def test_a_file_has_no_observers(tmp_path: Path) -> None:
    slim = fxprune.prune(network("fused", observing=True), SPEC, (X,))
    with pytest.raises(ExportError, match=r"set the buffer \S+observer_enabled to 0 first"):
        fxprune.export_onnx(slim, tmp_path / "slim.onnx")
    for name, buffer in slim.named_buffers():
        if name.endswith("observer_enabled"):
            buffer.zero_()
    fxprune.export_onnx(slim, tmp_path / "slim.onnx")
