"""The quick recording of a forward is the graph that torch.export writes, or it is refused."""

from __future__ import annotations

import operator
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import fx, nn

from fxprune.capture import capture, capturing
from fxprune.capture.call_sites import Refused
from fxprune.capture.free_axes import Axes
from fxprune.errors import CaptureError
from fxprune.graphs import source_line
from tests.capture.test_capture import MODELS
from tests.networks.test_structures import NETWORKS
from tests.support.noise import noise
from tests.surgery.test_restore import MODELS as RESTORED

REFUSED = {  # each with the word that says why
    "ListedChannels": "computed",
    "GroupedSized": "computed",
    "RoutedExperts": "computed",
    "SelectedExperts": "computed",
    "Counted": "computed",
    "GroupLimited": "computed",
    "AnyElements": "computed",
    "SteppedCopy": "computed",
    "SteppedFill": "computed",
    "SpectralConvolution": "computed",
    "SteppedRotary": "computed",
    "Rotary": "region",
    "any number of tensors": "nested",
    "an argument left out": "result",
    "arguments and keywords": "result",
    "a keyword of None": "result",
    "nested inputs and outputs": "nested",
    "buffers and constants": "computed",
    "writes in place": "writes",
    "a counter": "writes",
    "autocast": "region",
    "shared": "paths",
}
CASES: dict[str, Any] = {
    **{network.__name__: lambda network=network: _given(network()) for network in NETWORKS},
    **{name: lambda make=make, x=x: (make(), x) for name, (make, x) in MODELS.items()},
    **{name: lambda make=make, x=x: (make(), x()) for name, (make, x) in RESTORED.items()},
}


def _given(network: Any) -> tuple[nn.Module, Any]:
    return network, network.inputs


@pytest.mark.parametrize("name", CASES)
def test_the_recording_is_the_export(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, inputs = CASES[name]()
    said = _watch(monkeypatch)
    quick = capture(model, inputs, "batch")
    assert bool(said) == (name in REFUSED), said
    if said:
        assert REFUSED[name] in said[0]
        return
    monkeypatch.setattr(capturing, "_recorded", lambda *_: None)
    slow = capture(model, inputs, "batch")
    assert _described(quick.module.graph) == _described(slow.module.graph)
    assert quick.module.graph._codegen.pytree_info == slow.module.graph._codegen.pytree_info
    assert set(quick.module.state_dict()) == set(slow.module.state_dict())
    assert (quick.signature.dynamic, quick.signature.batch, quick.notes) == (
        *(slow.signature.dynamic, slow.signature.batch, slow.notes),
    )


def _watch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    record = capturing.record

    def watched(*given: Any) -> Any:
        try:
            return record(*given)
        except Exception as error:
            said.append(str(error))
            raise

    monkeypatch.setattr(capturing, "record", watched)
    return said


def _described(graph: fx.Graph) -> list[Any]:
    """Return a graph without the names of its nodes and the places of its sizes."""
    place: dict[fx.Node, Any] = {}
    found: list[Any] = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    for node in graph.nodes:
        args = fx.node.map_aggregate(node.args, lambda a: place[a] if isinstance(a, fx.Node) else a)
        if node.op in ("get_attr", "placeholder"):
            place[node] = f"{node.op} {node.target}"
        elif node.target is operator.mul:
            place[node] = f"{node.target} {sorted(map(str, args))}"
            continue
        elif str(node.target) == "aten.sym_size.int":
            place[node] = f"{node.target} {args}"
            continue
        else:
            place[node] = f"%{len(found)}"
        stack = [at for at, _ in (node.meta.get("nn_module_stack") or {}).values()]
        line = source_line(node) if node.op == "call_function" else ""
        found.append((str(node.target), str(args), str(node.kwargs), _shapes(node), stack, line))
    return found


def _shapes(node: fx.Node) -> Any:
    value = node.meta.get("val")
    parts = value if isinstance(value, (list, tuple)) else [value]
    return [
        ([n if isinstance(n, int) else "batch" for n in part.shape], part.dtype, part.device)
        for part in parts
        if isinstance(part, torch.Tensor)
    ]


class Asking(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] > 3 else x * 3


class Writing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x[:, 0].mul_(2)
        return x + 1


class Halving(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0] // 2, 2, x.shape[1]).sum(1)


class Fixed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(2, 1)


class Positions(nn.Module):
    """What is made of no tensor: numbers, and zeros for every example."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(0, 4, device=x.device) / 4
        zeros = torch.zeros(x.shape[0], 4)
        return x * steps + zeros.add_(1)


def test_what_is_made_of_no_tensor_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    said, x = _watch(monkeypatch), noise(2, 4)
    quick = capture(Positions(), (x,), "batch")
    assert said == []
    assert torch.equal(quick.module(x), Positions()(x))
    monkeypatch.setattr(capturing, "_recorded", lambda *_: None)
    slow = capture(Positions(), (x,), "batch")
    assert _described(quick.module.graph) == _described(slow.module.graph)


@pytest.mark.parametrize("kind", [Writing])
def test_what_is_refused(kind: type[nn.Module]) -> None:
    leaf = torch.randn(2, 4)
    with pytest.raises(Refused):
        capturing.record(kind().eval(), ((leaf,), {}), Axes.of([leaf], [(0, 0)]))


SIZED = {  # what is known of the leading axis, and of its size
    Asking: (["x_0"], ["x_0 <= 3"]),
    Halving: (["x_0"], ["x_0 % 2 == 0"]),
    Fixed: ([None], []),
}


@pytest.mark.parametrize("kind", SIZED)
def test_what_is_asked_about_sizes_is_a_condition(kind: type[nn.Module]) -> None:
    signature = capture(kind().eval(), (torch.randn(2, 4),), "batch").signature
    names, conditions = SIZED[kind]
    assert [axes[0] for axes in signature.axes] == names
    assert [one.text for one in signature.conditions] == conditions


BARE = """
import builtins
real = builtins.__import__
PRIVATE = ("torch._", "torch.export._", "torch.fx._", "torch.fx.exp", "torch.utils._python")

def without(name, of=None, *rest, **named):
    if str((of or {}).get("__name__")).startswith("fxprune") and name.startswith(PRIVATE):
        raise ImportError(f"no module named {name}")
    return real(name, of, *rest, **named)

builtins.__import__ = without
import torch
import fxprune
from fxprune.capture import capturing

model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
assert capturing._recorded(model, (torch.randn(2, 6),), {}, capturing.Wanted(), None) is None
assert "torch._dispatch" in capturing.recorder()
slim = fxprune.prune(model, {"objective": {"ratio": 0.5}}, torch.randn(2, 6))
print(slim.get_submodule("0").out_features)
print(tuple(slim(torch.randn(5, 6)).shape))
"""


def test_a_torch_without_the_private_parts_captures_by_the_exporter() -> None:
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["4", "(5, 3)"], done.stderr


class Switched(nn.Module):
    """What a buffer holds chooses the way; what an input holds cannot."""

    def __init__(self, by_input: bool) -> None:
        super().__init__()
        self.by_input, self.linear = by_input, nn.Linear(4, 4)
        self.register_buffer("switch", torch.tensor([0, 1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        switch = x[0] if self.by_input else self.switch
        if switch[1] == 1:
            x = x.relu()
        return self.linear(x) * int(self.switch.sum().item())


def test_what_a_buffer_holds_is_known() -> None:
    program = capture(Switched(by_input=False).eval(), (noise(2, 4),))
    assert any(node.target is torch.ops.aten.relu.default for node in program.module.graph.nodes)
    assert any(program.signature.dynamic)
    assert any("the values of switch say now" in note for note in program.notes)
    with pytest.raises(CaptureError):
        capture(Switched(by_input=True).eval(), (noise(2, 4),))
