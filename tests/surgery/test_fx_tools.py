"""What comes out is a graph module: other tools trace, script and quantise it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.ao.quantization as quantization
from torch import Tensor, fx, nn
from torch.ao.quantization import quantize_fx

import fxprune
from fxprune.surgery import SlimModule
from tests.support.noise import noise

HALF: dict[str, Any] = {"metric": "l2", "objective": {"ratio": 0.5}}


class Stubbed(nn.Module):
    """Say where it is quantised, as eager quantisation asks."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.first, self.relu = nn.Conv2d(3, 16, 3), nn.ReLU()
        self.last = nn.Conv2d(16, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.last(self.relu(self.first(self.quant(x)))))


class Residual(nn.Module):
    """Add, pool, drop, and return a table; one argument is captured as a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second, self.drop = nn.Conv2d(16, 16, 3, padding=1), nn.Dropout(0.2)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor, scale: float = 2.0) -> dict[str, Tensor]:
        h = self.norm(self.first(x)).relu()
        h = torch.relu(self.second(h) * scale + h)
        return {"logits": self.last(self.drop(h.mean((2, 3)).flatten(1)))}


class Sequence(nn.Module):
    """Attend and recur over a length."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.recur, self.last = nn.LSTM(16, 12, batch_first=True), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.recur(self.attend(x))[0][:, -1])
        return found


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...]]] = {
    "stubs": (Stubbed, (noise(2, 3, 10, 10),)),
    "residual": (Residual, (noise(4, 3, 8, 8),)),
    "sequence": (Sequence, (noise(4, 6, 16),)),
}


def pruned(name: str) -> tuple[SlimModule, tuple[Any, ...]]:
    make, inputs = NETWORKS[name]
    torch.manual_seed(0)
    return fxprune.prune(make().eval(), HALF, inputs), inputs


def tensor(result: Any) -> Tensor:
    return result["logits"] if isinstance(result, dict) else result


@pytest.fixture(autouse=True)
def _unwarned() -> Iterator[None]:
    """Let torch say in peace that parts of it will move."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ---- the same numbers ----------------------------------------------------------------------------

READERS: dict[str, Callable[[nn.Module, tuple[Any, ...]], Any]] = {
    "symbolic_trace": lambda slim, _: fx.symbolic_trace(slim),
    "Transformer": lambda slim, _: fx.Transformer(slim).transform(),
    "Interpreter": lambda slim, _: fx.Interpreter(slim).run,
    "GraphModule": lambda slim, _: fx.GraphModule(slim, slim.graph),
    "jit.trace": lambda slim, x: torch.jit.trace(slim, x, strict=False),
    "export": lambda slim, x: torch.export.export(slim, x).module(),
    "compile": lambda slim, _: torch.compile(slim, backend="aot_eager"),
    "inside another": lambda slim, _: torch.compile(nn.Sequential(slim), backend="eager"),
}


@pytest.mark.parametrize("tool", READERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_other_tools_read_the_same_function(name: str, tool: str) -> None:
    slim, inputs = pruned(name)
    if tool in ("jit.trace", "inside another"):
        inputs = inputs[:1]
    read = READERS[tool](slim, inputs)
    if tool == "symbolic_trace":
        assert not any("aten" in str(node.target) for node in read.graph.nodes)
    torch.testing.assert_close(tensor(read(*inputs)), tensor(slim(*inputs)))


@pytest.mark.parametrize("name", ["stubs", "residual"])
def test_what_stands_in_modules_and_public_functions_is_scripted(name: str) -> None:
    slim, inputs = pruned(name)
    scripted = torch.jit.script(slim)
    torch.testing.assert_close(tensor(scripted(*inputs)), tensor(slim(*inputs)))


def test_an_addition_is_quantised_with_its_activation() -> None:
    slim, inputs = pruned("residual")
    small = by_graph(slim, inputs)
    called = {str(node.target) for node in small.graph.nodes}
    assert {"quantized.mul", "quantized.add_relu"} <= called


# ---- eight bits ----------------------------------------------------------------------------------


def by_graph(slim: nn.Module, inputs: tuple[Any, ...]) -> nn.Module:
    mapping = quantization.get_default_qconfig_mapping("x86")
    prepared = quantize_fx.prepare_fx(slim, mapping, inputs)
    prepared(*inputs)
    return quantize_fx.convert_fx(prepared)


def by_modules(slim: nn.Module, inputs: tuple[Any, ...]) -> nn.Module:
    slim.qconfig = quantization.get_default_qconfig("x86")
    prepared = quantization.prepare(slim)
    prepared(*inputs)
    return quantization.convert(prepared)


def dynamically(slim: nn.Module, _: tuple[Any, ...]) -> nn.Module:
    return quantization.quantize_dynamic(slim, {nn.Linear, nn.LSTM})


def by_export(slim: nn.Module, inputs: tuple[Any, ...]) -> Any:
    pytest.importorskip("torchao")
    from torchao.quantization.pt2e import quantize_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    exported = torch.export.export(slim, inputs).module()
    prepared = quantize_pt2e.prepare_pt2e(exported, quantizer)
    prepared(*inputs)
    return quantize_pt2e.convert_pt2e(prepared)


def by_torchao(slim: nn.Module, _: tuple[Any, ...]) -> nn.Module:
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(slim, torchao.Int8WeightOnlyConfig())
    return slim


# tool, network, and the module of which the weights have eight bits afterwards
QUANTISED = [
    (by_graph, "stubs", "first"),
    (by_graph, "residual", "last"),
    (by_modules, "stubs", "first"),
    (dynamically, "residual", "last"),
    (dynamically, "sequence", "recur"),
    (by_export, "stubs", ""),
    (by_export, "residual", ""),
    (by_export, "sequence", ""),
    (by_torchao, "residual", "last"),
    (by_torchao, "sequence", "attend.linear1"),
]


@pytest.mark.parametrize(("tool", "name", "path"), QUANTISED)
def test_what_comes_out_is_quantised(
    tool: Callable[[nn.Module, tuple[Any, ...]], Any], name: str, path: str
) -> None:
    slim, inputs = pruned(name)
    wanted = tensor(slim(*inputs)).detach()
    small = tool(copy.deepcopy(slim), inputs)
    found = tensor(small(*inputs)).detach()
    assert (found - wanted).abs().max() < 0.06 * wanted.abs().max()
    assert not torch.equal(found, wanted)
    if path:
        kind = type(small.get_submodule(path))
        weight = getattr(small.get_submodule(path), "weight", None)
        assert "quantized" in kind.__module__ or "Int8" in type(weight).__name__


def test_what_is_prepared_is_the_pruned_module_at_other_sizes() -> None:
    slim, _ = pruned("stubs")
    small = by_graph(slim, (noise(2, 3, 10, 10),))
    more = noise(5, 3, 10, 10, seed=1)
    wanted = slim(more).detach()
    assert (small(more) - wanted).abs().max() < 0.1 * wanted.abs().max()
