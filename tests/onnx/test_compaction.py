"""Run passes over whole ONNX models: what is wrong is undone and told, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.export import Dim
from typer.testing import CliRunner

import fxprune.onnx as fxonnx
from fxprune.api import described_passes
from fxprune.cli.app import app
from fxprune.errors import FileError, FxpruneError, InputError, PassError, SpecError
from fxprune.onnx.check import open_session, relative_error, run
from fxprune.onnx.compaction import compact, compact_file
from fxprune.onnx.passes import FACT, ORDER
from fxprune.onnx.program import OnnxProgram
from fxprune.onnx.reading import generate, read
from fxprune.passes import PASSES
from tests.onnx import command
from tests.onnx.command import refuses

node = helper.make_node


def model(*nodes: Any, dims: tuple[Any, ...] = ("batch", 3), **weights: Any) -> onnx.ModelProto:
    """Build a model from x to y."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)],
        [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def plain() -> onnx.ModelProto:
    made = model(node("Identity", ["x"], ["i"]), node("Mul", ["i", "w"], ["y"]), w=[1, 2, 3])
    made.doc_string = "room for a fault that shall not be told for its size"
    return made


def feeds(model: onnx.ModelProto) -> list[Any]:
    return [generate(model, "m", batch) for batch in (1, 2)]


# ---- what a pass may not do ----------------------------------------------------------------------


@dataclass(frozen=True)
class Fake:
    """Edit the model in place, as a pass must not but for this test."""

    edit: Callable[[onnx.ModelProto], Any]
    name: ClassVar[str] = "fake"
    requires: ClassVar[tuple[str, ...]] = (FACT,)
    ensures: ClassVar[tuple[str, ...]] = ()

    def __call__(self, program: OnnxProgram) -> OnnxProgram:
        copy = onnx.ModelProto()
        copy.CopyFrom(program.model)
        self.edit(copy)
        return OnnxProgram(copy)


def weigh(factor: float) -> Callable[[onnx.ModelProto], Any]:
    values = np.asarray([1, 2, 3 * factor], np.float32)
    return lambda m: m.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))


def only_at_two(m: onnx.ModelProto) -> None:
    """Add up the rows so far: one row stays what it is, and of two the second changes."""
    m.ClearField("doc_string")
    m.graph.node[0].CopyFrom(node("CumSum", ["x", "zero"], ["i"]))
    m.graph.initializer.append(numpy_helper.from_array(np.asarray(0, np.int64), "zero"))


def fails(m: onnx.ModelProto) -> None:
    raise RuntimeError("no such thing")


def renames(m: onnx.ModelProto) -> None:
    m.graph.output[0].name = m.graph.node[1].output[0] = "z"


def grows(m: onnx.ModelProto) -> None:
    m.graph.initializer.append(numpy_helper.from_array(np.ones(999, np.float32), "more"))


FAULTS: dict[str, tuple[Callable[[onnx.ModelProto], Any], str]] = {
    "numbers": (weigh(1.01), "fake: undone: output y changed by 0.01"),
    "not a number": (weigh(float("nan")), "fake: undone: output y changed by inf"),
    "at one batch size": (only_at_two, "fake: undone: output y changed"),
    "no model": (
        lambda m: setattr(m.graph.node[0], "op_type", "None"),
        "fake: undone: ONNX Runtime cannot load",
    ),
    "a name": (renames, "fake: undone: the inputs or outputs of the model changed"),
    "a symbol": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_param", "n"),
        "fake: undone: the inputs or outputs of the model changed",
    ),
    "a size": (grows, "fake: undone: the model grew from"),
    "an exception": (fails, "fake: left out: it fails: RuntimeError: no such thing"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_pass_at_fault_is_undone_and_told(name: str) -> None:
    edit, said = FAULTS[name]
    before = plain()
    found = compact(before, feeds(before), [Fake(edit)])
    assert found.model == before
    assert found.steps == ()
    (note,) = found.notes
    assert note.startswith(said)
    assert "\n" not in note


def test_other_passes_go_on() -> None:
    before = plain()
    found = compact(before, feeds(before), [Fake(weigh(2.0)), PASSES["onnx_noop"]()])
    assert [one.op_type for one in found.model.graph.node] == ["Mul"]
    assert [(step.name, step.before, step.after) for step in found.steps] == [("onnx_noop", 2, 1)]


def test_rounding_is_no_fault() -> None:
    before = plain()
    assert compact(before, feeds(before), [Fake(weigh(1 + 1e-6))]).notes == ()


def test_passes_of_programs_are_refused() -> None:
    with pytest.raises(PassError, match="couple: not a pass over ONNX graphs"):
        compact(plain(), feeds(plain()), [PASSES["couple"]()])


UNFIT: dict[str, tuple[onnx.ModelProto, str]] = {
    "random": (
        model(node("RandomNormalLike", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])),
        "RandomNormalLike draws other numbers",
    ),
    "no kernel": (model(node("Nothing", ["x"], ["y"])), "ONNX Runtime cannot load"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_compared_is_left_alone(name: str) -> None:
    before, said = UNFIT[name]
    found = compact(before, feeds(before))
    assert found.model is before
    assert f"nothing was compacted: {said}" in found.notes[0]


def test_a_default_that_callers_replace_is_no_constant() -> None:
    before = plain()
    before.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3]))
    found = compact(before, feeds(before))
    assert found.model is before
    assert "input w has a default value" in found.notes[0]


# ---- exported models -----------------------------------------------------------------------------

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=5)


class Lifted(nn.Module):
    """Norms behind what the converter leaves alone: a transposed convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm = nn.ConvTranspose2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)
        self.linear, self.last = nn.Linear(6, 4), nn.BatchNorm1d(4)
        for one in (self.norm, self.last):
            nn.init.normal_(one.running_mean)
            nn.init.uniform_(one.running_var, 0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.linear(self.norm(self.up(x)).relu().mean((2, 3))))


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet": (torchvision.models.resnet18, 20),
    "mobilenet": (torchvision.models.mobilenet_v2, 52),
    "shufflenet": (torchvision.models.shufflenet_v2_x0_5, 56),
    "vit": (vit, 1),
    "lifted": (Lifted, 1),
}


@pytest.mark.parametrize("name", MODELS)
def test_exported_models(name: str, tmp_path: Path) -> None:
    make, convolutions = MODELS[name]
    torch.manual_seed(0)
    module = make().eval()
    dims = ({0: Dim("batch")},)
    raw = tmp_path / "raw.onnx"
    exported = torch.export.export(module, (IMAGE,), dynamic_shapes=dims, strict=False)
    program = torch.onnx.export(exported, dynamo=True, verbose=False, optimize=False)
    assert program is not None
    program.save(raw)
    path = tmp_path / "compact.onnx"
    done = compact_file(raw, path)
    assert all("grew" in note for note in done.notes)
    assert done.nodes_after < done.nodes_before
    assert done.bytes_after < done.bytes_before
    after = read(path)
    left = [one.op_type for one in after.graph.node]
    assert left.count("Conv") + left.count("ConvTranspose") == convolutions
    assert not {"BatchNormalization", "Identity", "Dropout", "Constant"} & set(left)
    assert after.metadata_props == read(raw).metadata_props
    theirs = run(
        open_session(path), {after.graph.input[0].name: IMAGE[:1].repeat(5, 1, 1, 1).numpy()}
    )
    with torch.no_grad():
        assert relative_error(module(IMAGE[:1].repeat(5, 1, 1, 1)).numpy(), theirs[0]) < 1e-4
    summary = fxonnx.export(module, tmp_path / "e.onnx", (IMAGE,), dynamic_shapes=dims)
    assert all("grew" in note for note in summary.notes)
    assert summary.nodes <= done.nodes_after
    assert summary.bytes <= done.bytes_after * 1.01


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(plain(), "a.onnx")
    onnx.save(model(node("Relu", ["x"], ["y"]), dims=("batch", "length")), "free.onnx")
    (tmp_path / "junk.onnx").write_text("junk")
    return tmp_path


call = partial(command.call, "compact")


def test_command(folder: Path) -> None:
    done = call("a.onnx", "-o", "b.onnx")
    assert done.exit_code == 0
    assert "onnx_noop: 2 -> 1 nodes" in done.output or "onnx_rewrite: 2 -> 1 nodes" in done.output
    assert [one.op_type for one in onnx.load("b.onnx").graph.node] == ["Mul"]
    assert (
        call("a.onnx", "-o", "a.onnx", "--passes", "onnx_noop,onnx_fold{limit=10}").exit_code == 0
    )
    assert [one.op_type for one in onnx.load("a.onnx").graph.node] == ["Mul"]
    assert call("free.onnx", "-o", "c.onnx", "--shape", "x=2,5").exit_code == 0


WRONG: dict[str, tuple[tuple[str, ...], type[FxpruneError], str]] = {
    "no ONNX file": (("junk.onnx", "-o", "b.onnx"), FileError, r"junk\.onnx: not an ONNX file"),
    "no file": (("no.onnx", "-o", "b.onnx"), FileError, r"no\.onnx: cannot be read"),
    "no folder": (("a.onnx", "-o", "no/b.onnx"), FileError, "there is no folder"),
    "another suffix": (("a.onnx", "-o", "b.pt2"), FileError, r"must end in \.onnx"),
    "free sizes": (("free.onnx", "-o", "b.onnx"), InputError, "--shape x=1,128"),
    "another pass": (
        ("a.onnx", "-o", "b.onnx", "--passes", "couple"),
        SpecError,
        '"couple" is no pass over ONNX graphs: onnx_',
    ),
    "an unknown pass": (("a.onnx", "-o", "b.onnx", "--passes", "onnx_fld"), SpecError, "onnx_fold"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str, folder: Path) -> None:
    arguments, error, said = WRONG[name]
    refuses(("compact", *arguments), error, said)
    assert not (folder / "b.onnx").exists()


def test_listed_with_the_others() -> None:
    listed = {name: line for name, _, line in described_passes()}
    assert set(ORDER) <= set(listed)
    assert all(listed[name].endswith(".") for name in ORDER)
    assert "onnx_fold{limit: int" in CliRunner().invoke(app, ["passes"]).output
