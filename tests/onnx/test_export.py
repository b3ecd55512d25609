"""Write models as ONNX: the file says what the module says, or it does not appear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch
import torchvision
from torch import nn
from torch.export import Dim
from torch.torch_version import TorchVersion

import fxprune.onnx as fxonnx
from fxprune.errors import ExportError, FileError
from fxprune.onnx import conversion
from fxprune.onnx.check import relative_error
from tests.support.told_clock import ToldClock

BATCH = Dim("batch")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> Any:
        return self.lstm(x)


class Attention(nn.Module):
    """Take two inputs and a keyword; return nested outputs with None, a constant and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, query: torch.Tensor, memory: torch.Tensor, *, scale: float = 1.0) -> Any:
        mixed, _ = self.attention(query, memory, memory)
        return {"mixed": (mixed * scale, None), "constant": 3, "mean": mixed.mean()}


class Embedded(nn.Module):
    """Take integers; write a buffer in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, ids: torch.Tensor, times: int) -> Any:
        self.calls.add_(1)
        return self.norm(self.table(ids).sum(1)) * times, self.calls


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=5)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


Case = tuple[Callable[[], nn.Module], tuple[Any, ...], dict[str, Any], Any, list[str]]
CASES: dict[str, Case] = {
    "resnet": (torchvision.models.resnet18, (noise(2, 3, 32, 32),), {}, {"x": {0: BATCH}}, ["x"]),
    "vit": (vit, (noise(2, 3, 32, 32),), {}, ({0: Dim.DYNAMIC},), ["x"]),
    "lstm": (Recurrent, (noise(2, 5, 6),), {}, {"x": {0: BATCH}}, ["x"]),
    "attention": (
        Attention,
        (noise(2, 3, 8), noise(2, 4, 8)),
        {"scale": 2.0},
        {"query": {0: BATCH}, "memory": {0: BATCH}, "scale": None},
        ["query", "memory"],
    ),
    "embedded": (
        Embedded,
        (torch.tensor([[1, 2, 3], [4, 5, 6]]), 2),
        {},
        {"ids": {0: BATCH}, "times": None},
        ["ids"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_models(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    make, args, kwargs, dims, names = CASES[name]
    module = make().train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    path = tmp_path / "model.onnx"
    summary = fxonnx.export(module, path, args, kwargs, dynamic_shapes=dims, metadata={"a": "b"})
    assert summary.batches == (2, 3)
    assert summary.error <= 1e-4
    assert list(summary.inputs) == names
    assert summary.bytes == path.stat().st_size
    assert list(tmp_path.iterdir()) == [path]
    assert module.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    model = onnx.load(path)
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("fxprune.a", "b")]
    for entry in model.graph.input:
        assert entry.type.tensor_type.shape.dim[0].dim_param == "batch"
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_static_shapes(tmp_path: Path) -> None:
    summary = fxonnx.export(nn.Linear(3, 2), tmp_path / "m.onnx", (noise(4, 3),), {})
    assert summary.batches == ()
    shape = onnx.load(tmp_path / "m.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [4, 3]


def test_batches_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    linear, dims = nn.Linear(3, 2), {"input": {0: BATCH}}
    summary = fxonnx.export(
        linear, path, (noise(4, 3),), {}, dynamic_shapes=dims, batches=(1, 4, 9)
    )
    assert summary.batches == (1, 4, 9)


def test_part_of_a_batch_keeps_its_ratio(tmp_path: Path) -> None:
    class Pairs(nn.Module):
        def forward(self, x: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
            return x.repeat_interleave(2, 0) + pairs

    dims = {"x": {0: BATCH}, "pairs": {0: 2 * BATCH}}
    inputs = (noise(3, 2), noise(6, 2))
    summary = fxonnx.export(Pairs(), tmp_path / "m.onnx", inputs, {}, dynamic_shapes=dims)
    assert summary.batches == (3, 4)


def test_outputs_that_are_inputs_weights_and_sizes(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor, unused: torch.Tensor) -> Any:
            y = x * self.weight
            return y, y, x, self.weight, x.shape[0], y > 0

    dims = {"x": {0: BATCH}, "unused": {0: BATCH}}
    inputs = (noise(2, 3), noise(2, 4))
    summary = fxonnx.export(Odd(), tmp_path / "m.onnx", inputs, {}, dynamic_shapes=dims)
    assert summary.inputs == ("x", "unused")
    assert len(summary.outputs) == len(set(summary.outputs)) == 6


@pytest.mark.skipif(
    TorchVersion(torch.__version__) < "2.14", reason="torch.export refuses them (docs/versions.md)"
)
def test_variable_arguments(tmp_path: Path) -> None:
    class Variable(nn.Module):
        def forward(self, *xs: torch.Tensor, **more: Any) -> torch.Tensor:
            return xs[0] + xs[1] + more["nested"]["key"]

    dims = {"xs": ({0: BATCH}, {0: BATCH}), "nested": {"key": {0: BATCH}}}
    inputs, more = (noise(2, 3), noise(2, 3)), {"nested": {"key": noise(2, 3)}}
    summary = fxonnx.export(Variable(), tmp_path / "m.onnx", inputs, more, dynamic_shapes=dims)
    assert summary.inputs == ("xs_0", "xs_1", "nested_key")
    assert summary.batches == (2, 3)


class Lie(nn.Module):
    """Answer otherwise once the export is over: the file then differs from the module."""

    def __init__(self, at_batch: int) -> None:
        super().__init__()
        self.at_batch = at_batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lies = not torch.compiler.is_exporting() and x.shape[0] == self.at_batch
        return x * (1.001 if lies else 1.0)


@pytest.mark.parametrize("at_batch", [2, 3])
def test_a_file_that_differs_does_not_appear(at_batch: int, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_text("precious")
    dims = {"x": {0: BATCH}}
    with pytest.raises(ExportError, match=rf"differs from the module by 0\.001 .*batch {at_batch}"):
        fxonnx.export(Lie(at_batch), path, (noise(2, 3),), {}, dynamic_shapes=dims)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]
    fxonnx.export(Lie(at_batch), path, (noise(2, 3),), {}, dynamic_shapes=dims, rtol=0.01)


def test_half_precision_is_held_to_its_own_digits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Linear(64, 64), nn.GELU())]
    model = nn.Sequential(*layers).eval().half()
    summary = fxonnx.export(model, tmp_path / "m.onnx", (torch.randn(4, 64).half(),), {})
    assert 1e-4 < summary.error < 1e-2


def test_constants_that_the_runtime_cannot_compute_stay(tmp_path: Path) -> None:
    """Bags of constant offsets are converted to a function that ONNX Runtime refuses to fold."""
    model = nn.Sequential(nn.EmbeddingBag(10, 16), nn.Linear(16, 3)).eval()
    ids = torch.arange(4).view(2, 2)
    assert fxonnx.export(model, tmp_path / "m.onnx", (ids,), {}).error < 1e-5


class Refuses(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("forward must not run")


@pytest.mark.parametrize("place", ["missing/m.onnx", "file/m.onnx", "."])
def test_unwritable_path_is_told_first(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError) as caught:
        fxonnx.export(Refuses(), tmp_path / place, (noise(1),), {})
    assert "\n" not in str(caught.value)


def test_failures_have_one_line_and_leave_nothing(tmp_path: Path) -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> int:
            return 3

    for module, reason in ((Refuses(), "forward must not run"), (Constant(), "no tensor")):
        with pytest.raises(ExportError, match=reason) as caught:
            fxonnx.export(module, tmp_path / "m.onnx", (noise(2),), {})
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_more_than_protobuf_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "LIMIT", 100)
    with pytest.raises(ExportError, match="at most 100"):
        fxonnx.export(nn.Linear(30, 2), tmp_path / "m.onnx", (noise(2, 30),), {})


def test_relative_error() -> None:
    a = np.asarray([1.0, np.nan, np.inf])
    assert relative_error(a, a) == 0
    assert relative_error(np.asarray([2.0, 0.0]), np.asarray([2.0, 0.5])) == 0.25
    assert relative_error(np.asarray([1.0]), np.asarray([np.nan])) == float("inf")
    assert relative_error(np.asarray([np.inf]), np.asarray([-np.inf])) == float("inf")
    assert relative_error(np.zeros((2, 1)), np.zeros(2)) == float("inf")
    assert relative_error(np.zeros(0), np.zeros(0)) == 0


def test_latency(tmp_path: Path, told_clock: ToldClock) -> None:
    paths = [tmp_path / "wide.onnx", tmp_path / "narrow.onnx"]
    for path, width in zip(paths, (1024, 16), strict=True):
        module = nn.Sequential(nn.Linear(64, width), nn.Linear(width, 64), nn.ReLU())
        fxonnx.export(module, path, (noise(64, 64),), {})
    feeds = {"input": noise(64, 64).numpy()}
    wide, narrow = fxonnx.compare_latency(paths, feeds, repeats=9)
    assert wide > narrow > 0
    with pytest.raises(ExportError, match="cannot load"):
        fxonnx.compare_latency([b"nonsense"], feeds)
