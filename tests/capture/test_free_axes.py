"""Which axes stay free: what comes out computes what the model does, at other sizes, or refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

import fxprune
from fxprune.errors import InputError
from tests.support.noise import noise

SPEC = {"target": "all", "metric": "l2", "objective": {"ratio": 0.5}}


class Convolutional(nn.Module):
    def __init__(self, way: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.way, self.shape, self.table = way, torch.Size([0]), torch.empty(0)
        self.a, self.b = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Conv2d(16, 4, 1)
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.last = nn.Linear(4 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x, self.b(self.a(x).relu()))


class Tokens(nn.Module):
    def __init__(self, way: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.way = way
        self.embed, self.a = nn.Embedding(20, 8), nn.Linear(8, 32)
        self.places, self.b = nn.Parameter(torch.randn(64, 8)), nn.Linear(32, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.places[: ids.shape[1]]
        return self.way(self, ids, x + self.b(self.a(x).relu()))


def kept_table(net: Any, x: Tensor, y: Tensor) -> Tensor:
    if net.shape != y.shape:
        net.table = torch.arange(y.shape[2] * y.shape[3], dtype=y.dtype)
        net.shape = y.shape
    return y.view(x.shape[0], 4, -1) + net.table


def stepped(net: Any, ids: Tensor, x: Tensor) -> Tensor:
    state = torch.zeros_like(x[:, 0])
    for t in range(ids.shape[1]):
        state = 0.9 * state + x[:, t]
    return state


def windows(net: Any, x: Tensor, y: Tensor) -> Tensor:
    n = y.permute(0, 2, 3, 1).reshape(-1, 4, 4)
    batch = int(n.shape[0] / (y.shape[2] * y.shape[3] / 4))
    return n.view(batch, y.shape[2], y.shape[3], 4).sum((1, 2))


IMAGE, IDS = noise(2, 3, 8, 8), torch.arange(24).reshape(2, 12) % 20
FREE: dict[
    str, tuple[Any, Tensor, list[Tensor], list[Tensor]]
] = {  # model, example, taken, refused
    "a segmentation": (
        lambda: Convolutional(lambda n, x, y: F.interpolate(y, size=x.shape[2:], mode="bilinear")),
        IMAGE,
        [noise(3, 3, 12, 7), noise(1, 3, 9, 16)],
        [noise(2, 4, 8, 8)],
    ),
    "a view of sizes": (
        lambda: Convolutional(lambda n, x, y: y.view(-1, 4, y.shape[2] * y.shape[3]).softmax(1)),
        IMAGE,
        [noise(3, 3, 12, 7)],
        [],
    ),
    "a skip past a halving": (
        lambda: Convolutional(lambda n, x, y: torch.cat([n.up(y), x], 1)),
        IMAGE,
        [noise(3, 3, 12, 6)],
        [noise(2, 3, 9, 8), noise(2, 3, 8, 7)],
    ),
    "a linear layer of pixels": (
        lambda: Convolutional(lambda n, x, y: n.last(y.flatten(1))),
        IMAGE,
        [noise(5, 3, 8, 8)],
        [noise(2, 3, 12, 8)],
    ),
    "len": (
        lambda: Convolutional(lambda n, x, y: y.reshape(len(x), 2, -1).transpose(1, 2)),
        IMAGE,
        [noise(3, 3, 12, 7)],
        [],
    ),
    "int of a division": (lambda: Convolutional(windows), IMAGE, [noise(3, 3, 8, 8)], []),
    "a table kept": (lambda: Convolutional(kept_table), IMAGE, [noise(3, 3, 12, 8)], []),
    "the last token": (
        lambda: Tokens(lambda n, ids, x: x[:, -1]),
        IDS,
        [IDS[:, :5], torch.cat([IDS, IDS], 1)],
        [],
    ),
    "steps of the example": (
        lambda: Tokens(stepped),
        IDS,
        [IDS[:1]],
        [IDS[:, :5], torch.cat([IDS, IDS], 1)],
    ),
    "a way by the length": (
        lambda: Tokens(lambda n, ids, x: x.sum(1) if ids.shape[1] > 8 else x.mean(1)),
        IDS,
        [IDS[:, :10]],
        [IDS[:, :5]],
    ),
}


@pytest.mark.parametrize("name", FREE)
def test_other_sizes_are_right_or_refused(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, example, taken, refused = FREE[name]
    model = make().eval()
    model(example)  # as whoever tries it does
    whole = fxprune.run(model, "restore", (example,))
    slim = fxprune.prune(model, SPEC, (example,))
    fxprune.save(slim, tmp_path / "slim.pt2")
    loaded = fxprune.load(tmp_path / "slim.pt2")
    fxprune.export_onnx(slim, tmp_path / "slim.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "slim.onnx")
    (entry,) = session.get_inputs()
    for x in [example, *taken]:
        torch.testing.assert_close(whole(x), model(x), rtol=1e-4, atol=1e-5)
        y = slim(x)
        assert y.shape == model(x).shape
        torch.testing.assert_close(loaded(x), y, rtol=1e-4, atol=1e-5)
        (found,) = session.run(None, {entry.name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), y.detach(), rtol=1e-3, atol=1e-4)
    for x in refused:
        for module in (whole, slim, loaded):
            with pytest.raises(InputError, match="axis"):
                module(x)
    again = fxprune.run(slim, "restore")  # what was refused once is refused again
    for x in refused:
        with pytest.raises(InputError):
            again(x)


def test_what_is_fixed_is_said_with_its_line() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 2)).eval()
    said = fxprune.analyze(model, (IMAGE,)).axes
    assert "axis 0 of input: any size" in said
    (height,) = [line for line in said if line.startswith("axis 2 of input")]
    assert "fixed at 8: linear asks whether" in height
    assert "test_free_axes.py:" in height


def test_what_the_caller_wants_to_be_free() -> None:
    model = Convolutional(lambda n, x, y: y.mean((2, 3))).eval()

    def free(dynamic: Any) -> Any:
        slim = fxprune.run(model, "restore", (IMAGE,), dynamic=dynamic)
        return [name is not None for name in slim.signature.axes[0]]

    assert free("auto") == [True, False, True, True]
    assert free("batch") == [True, False, False, False]
    assert free({"x": {2: Dim.AUTO}}) == [False, False, True, False]
    assert free(({3: Dim("width")},)) == [False, False, False, True]
    with pytest.raises(InputError, match="axis 1 of x cannot vary"):
        free({"x": {1: Dim("channels")}})
    with pytest.raises(InputError, match="no input 'y'"):
        free({"y": {1: Dim.AUTO}})
    with pytest.raises(InputError, match="auto"):
        free("all")


def test_an_exported_program_brings_its_axes(tmp_path: Path) -> None:
    model = Tokens(lambda n, ids, x: x[:, -1]).eval()
    shapes = {"ids": {0: Dim("batch"), 1: Dim("length", min=2, max=64)}}
    slim = fxprune.prune(torch.export.export(model, (IDS,), dynamic_shapes=shapes), SPEC)
    fxprune.save(slim, tmp_path / "slim.pt2")
    for x in (IDS[:, :5], torch.cat([IDS, IDS], 1)[:1]):
        y = slim(x)
        torch.testing.assert_close(fxprune.load(tmp_path / "slim.pt2")(x), y)


def test_numbers_of_sizes_stay_as_they_are() -> None:
    def scaled(n: Any, ids: Tensor, x: Tensor) -> Tensor:
        return x * math.sqrt(ids.shape[1]) / ids.shape[1] + isinstance(ids.shape[0], int)

    model = Tokens(scaled).eval()
    whole = fxprune.run(model, "restore", (IDS,))
    try:
        found = whole(IDS[:, :5])
    except InputError:
        return  # refused, and so not wrong
    torch.testing.assert_close(found, model(IDS[:, :5]))
