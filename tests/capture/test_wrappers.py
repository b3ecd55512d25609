"""Models as training scripts hold them: compiled, parallel, sharded, scripted, exported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import fxprune
from fxprune.capture import capture
from fxprune.errors import InputError

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
HALF = {"target": {"exact": True}, "metric": "l2", "objective": {"ratio": 0.5}}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


class Engine(nn.Module):
    """Train a module: hold it, and hand on whatever it is called with."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.calls = module, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.module(*args, **kwargs)


class Doubling(Engine):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs) * 2


class Named(Engine):
    """Belong to one model: its forward names its arguments."""

    def forward(self, x: Tensor) -> Any:
        return self.module(x)


def compiled_in_place() -> nn.Module:
    model = net()
    model.compile()
    model[0].compile()
    return model


class Calling(nn.Module):
    """Call a compiled function."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    @torch.compile
    def forward(self, x: Tensor) -> Any:
        return torch.compile(torch.relu)(self.inner(x))


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


PLAIN = ("0.weight", "0.bias", "2.weight", "2.bias")
WRAPPED: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "compiled": (lambda: torch.compile(net()), PLAIN),
    "compiled in place": (compiled_in_place, PLAIN),
    "a compiled function": (Calling, tuple(f"inner.{name}" for name in PLAIN)),
    "a compiled part": (
        lambda: nn.Sequential(torch.compile(net()), nn.ReLU()),
        tuple(f"0.{name}" for name in PLAIN),
    ),
    "DataParallel": (lambda: nn.DataParallel(net()), PLAIN),
    "DistributedDataParallel": (lambda: nn.parallel.DistributedDataParallel(net()), PLAIN),
    "several": (lambda: torch.compile(Engine(nn.DataParallel(torch.compile(net())))), PLAIN),
    "an engine": (lambda: Engine(net()), PLAIN),
    "an engine that computes": (lambda: Doubling(net()), tuple(f"module.{n}" for n in PLAIN)),
    "a module of its own": (lambda: Named(net()), tuple(f"module.{n}" for n in PLAIN)),
    "a symbolic trace": (lambda: torch.fx.symbolic_trace(net()), PLAIN),
    "an exported module": (lambda: torch.export.export(net(), (X,)).module(), PLAIN),
    "an exported part": (
        lambda: nn.Sequential(torch.export.export(net(), (X,)).module(), nn.ReLU()),
        tuple(f"0.{name}" for name in PLAIN),
    ),
}


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("name", WRAPPED)
def test_what_is_wrapped_is_pruned_under_its_own_names(name: str) -> None:
    make, names = WRAPPED[name]
    model = make()
    state, modules = list(model.state_dict()), list(model.named_modules())
    expected = capture(model, (X,)).module(X)
    slim = fxprune.prune(model, HALF, (X,))
    assert tuple(slim.state_dict()) == names
    assert slim.report.parameters_after < slim.report.parameters_before
    assert (list(model.state_dict()), list(model.named_modules())) == (state, modules)
    if "compiled" not in name and name != "several":  # a compiler takes its time
        torch.testing.assert_close(expected, model(X))
    assert getattr(model, "calls", 0) in (0, 1)


def test_a_compiled_model_does_not_end_the_interpreter() -> None:
    """Capture in a process of its own, which a fault of the compiler would take down."""
    code = (
        "import torch, fxprune; from torch import nn; m = nn.Sequential(nn.Linear(4, 8), "
        "nn.ReLU(), nn.Linear(8, 2)); m.compile(); x = torch.ones(2, 4); "
        "fxprune.prune(m, {'objective': {'ratio': 0.5}}, (x,)); "
        "fxprune.prune(torch.compile(m), {'objective': {'ratio': 0.5}}, (x,)); print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "done", done.stderr


def test_the_optimizer_of_a_wrapped_model_is_carried() -> None:
    model = torch.compile(net().train())
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.get_submodule("_orig_mod")(X).sum().backward()
    optimizer.step()
    slim = fxprune.prune(model, HALF, (X,), optimizer=optimizer)
    held = optimizer.param_groups[0]["params"]
    assert list(map(id, held)) == list(map(id, slim.parameters()))
    assert all(optimizer.state[p]["momentum_buffer"].shape == p.shape for p in held)


def test_a_wrapped_model_is_exported_to_onnx(tmp_path: Any) -> None:
    summary = fxprune.export_onnx(nn.DataParallel(net()), tmp_path / "net.onnx", (X,))
    assert summary.error < 1e-4


def test_zeros_in_a_wrapped_model_are_removed() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[:4] = 0
        model[0].bias[:4] = 0
    slim = fxprune.speedup(nn.DataParallel(model), (X,))
    assert slim.get_parameter("0.weight").shape == (12, 6)


# ---- what cannot be captured as it is ------------------------------------------------------------


def scripted() -> nn.Module:
    return torch.jit.script(net())  # type: ignore[no-any-return]


def sharded() -> nn.Module:
    model = net()
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))
    return model


def on_two_devices() -> nn.Module:
    model = net()
    model[2].to("meta")
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "scripted": (scripted, "this Sequential is a torch.jit module.*hand over the module"),
    "traced": (lambda: torch.jit.trace(net(), (X,)), "this Sequential is a torch.jit module"),
    "a scripted part": (lambda: nn.Sequential(scripted()), r"0 \(Sequential\) is a torch.jit"),
    "sharded, of old": (
        lambda: FullyShardedDataParallel(net(), device_id=torch.device("cpu")),
        "this FullyShardedDataParallel is sharded over processes; hand over the model that was",
    ),
    "sharded": (sharded, "0.weight is sharded over processes; hand over the model that was"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4)), "0.weight has no size yet; run the model"),
    "on two devices": (
        on_two_devices,
        "0.weight on cpu and 2.weight on meta; move it to one device",
    ),
}


@pytest.mark.filterwarnings("ignore")  # torch's own, about scripts and shards
@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_what_to_hand_over(name: str) -> None:
    make, said = REFUSED[name]
    with pytest.raises(InputError, match=said) as error:
        fxprune.prune(make(), HALF, (X,))
    assert "\n" not in str(error.value)
