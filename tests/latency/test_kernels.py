"""The cost model of latency: labels, families, staircases, tables, and what is remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import pipeline
from fxprune.capture import capture
from fxprune.errors import FileError
from fxprune.latency.kernels import KernelModel, Label, Labels, Store, Unlabelled, model
from fxprune.latency.kernels.tables import Stairs, levels, stairs_of
from fxprune.loop import latency_prediction as latency_prediction
from fxprune.objectives.latency import Latency
from fxprune.passes import coupling
from fxprune.passes.allocate import costed
from fxprune.program import Program
from tests.support.optimal_problems import Attending, Concatenated, Grouped, Residual
from tests.support.told_clock import ToldClock


class Gated(nn.Module):
    """Squeeze and excite, a depthwise convolution, and an activation that reads its input twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 40, 3, padding=1), nn.Conv2d(40, 40, 3, groups=40)
        self.down, self.up = nn.Conv2d(40, 10, 1), nn.Conv2d(10, 40, 1)
        self.norm, self.head = nn.BatchNorm2d(40), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.depth(nn.functional.silu(self.stem(x))))
        gate = self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head((x * gate).flatten(2).mean(2))


IMAGE, TOKENS = (2, 3, 8, 8), (2, 5, 4)
NETS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "residual": (Residual, IMAGE),
    "concatenated": (Concatenated, IMAGE),
    "grouped": (Grouped, IMAGE),
    "attention": (lambda: Attending(48, 6, 40, 2), TOKENS),
    "gated": (Gated, IMAGE),
}


def scored(net: str) -> Program:
    torch.manual_seed(0)
    made, shape = NETS[net]
    spec = fxprune.Spec.of({"objective": {"latency": 0.5}})
    return pipeline.run(capture(made().eval(), (torch.randn(shape),)), coupling(spec))


class Work:
    """Stand in for the clock: a kernel takes its elements, and widths count in steps of 16."""

    def __init__(self, step: int = 16) -> None:
        self.asked, self.step = 0, step

    def __call__(self, made: onnx.ModelProto, feeds: Any, threads: int) -> float:
        self.asked += 1
        sizes = [tuple(entry.dims) for entry in made.graph.initializer]
        sizes += [array.shape for array in feeds.values()]
        return (
            float(sum(np.prod([-(-n // self.step) * self.step for n in shape]) for shape in sizes))
            / 1e3
        )


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Work:
    made = Work()
    monkeypatch.setattr(model, "microseconds", made)
    monkeypatch.setenv("FXPRUNE_CACHE", str(tmp_path / "cache"))
    return made


def kernel_model(program: Program, **options: Any) -> KernelModel:
    return latency_prediction.kernel_model(program, Latency(0.5, **options), 1, lambda text: None)


# ---- graphs at other widths ----------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_a_graph_at_other_widths_is_that_of_the_pruned_model(net: str, work: Work) -> None:
    """Every value has the sizes that it has in the graph of the model that was really pruned."""
    program = scored(net)
    found, cost = kernel_model(program), costed(program)
    for kept in (1.0, 0.75, 0.5):
        alive = latency_prediction._scaled(program, cost, kept)
        shapes = []
        for made in (found.resized(alive), latency_prediction._drafted(program, cost, alive)):
            feeds = latency_prediction._feeds(program, made, 1)
            session = ort.InferenceSession(
                made.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            shapes.append([array.shape for array in session.run(None, feeds)])
            weights = {e.name: tuple(e.dims) for e in made.graph.initializer if len(e.dims) > 1}
            ops = [n.op_type for n in made.graph.node]
            shapes[-1] += [
                sorted(weights[i] for n in made.graph.node for i in n.input if i in weights)
            ]
            shapes[-1] += [ops]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("net", NETS)
def test_every_kernel_is_known_and_the_whole_is_the_whole(net: str, work: Work) -> None:
    work.step = 1
    program = scored(net)
    found, cost = kernel_model(program), costed(program)
    assert model.grouped(found.graph)[1] == 0
    ops = {node.proto.op_type for group in found.groups for node in group.nodes}
    assert ops & {"Conv", "MatMul", "Gemm"}
    assert found.share(cost, cost.whole()) == pytest.approx(1.0)
    shares = [
        found.share(cost, latency_prediction._scaled(program, cost, k)) for k in (1.0, 0.6, 0.3)
    ]
    assert shares[0] > shares[1] > shares[2] > 0
    total = sum(
        float(term.table([len(cost.axes[axis]) for axis in term.axes]))
        for term in found.terms(cost, 1.0)
    )
    assert total == pytest.approx(1.0, rel=0.3)  # about: products of widths stand for staircases


def test_a_size_that_follows_no_axis_is_said() -> None:
    labels = Labels([(64, 12), (60, 11)])
    assert labels.of((128, 120)) == Label(0, 2)
    with pytest.raises(Unlabelled, match="7 and 9"):
        labels.of((7, 9))


def test_what_cannot_be_foretold_goes_by_macs_and_is_still_met(
    monkeypatch: pytest.MonkeyPatch, told_clock: ToldClock, work: Work
) -> None:
    def refuse(*_: Any) -> None:
        raise Unlabelled("for a test")

    monkeypatch.setattr("fxprune.loop.latency_contract.kernel_model", refuse)
    said: list[str] = []
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)).eval()
    spec = {"allocation": "uniform", "objective": {"latency": 0.6}}
    slim = fxprune.prune(net, spec, (torch.randn(2, 3, 16, 16),), progress=said.append)
    assert any("for a test" in text for text in said)
    assert slim.report.latency.measured > 0
    assert slim.report.latency.met


# ---- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 4, 8, 16])
def test_the_step_of_a_staircase_is_found(step: int) -> None:
    times = {w: 10.0 * -(-w // step) * step for w in range(64, 0, -1)}
    assert stairs_of(times, 64).step == step


def test_a_width_off_the_steps_costs_its_penalty() -> None:
    times = {64: 100.0, 63: 130.0, 62: 130.0, 60: 130.0, 56: 90.0, 52: 120.0, 48: 80.0, 40: 70.0}
    found = stairs_of(times, 64)
    assert found == Stairs(8, pytest.approx(1.3))
    assert found.up(57) == 64
    assert found.factor(57) == pytest.approx(1.3)
    assert found.factor(56) == 1.0


@pytest.mark.parametrize("width", [1, 2, 3, 7, 10, 64, 100, 768, 2048])
def test_levels_reach_from_one_to_all(width: int) -> None:
    found = levels(width)
    assert found == sorted(set(found))
    assert found[-1] == width
    assert found[0] <= max(1, width / 4)
    assert len(found) <= 7


def test_steps_of_the_kernels_become_roundings(work: Work) -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(64, 128, 1), nn.ReLU(), nn.Conv2d(128, 128, 1))
    spec = fxprune.Spec.of({"objective": {"latency": 0.5}})
    program = pipeline.run(capture(wide.eval(), (torch.randn(2, 64, 8, 8),)), coupling(spec))
    assert kernel_model(program).roundings == (16, 8, 4, 2, 1)


# ---- what is remembered --------------------------------------------------------------------------


def test_nothing_is_timed_twice(work: Work, tmp_path: Path) -> None:
    first = kernel_model(scored("residual"))
    asked = work.asked
    again = kernel_model(scored("residual"))
    assert asked > 10
    assert work.asked == asked
    assert again.whole == first.whole
    file = tmp_path / "cache" / "kernels.json"
    held = json.loads(file.read_text())
    (families,) = held["devices"].values()
    assert sum(len(one["us"]) for one in families.values()) == asked
    assert all(one["about"] for one in families.values())
    assert [path.name for path in file.parent.iterdir()] == ["kernels.json"]


def test_a_run_that_is_stopped_goes_on_where_it_was(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(BaseException):
        pass

    def stopping(*given: Any) -> float:
        if work.asked >= 7:
            raise Stopped
        return work(*given)

    monkeypatch.setattr(model, "microseconds", stopping)
    with pytest.raises(Stopped):
        kernel_model(scored("residual"))
    monkeypatch.setattr(model, "microseconds", work)
    whole = kernel_model(scored("residual")).whole
    asked = work.asked
    monkeypatch.setenv("FXPRUNE_CACHE", "/nowhere-needed")
    monkeypatch.setattr(Store, "save", lambda self: None)
    assert kernel_model(scored("residual")).whole == whole
    assert work.asked == 2 * asked  # in one go as many are timed as in two


def test_a_table_can_be_named_and_shared(work: Work, tmp_path: Path) -> None:
    file = tmp_path / "team.json"
    kernel_model(scored("gated"), table=str(file))
    asked = work.asked
    kernel_model(scored("gated"), table=str(file))
    assert work.asked == asked
    assert file.exists()
    assert not (tmp_path / "cache").exists()


def test_two_writers_keep_what_the_other_wrote(tmp_path: Path) -> None:
    one, two = (Store.open(tmp_path / "k.json", 1) for _ in range(2))
    one.put("a", "Conv", (8, 8), 1.0)
    two.put("b", "Gemm", (4,), 2.0)
    one.save()
    two.save()
    found = Store.open(tmp_path / "k.json", 1)
    assert found.get("a", (8, 8)) == 1.0
    assert found.get("b", (4,)) == 2.0
    assert Store.open(tmp_path / "k.json", 2).get("a", (8, 8)) is None  # another device


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 99, "devices": {}}', "null"])
@pytest.mark.usefixtures("told_clock")
def test_what_is_no_table_is_refused_and_left(text: str, work: Work, tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    spec = {"objective": {"latency": 0.5, "table": str(file)}}
    net, inputs = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)), (torch.randn(2, 3, 8, 8),)
    with pytest.raises(FileError, match=r"bad\.json.*move it away"):
        fxprune.prune(net, spec, inputs)
    assert file.read_text() == text
