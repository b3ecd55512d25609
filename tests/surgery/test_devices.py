"""A model on a GPU is pruned there, whatever is put into its graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from tests.support.pretended_gpu import GPU, PretendedGpu

HALF = {"objective": {"ratio": 0.5}}
EXACT = {"kind": "all", "exact": True}


def net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1)),
        *(nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(144, 3)),
    ).eval()


class Rolled(nn.Module):
    """Roll, and take every third channel: the shrunk graph picks both by indices."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        return self.last(torch.roll(self.first(x), 5, -1)[:, ::3])


class Sparse(nn.Module):
    """Hold units that are dead: their weights are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 24), nn.Linear(24, 3)
        with torch.no_grad():
            self.first.weight[::3] = 0

    def forward(self, x: Tensor) -> Any:
        return self.last(self.first(x).relu())


def pictures() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def rows() -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def tuned(module: nn.Module, step: int) -> None:
    optimizer = torch.optim.SGD(module.parameters(), 0.01)
    x = pictures().to(next(module.parameters()).device)
    for _ in range(2):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()


def loss(module: nn.Module, batch: Any) -> Tensor:
    return module(batch).square().mean()


def pruned(spec: dict[str, Any], **more: Any) -> Callable[[nn.Module, Any], nn.Module]:
    return lambda model, x: fxprune.prune(model, {**HALF, **spec}, (x,), **more)


Case = tuple[Callable[[], nn.Module], Callable[[], Tensor], Callable[[nn.Module, Any], nn.Module]]


def preset(name: str, **more: Any) -> Callable[[nn.Module, Any], nn.Module]:
    """Prune as a preset does, on batches that are where the example is."""

    def call(model: nn.Module, x: Any) -> nn.Module:
        return fxprune.prune(model, name, (x,), calibrate=[x, x + 1], loss=loss, fine_tune=tuned)

    return call


def with_optimizer(model: nn.Module, x: Any) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    model(x).square().mean().backward()
    optimizer.step()
    spec = {**HALF, "schedule": {"name": "linear", "steps": 2}}
    slim = fxprune.prune(model, spec, (x,), optimizer=optimizer, fine_tune=tuned)
    slim(x).square().mean().backward()
    optimizer.step()
    return slim


SITE = {"kind": "block", "tensor": "output", "include": ["0"], "axes": [1]}
CASES: dict[str, Case] = {
    "by magnitude": (net, pictures, pruned({"target": EXACT, "metric": "l2"})),
    "by distances": (net, pictures, pruned({"metric": "fpgm"})),
    "approximate": (net, pictures, pruned({"target": {"kind": "all"}})),
    "picked by indices": (Rolled, rows, pruned({"target": EXACT})),
    "blocks": (net, pictures, pruned({"target": {"kind": "block", "block": 2, "axes": [0]}})),
    "blocks and units": (
        net,
        pictures,
        pruned({"target": [{"kind": "block", "include": ["6"]}, {"kind": "channel"}]}),
    ),
    "activations": (net, pictures, pruned({"target": SITE, "metric": "random"})),
    "with an optimizer": (net, pictures, with_optimizer),
    **{
        name: (net, pictures, preset(name))
        for name in ("admm", "soft-movement", "movement", "taylor-fo", "apoz", "fpgm")
    },
    "speedup": (Sparse, rows, lambda model, x: fxprune.speedup(model, (x,))),
}


@pytest.mark.parametrize("name", CASES)
def test_what_comes_out_is_where_the_model_is(name: str) -> None:
    make, example, call = CASES[name]
    torch.manual_seed(0)
    model = make()
    gpu = PretendedGpu()
    with gpu:
        x = gpu.put(example())
        slim = call(gpu.put(model), x)
        held = {n: t.device for n, t in [*slim.named_parameters(), *slim.named_buffers()]}
        assert set(held.values()) == {GPU}, held
        assert slim(x).device == GPU


def test_a_module_that_was_moved_takes_its_examples_along(tmp_path: Path) -> None:
    """Move it in the fine-tuning, as a training loop does, and go on with it."""

    def moved(module: nn.Module, step: int) -> None:
        tuned(module.to("cuda"), step)

    torch.manual_seed(0)
    spec = {**HALF, "target": EXACT, "schedule": {"name": "linear", "steps": 2}}
    with PretendedGpu():
        slim = fxprune.prune(net(), spec, (pictures(),), fine_tune=moved)
        assert {t.device for t in slim.state_dict().values()} == {GPU}
        assert fxprune.prune(slim, {**HALF, "target": EXACT})(pictures().to("cuda")).device == GPU
        fxprune.export_onnx(slim, tmp_path / "net.onnx")


# ---- layouts in memory ---------------------------------------------------------------------------


def strides_of(module: nn.Module) -> dict[str, list[int]]:
    """Return the order of the axes of every weight in memory, of those longer than one."""
    return {
        name: sorted((d for d in range(p.ndim) if p.shape[d] > 1), key=lambda d: -p.stride(d))
        for name, p in module.named_parameters()
        if p.ndim > 1
    }


def transposed() -> nn.Module:
    """Hold a weight that is laid out by its columns, as a transposed one is."""
    model = net()
    last = model.get_submodule("6")
    last.weight = nn.Parameter(last.weight.detach().T.contiguous().T)
    return model


LAYOUTS: dict[str, Callable[[], nn.Module]] = {
    "plain": net,
    "channels last": lambda: net().to(memory_format=torch.channels_last),
    "volumes, channels last": lambda: nn.Sequential(
        *(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.Conv3d(8, 4, 2))
    ).to(memory_format=torch.channels_last_3d),
    "transposed": transposed,
    "large": lambda: nn.Sequential(nn.Conv2d(3, 256, 3), nn.Conv2d(256, 64, 3)).to(
        memory_format=torch.channels_last
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_keep_their_layout(name: str, tmp_path: Path) -> None:
    model = LAYOUTS[name]()
    x = torch.randn(2, 3, 8, 8, *((8,) if "volumes" in name else ()))
    wanted = strides_of(model)
    slim = fxprune.prune(model, {**HALF, "target": EXACT}, (x,))
    assert slim.report.parameters_after < slim.report.parameters_before
    fxprune.save(slim, tmp_path / "slim.pt2")
    masks = {**HALF, "target": {"kind": "block", "block": 1}}
    forms = {
        "shrunk": slim,
        "loaded": fxprune.load(tmp_path / "slim.pt2"),
        "copied": copy.deepcopy(slim),
        "restored": fxprune.run(model, "restore", (x,)),
        "masked": fxprune.prune(model, masks, (x,)),
        "sped up": fxprune.speedup(model, (x,)),
    }
    assert {form: strides_of(one) for form, one in forms.items()} == dict.fromkeys(forms, wanted)
    torch.testing.assert_close(forms["loaded"](x), slim(x))
    expected = torch.channels_last if name == "channels last" else torch.contiguous_format
    if name in ("plain", "channels last"):
        assert slim.get_parameter("0.weight").is_contiguous(memory_format=expected)


def test_momentum_keeps_its_layout() -> None:
    model = net().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    model(pictures()).square().mean().backward()
    optimizer.step()
    slim = fxprune.prune(model, HALF, (pictures(),), optimizer=optimizer)
    for parameter in slim.parameters():
        assert optimizer.state[parameter]["momentum_buffer"].stride() == parameter.stride()
