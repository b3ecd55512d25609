"""N:M sparsity as runtimes take it: along the axis that is summed over, also in the ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

import fxprune
from tests.support.noise import noise


class Readers(nn.Module):
    """Read weights in every way: convolutions, transposed and grouped, linear, from the right."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.linear, self.bare = nn.Linear(16, 24), nn.Linear(24, 12, bias=False)
        self.right = nn.Module()
        self.right.weight = nn.Parameter(torch.randn(12, 20))
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Any:
        x = self.up(F.relu(self.grouped(F.relu(self.body(F.relu(self.stem(x)))))))
        x = self.bare(F.relu(self.linear(x.flatten(2).transpose(1, 2))))
        return self.head(F.relu(x @ self.right.weight).mean(1))


X = (noise(2, 3, 8, 8),)
SUMMED = {"body": 1, "grouped": 1, "up": 0, "linear": 1, "bare": 1, "right": 0, "head": 1}


def pruned(**changes: Any) -> Any:
    torch.manual_seed(0)
    target = {"kind": "block", "block": {"n": 2, "m": 4}}
    spec = {"target": target, "metric": "l1", "objective": {"ratio": 0.5}, **changes}
    return fxprune.prune(Readers().eval(), spec, X)


def most(values: Any, axis: int) -> NDArray[np.int64]:
    """Return how many of every four entries in a row along an axis are not zero."""
    rows = np.moveaxis(np.asarray(values != 0), axis, -1)
    return rows.reshape(-1, 4).sum(1)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("schedule", ["one-shot", {"name": "linear", "steps": 2}])
def test_half_is_two_of_four_along_the_summed_axis_of_every_weight(
    allocation: str, schedule: Any
) -> None:
    slim = pruned(allocation=allocation, schedule=schedule)
    masks = {name.removesuffix(".weight"): mask for name, mask in slim.plan.masks.items()}
    assert masks.keys() == SUMMED.keys()  # three inputs are no whole group
    for name, axis in SUMMED.items():
        assert (most(masks[name], axis) == 2).all(), name
    assert any("stem.weight: 3 of 3 along axis 1 are no whole" in n for n in slim.report.notes)
    assert slim.report.steps[-1].achieved == pytest.approx(0.5)
    assert {target.name: target.kept / target.units for target in slim.plan.targets} == {
        f"{name}.weight:block": 0.5 for name in SUMMED
    }


def test_a_rest_that_is_no_whole_group_stays_dense() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 3))
    target = {"kind": "block", "block": {"n": 1, "m": 4}}
    spec = {"target": target, "metric": "l1", "objective": {"ratio": 0.75}}
    slim = fxprune.prune(model, spec, (torch.randn(2, 10),))
    first, last = slim.plan.masks["0.weight"], slim.plan.masks["2.weight"]
    assert (most(first[:, :8], 1) == 1).all()
    assert (most(last[:, :4], 1) == 1).all()
    assert first[:, 8:].all()
    assert last[:, 4:].all()
    assert slim.report.masked == int((~first).sum()) + int((~last).sum()) == 45
    assert [(one.units, one.kept) for one in slim.plan.targets] == [(48, 12), (12, 3)]


def weights_of(graph: Any) -> dict[str, tuple[Any, int]]:
    """Return every matrix and kernel of an ONNX graph, with the axis that its node sums over."""
    values = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    found: dict[str, tuple[Any, int]] = {}
    for node in graph.node:
        flags = {one.name: one.i for one in node.attribute}
        axes = {"Conv": 1, "ConvTranspose": 0, "MatMul": 0, "Gemm": flags.get("transB", 0)}
        if node.op_type in axes and node.input[1] in values:
            found[node.input[1]] = values[node.input[1]], axes[node.op_type]
    return found


def test_the_onnx_file_is_two_of_four_where_its_nodes_sum(tmp_path: Path) -> None:
    """Linear layers become MatMul with the weight transposed, or Gemm: the pattern turns along."""
    fxprune.export_onnx(pruned(), tmp_path / "slim.onnx")
    model = onnx.load(tmp_path / "slim.onnx")
    found = weights_of(model.graph)
    assert len(found) == len(SUMMED) + 1
    dense = [name for name, (values, _) in found.items() if values.shape[1] == 3]
    for name, (values, axis) in found.items():
        if name not in dense:
            assert (most(values, axis) == 2).all(), name
    assert len(dense) == 1
    kinds = {node.op_type for node in model.graph.node}
    assert {"Conv", "ConvTranspose", "MatMul", "Gemm"} <= kinds


def test_torch_packs_what_a_mask_left() -> None:
    """What `torch.sparse.to_sparse_semi_structured` does on a GPU, in its reference for the CPU."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
    target = {"kind": "block", "block": {"n": 2, "m": 4}}
    spec = {"target": target, "metric": "l1", "objective": {"ratio": 0.5}}
    slim = fxprune.prune(model, spec, (torch.randn(2, 64),))
    for name in ("0.weight", "2.weight"):
        weight = slim.get_parameter(name).detach().half()
        packed, meta = sparse_semi_structured_from_dense_cutlass(weight)
        assert packed.shape == (weight.shape[0], weight.shape[1] // 2)
        assert torch.equal(sparse_semi_structured_to_dense_cutlass(packed, meta), weight)
    dense = model[0].weight.detach().half()
    packed, meta = sparse_semi_structured_from_dense_cutlass(dense)
    assert not torch.equal(sparse_semi_structured_to_dense_cutlass(packed, meta), dense)
