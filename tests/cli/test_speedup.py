"""`fxprune speedup`: files in, files out, what became speed and what stayed zeros, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import fxprune
from tests.elimination.test_speedup import same, shapes
from tests.networks.dead import chain, zero
from tests.networks.structures import IMAGE
from tests.networks.whole import randomise
from tests.support.command import Done

Call = Callable[..., Done]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Call) -> Call:
    """Run the command in a folder of its own; return its status, what it says, and errors."""
    monkeypatch.chdir(tmp_path)
    return partial(command, "speedup")


def network() -> Any:
    torch.manual_seed(0)
    model = chain()().eval()
    randomise(model)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.add_(parameter == 0)
    return model


def exported(model: nn.Module, path: str) -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, IMAGE, dynamic_shapes=({0: batch},))
    torch.export.save(program, path)


def test_zeros_of_a_program_become_speed(call: Call) -> None:
    model = network()
    with torch.no_grad():
        zero(model.b.weight, 2, 5, dim=1)
        model.b.weight[0, :2] = 0
    exported(model, "net.pt2")
    status, out, _ = call("net.pt2", "-o", "fast.pt2")
    assert not status
    assert "10 parameters were zero: 8 (80.0%) were removed with dead units, and 2 are left" in out
    fast = fxprune.load("fast.pt2")
    assert shapes(fast)["b.weight"] == (4, 6, 1, 1)
    same(model, fast, IMAGE)
    status, out, _ = call("net.pt2", "-o", "fast.onnx")
    assert not status
    held = {tuple(one.dims) for one in onnx.load("fast.onnx").graph.initializer}
    assert (4, 6, 1, 1) in held


@pytest.mark.parametrize("how", ["plain zeros", "torch.nn.utils.prune"])
def test_pickled_modules(how: str, call: Call) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    torch_prune.ln_structured(model[0], "weight", 0.5, n=2, dim=0)
    if how == "plain zeros":
        torch_prune.remove(model[0], "weight")
    torch.save(model, "net.pth")
    status, out, err = call("net.pth", "--trust", "--input-shape", "2,3,8,8", "-o", "fast.pt2")
    assert not status, err
    assert (
        "108 parameters were zero: 108 (100.0%) were removed with dead units, and 0 are left" in out
    )
    fast = fxprune.load("fast.pt2")
    assert shapes(fast)["0.weight"] == (4, 3, 3, 3)
    same(model, fast, IMAGE)


def test_our_masks_stay_masks_and_are_counted_apart(call: Call) -> None:
    spec = {"target": {"kind": "block", "include": ["b"]}, "metric": "l1"}
    slim = fxprune.prune(network(), spec | {"objective": {"ratio": 0.5}}, IMAGE)
    with torch.no_grad():
        slim.get_parameter("b.weight")[:, 3] = 0
        slim.get_buffer("b.weight_mask")[:, 3] = False
    slim.plan.masks["b.weight"][:, 3] = False
    fxprune.save(slim, "net.pt2")
    status, out, _ = call("net.pt2", "-o", "fast.pt2")
    assert not status
    fast = fxprune.load("fast.pt2")
    mask = fast.plan.masks["b.weight"]
    dropped = int((~mask).sum())
    assert f"{dropped} of the parameters left are masked" in out
    assert f"and {dropped} are left" in out
    assert mask.shape == fast.get_parameter("b.weight").shape
    assert torch.equal(fast.get_buffer("b.weight_mask"), mask)
    fast.train()(*IMAGE).sum().backward()
    assert not fast.get_parameter("b.weight").grad[~mask].any()
    assert "zeros in a dense tensor: they make neither the file nor a run on a CPU smaller" in out


def test_without_a_zero_there_is_nothing_to_remove(call: Call) -> None:
    exported(network(), "net.pt2")
    status, out, _ = call("net.pt2", "-o", "fast.pt2")
    assert not status
    assert "nothing was removed: no unit is provably dead or constant: no parameter is zero" in out
    assert "removed with dead units" not in out


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no file": (("none.pt2", "-o", "x.pt2"), "none.pt2: there is no such file"),
    "no model": (("text.py", "-o", "x.pt2"), "text.py: not a model"),
    "damaged": (("bad.pt2", "-o", "x.pt2"), "bad.pt2: "),
    "an output of another kind": (("net.pt2", "-o", "x.bin"), "must end in .onnx or .pt2"),
    "no folder": (("net.pt2", "-o", "no/x.pt2"), "no/x.pt2"),
    "a pickle without trust": (("net.pth", "-o", "x.pt2"), "--trust"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_one_line_and_leave_no_file(name: str, call: Call) -> None:
    words, said = WRONG[name]
    Path("text.py").write_text("")
    Path("bad.pt2").write_bytes(b"PK no archive")
    exported(network(), "net.pt2")
    torch.save(nn.Linear(2, 2), "net.pth")
    status, _, err = call(*words)
    assert status == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not list(Path().glob("x.*"))
