from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from fxprune.capture import capture
from fxprune.surgery import SlimModule, restore


def restored(model: nn.Module, inputs: Any) -> SlimModule:
    return restore(capture(copy.deepcopy(model), inputs).module, training=False)


def test_a_fresh_process_reads_pickles(tmp_path: Path) -> None:
    model = nn.Sequential(first := nn.Linear(4, 4), nn.Dropout(), first)
    slim = restored(model.eval(), x := torch.randn(2, 4))
    slim.plan = ("kept", 3)
    torch.save({"slim": slim, "x": x, "y": slim(x)}, tmp_path / "slim.pt")
    code = (
        "import sys, torch; d = torch.load(sys.argv[1], weights_only=False); s = d['slim']; "
        "assert torch.equal(s(d['x']), d['y']); "
        "assert s.get_submodule('0') is s.get_submodule('2'); print(s.plan)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "slim.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "('kept', 3)\n"), done.stderr


def test_hooks_and_printing() -> None:
    slim = restored(torchvision.models.resnet18().eval(), x := torch.randn(2, 3, 64, 64))
    seen: list[torch.Size] = []
    layer1: Any = slim.layer1
    assert layer1[0].conv1 is slim.get_submodule("layer1.0.conv1")
    layer1[0].conv1.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    copy.deepcopy(slim)(x)
    slim(x)
    assert seen == [(2, 64, 16, 16)] * 2
    assert "Conv2d(3, 64, kernel_size=(7, 7)" in str(slim)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles(backend: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout())
    slim = restored(model.eval(), x := torch.randn(2, 3, 8, 8))
    compiled = torch.compile(slim, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x), slim(x))


def test_exports_again_at_any_batch() -> None:
    slim = restored(torchvision.models.mobilenet_v3_small().eval(), x := torch.randn(2, 3, 64, 64))
    shapes = {"x": {0: torch.export.Dim.DYNAMIC}}
    exported = torch.export.export(slim, (x,), dynamic_shapes=shapes, strict=False)
    more = torch.randn(5, 3, 64, 64)
    torch.testing.assert_close(exported.module()(more), slim(more))


def test_moves() -> None:
    slim = restored(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), torch.randn(2, 3, 8, 8)
    ).to(torch.float64)
    assert slim(torch.randn(2, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64
    assert all(p.is_meta for p in slim.to("meta").parameters())


class Called(nn.Module):
    def forward(
        self, x: Tensor, scale: float | None = None, *, pair: Any = None
    ) -> dict[str, Tensor]:
        y = x if scale is None else x * scale
        return {"y": y if pair is None else y + pair["a"] - pair["b"]}


X = torch.ones(2, 3)
PAIR = {"a": X, "b": X * 2}


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"),
    [
        ((X,), (X,), {}),
        ((X,), (), {"x": X}),
        ({"x": X}, (X,), {}),
        ({"x": X}, (), {"x": X}),
        ((X, None), (X,), {}),
        (((X,), {"pair": PAIR, "scale": 2.0}), (X,), {"scale": 2.0, "pair": PAIR}),
        (((X,), {"pair": PAIR}), (), {"pair": {"b": X * 2, "a": X}, "x": X}),
    ],
)
def test_calls(inputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    slim = restored(Called(), inputs)
    assert torch.equal(slim(*args, **kwargs)["y"], Called()(*args, **kwargs)["y"])


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {}, "missing: x"),
        ((X, X), {}, "2 positional arguments, 1 taken"),
        ((X,), {"pair": PAIR, "scale": 2.0, "mask": X}, "not captured: mask"),
        ((X,), {"pair": PAIR, "scale": 2.0, "x": X}, "given twice: x"),
        ((X,), {"pair": PAIR, "scale": 3.0}, "scale was captured as 2.0"),
        ((X,), {"pair": [X, X], "scale": 2.0}, "'a', 'b'"),
        ((X,), {"pair": {"a": X}, "scale": 2.0}, "'a', 'b'"),
    ],
)
def test_refuses_other_calls(args: tuple[Any, ...], kwargs: dict[str, Any], said: str) -> None:
    slim = restored(Called(), ((X,), {"pair": PAIR, "scale": 2.0}))
    with pytest.raises(TypeError) as error:
        slim(*args, **kwargs)
    assert said in str(error.value)


def test_no_name_of_one_argument_for_another() -> None:
    slim = restored(Called(), {"pair": PAIR, "x": X})
    with pytest.raises(TypeError, match="positional"):
        slim(X, PAIR)
