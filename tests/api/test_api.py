"""The calls of the library, from a model to what is saved, loaded, exported and pruned again."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import FileError, InputError
from tests.support.noise import noise
from tests.support.small_nets import Tied

SPEC: dict[str, Any] = {"metric": "l1", "objective": {"ratio": 0.5}}
X = noise(2, 3, 8, 8)


class Net(nn.Module):
    """A small residual network with every part that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.wide, self.back = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 16, 1)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(16, 5)

    def forward(self, x: Tensor, scale: float = 1.0) -> Any:
        x = self.norm(self.stem(x)).relu()
        x = x + self.back(self.wide(x).relu())
        return {"logits": self.head(self.drop(x.mean((2, 3)))) * scale, "mean": x.mean()}


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def pruned(model: nn.Module | None = None) -> Any:
    return fxprune.prune(model or Net().eval(), SPEC, (X,))


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(a[key], b[key]) for key in ("logits", "mean"))


# ---- the result ----------------------------------------------------------------------------------


def test_the_call_and_the_result_are_the_models() -> None:
    model = Net().eval()
    slim = pruned(model)
    for batch in (1, 2, 7):
        x = torch.randn(batch, 3, 8, 8)
        ours, theirs = slim(x), model(x)
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert list(slim.state_dict()) == list(model.state_dict())
    assert isinstance(slim, torch.fx.GraphModule)
    assert isinstance(slim.norm, nn.BatchNorm2d)
    assert slim.norm.num_features == 8


def test_the_plan_tells_what_is_kept_of_everything_read() -> None:
    model = Net().eval()
    slim = pruned(model)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, axes in slim.plan.kept.items():
        assert all(index.dtype == torch.int64 for index in axes)
        assert all((index.diff() > 0).all() for index in axes)
        cut = tensors[name]
        for axis, index in enumerate(axes):
            cut = cut.index_select(axis, index)
        found = slim.state_dict()[name]
        # a mean or a norm may rescale, but the shapes are those of the plan, and so are the values
        torch.testing.assert_close(found, cut)
    assert {"stem.weight", "norm.running_var", "head.bias"} <= set(slim.plan.kept)


def test_a_plan_is_frozen() -> None:
    plan = pruned().plan
    with pytest.raises(AttributeError):
        plan.kept = {}
    with pytest.raises(TypeError):
        plan.kept["stem.weight"] = ()
    with pytest.raises(TypeError):
        plan.spec["metric"] = "l2"


def test_the_report_is_text_and_json() -> None:
    report = pruned().report
    assert fxprune.Report.from_json(report.to_json()) == report
    assert json.loads(report.to_json())["parameters_before"] == report.parameters_before
    text = str(report)
    assert f"{report.macs_after:,}" in text
    assert all(target.name in text for target in report.targets)
    assert {"couple", "score", "allocate", "shrink", "restore", "verify"} <= set(report.seconds)


def pickled(slim: Any) -> Any:
    return pickle.loads(pickle.dumps(slim))


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, pickled])
def test_copies_keep_plan_report_and_signature(twin: Any) -> None:
    slim = pruned()
    other = twin(slim)
    assert other.plan == slim.plan
    assert other.report == slim.report
    assert same(other(X), slim(X))
    assert same(fxprune.prune(other, SPEC)(X), fxprune.prune(slim, SPEC)(X))


def test_modes_and_frozen_parameters_are_kept() -> None:
    model = Net().train()
    model.stem.requires_grad_(False)
    slim = pruned(model)
    assert (slim.training, slim.norm.training, slim.drop.training) == (True, True, True)
    frozen = {name for name, p in slim.named_parameters() if not p.requires_grad}
    assert frozen == {"stem.weight", "stem.bias"}
    before = slim.norm.running_mean.clone()
    slim(X)["logits"].sum().backward()
    assert not torch.equal(slim.norm.running_mean, before)
    assert slim.stem.weight.grad is None
    assert slim.wide.weight.grad is not None


def test_pruning_twice_and_again() -> None:
    once = pruned()
    twice = fxprune.prune(once, SPEC)
    thrice = fxprune.prune(twice, SPEC, (X,))
    widths = [slim.wide.out_channels for slim in (once, twice, thrice)]
    assert widths == [16, 8, 4]
    assert twice.report.parameters_before == once.report.parameters_after


DTYPES = [torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_precisions(dtype: torch.dtype) -> None:
    slim = fxprune.prune(Net().eval().to(dtype), SPEC, (X.to(dtype),))
    assert {p.dtype for p in slim.parameters()} == {dtype}
    assert slim(X.to(dtype))["logits"].dtype == dtype


def test_values_that_are_no_numbers_are_refused() -> None:
    model = Net()
    with torch.no_grad():
        model.wide.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"stem:channel hold values that are not a number"):
        pruned(model)


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_save_and_load(training: bool, tmp_path: Path) -> None:
    slim = fxprune.prune(Net().train(training), SPEC, (torch.randn(16, 3, 8, 8),))
    fxprune.save(slim, tmp_path / "slim.pt2")
    again = fxprune.load(tmp_path / "slim.pt2")
    assert again.training == training
    assert again.plan == slim.plan
    assert again.report == slim.report
    assert list(again.state_dict()) == list(slim.state_dict())
    x = torch.randn(5, 3, 8, 8)
    assert same(again.eval()(x), slim.eval()(x))
    assert [p.name for p in tmp_path.iterdir()] == ["slim.pt2"]
    exported = torch.export.load(tmp_path / "slim.pt2")
    assert exported.example_inputs is not None
    assert len(exported.example_inputs[0][0]) == 2


def test_ties_are_saved(tmp_path: Path) -> None:
    slim = fxprune.prune(Tied(), SPEC, (IDS,))
    assert slim.table.weight is slim.head.weight
    fxprune.save(slim, tmp_path / "a.pt2")
    again = fxprune.load(tmp_path / "a.pt2")
    assert again.table.weight is again.head.weight
    assert torch.equal(again(IDS), slim(IDS))
    assert again.plan == slim.plan


def test_a_program_of_torch_is_loaded_too(tmp_path: Path) -> None:
    model = Net().eval()
    torch.export.save(torch.export.export(model, (X,)), tmp_path / "plain.pt2")
    slim = fxprune.load(tmp_path / "plain.pt2")
    assert (slim.plan, slim.report) == (None, None)
    assert same(slim(X), model(X))


def test_a_plan_is_saved(tmp_path: Path) -> None:
    plan = pruned().plan
    plan.save(tmp_path / "plan.json")
    again = fxprune.Plan.load(tmp_path / "plan.json")
    assert again == plan
    assert hash(again) == hash(plan)
    assert again != fxprune.Plan({}, plan.targets, plan.spec)
    assert {p.name for p in tmp_path.iterdir()} == {"plan.json", "plan.safetensors"}


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"axes": {"a": 1}}', b"\xff"])
def test_what_is_no_plan(content: bytes, tmp_path: Path) -> None:
    place = tmp_path / "plan.json"
    pruned().plan.save(place)
    place.write_bytes(content)
    with pytest.raises(FileError, match="not a plan"):
        fxprune.Plan.load(place)


def test_a_plan_does_not_take_the_place_of_its_indices(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="name the plan itself"):
        pruned().plan.save(tmp_path / "plan.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_onnx_says_where_it_comes_from(tmp_path: Path) -> None:
    slim = pruned()
    summary = fxprune.export_onnx(slim, tmp_path / "slim.onnx")
    stored = onnx.load(tmp_path / "slim.onnx").metadata_props
    facts = {entry.key.removeprefix("fxprune."): entry.value for entry in stored}
    assert json.loads(facts["spec"]) == dict(slim.plan.spec)
    assert json.loads(facts["costs"])["macs_after"] == slim.report.macs_after
    assert (facts["version"], facts["torch"]) == (fxprune.__version__, torch.__version__)
    assert summary.error <= 1e-4
    assert len(summary.batches) == 2


def test_any_module_is_exported(tmp_path: Path) -> None:
    assert fxprune.export_onnx(Net().eval(), tmp_path / "whole.onnx", (X,)).bytes > 0
    with pytest.raises(InputError, match="example inputs are needed"):
        fxprune.export_onnx(Net(), tmp_path / "none.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["whole.onnx"]
