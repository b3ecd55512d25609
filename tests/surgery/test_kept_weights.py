"""What is kept of a computed weight keeps its values: as if the weights were plain parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from tests.support.computed_weights import WRAPS, X, plain, wrapped

SPEC: dict[str, Any] = {
    "metric": "l2",
    "objective": {"ratio": 0.5},
    "allocation": {"round_to": 1},
}
CONSTANT = ("standardised", "weight norm of computed lengths")  # they keep what left as constants


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 2e-5 * b.abs().max())


@pytest.mark.parametrize("name", WRAPS)
def test_every_target_is_exact(name: str) -> None:
    targets = fxprune.analyze(wrapped(name), (X,)).targets
    assert len(targets) == 3
    assert all(target.exact for target in targets)


@pytest.mark.parametrize("schedule", ["one-shot", {"name": "linear", "steps": 2}])
@pytest.mark.parametrize("name", WRAPS)
def test_removal_gives_what_it_gives_of_plain_weights(name: str, schedule: Any) -> None:
    net = wrapped(name)
    slim, other = (
        fxprune.prune(one, {**SPEC, "schedule": schedule}, (X,)) for one in (net, plain(net))
    )
    for x in (X, torch.randn(3, 3, 9, 9)):
        assert close(slim(x), other(x))


@pytest.mark.parametrize("name", WRAPS)
def test_gradients_are_those_of_plain_weights(name: str) -> None:
    """Of the inputs, and of the parameters that are not computed with."""
    net = wrapped(name)
    slims = [fxprune.prune(one, SPEC, (X,)) for one in (net, plain(net))]
    x = X.clone().requires_grad_()
    found = []
    for slim in slims:
        parameters = dict(slim.named_parameters())
        biases = [parameters[f"{layer}.bias"] for layer in ("first", "up", "hidden", "last")]
        found.append(torch.autograd.grad(slim(x).square().sum(), [x, *biases]))
    assert all(close(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", WRAPS)
def test_state_keeps_its_names(name: str) -> None:
    """A norm is mended in the tensors that it has, so that their names and meaning stay."""
    net = wrapped(name)
    slim = fxprune.prune(net, SPEC, (X,))
    new = set(slim.state_dict()) - set(net.state_dict())
    assert all(one.endswith("_constant") for one in new)
    assert bool(new) is (name in CONSTANT)


def test_the_layer_can_be_built_anew_from_its_state() -> None:
    """What stands in the state dict is a weight norm, a spectral norm, of the smaller size."""
    for name in ("weight norm", "spectral norm"):
        net = wrapped(name)
        slim = fxprune.prune(net, SPEC, (X,))
        kept = slim.plan.kept["last.weight"][1], slim.plan.kept["hidden.bias"][0]
        assert torch.equal(*kept)
        state = slim.state_dict()
        inside = {key: value for key, value in state.items() if key.startswith("hidden.")}
        rows, columns = state["hidden.bias"].shape[0], state["up.bias"].shape[0]
        layer = WRAPS[name](nn.Linear(columns, rows)).eval()
        layer.load_state_dict({key.removeprefix("hidden."): v for key, v in inside.items()})
        places = slim.plan.kept["hidden.bias"][0], slim.plan.kept["up.bias"][0]
        assert close(layer.weight, net.hidden.weight[places[0]][:, places[1]])


@pytest.mark.parametrize("name", WRAPS)
def test_masking_zeroes_what_is_read(name: str) -> None:
    passes = "couple,score{metric=l2},allocate{ratio=0.5,round_to=1},mask"
    net = wrapped(name)
    found, wanted = (fxprune.run(one, passes, (X,))(X) for one in (net, plain(net)))
    assert close(found, wanted)


@pytest.mark.parametrize("name", WRAPS)
def test_in_onnx_runtime(name: str, tmp_path: Path) -> None:
    """The export itself compares the file with the module."""
    slim = fxprune.prune(wrapped(name), SPEC, (X,))
    fxprune.export_onnx(slim, tmp_path / "slim.onnx")


class Divided(nn.Module):
    """A scale that multiplies a weight, and by which the result is divided again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.norm.weight / (self.norm.running_var + 1e-5).sqrt()
        weight = self.conv.weight * scale.view(-1, 1, 1, 1)
        return self.last(self.norm(nn.functional.conv2d(x, weight) / scale.view(1, -1, 1, 1)))


class Shared(nn.Module):
    """One normed weight that is computed in two calls, and read plain in a third."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)
        self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.inner(self.first(x).relu()).relu()).relu()
        return self.last(x * self.inner.parametrizations.weight.original0.flatten())


@pytest.mark.parametrize(
    ("net", "x"), [(Divided, X), (Shared, X[:, :, 0, 0])], ids=["divided", "shared"]
)
def test_what_else_reads_the_tensors(net: Any, x: Tensor) -> None:
    """The removal is verified: what is kept computes what it computed."""
    model = net().eval()
    assert all(target.exact for target in fxprune.analyze(model, (x,)).targets)
    slim = fxprune.prune(model, SPEC, (x,))
    assert any(plan.kept < plan.units for plan in slim.plan.targets)
