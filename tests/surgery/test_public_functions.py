"""Public functions of torch do what the operators do in whose place they are written."""

from __future__ import annotations

import copy
import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx
from torch.utils import _pytree as pytree

from fxprune.surgery.public_functions import public, publish
from tests.rules.law import Held, Input, Sample
from tests.rules.test_law import SAMPLES
from tests.support.noise import noise

aten = torch.ops.aten


def _plain(sample: Sample) -> tuple[list[Any], dict[str, Any]]:
    marks = (Input, Held)
    args, kwargs = pytree.tree_map(
        lambda one: one.tensor if isinstance(one, marks) else one,
        (list(sample.args), dict(sample.kwargs)),
        is_leaf=lambda one: isinstance(one, marks),
    )
    return copy.deepcopy(args), copy.deepcopy(kwargs)


WRITTEN = [
    (one, written)
    for one in SAMPLES
    if isinstance(one.operator, torch._ops.OpOverload)
    and (written := public(one.operator, len(one.args), frozenset(one.kwargs)))
]


@pytest.mark.parametrize(("sample", "written"), WRITTEN, ids=lambda one: getattr(one, "text", ""))
def test_the_same_numbers(sample: Sample, written: Any) -> None:
    kind, target, more = written
    args, kwargs = _plain(sample)
    torch.manual_seed(0)
    wanted = sample.operator(*args, **kwargs)
    again, named = _plain(sample)
    call = getattr(again.pop(0), target) if kind == "call_method" else target
    torch.manual_seed(0)
    found = call(*again, **named, **more)
    for a, b in zip(pytree.tree_leaves(found), pytree.tree_leaves(wanted), strict=True):
        assert (type(a), getattr(a, "dtype", None)) == (type(b), getattr(b, "dtype", None))
        if sample.values:
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        else:
            assert getattr(a, "shape", None) == getattr(b, "shape", None)


@pytest.mark.parametrize(
    ("called", "count", "keywords", "written"),
    [
        (aten.add.Tensor, 2, (), ("call_function", torch.add, {})),
        (aten.relu.default, 1, (), ("call_function", F.relu, {})),
        (aten.relu_.default, 1, (), ("call_function", F.relu, {"inplace": True})),
        (aten.view.default, 2, (), ("call_method", "view", {})),
        (aten.sym_size.int, 2, (), ("call_method", "size", {})),
        (aten.add_.Tensor, 2, (), ("call_method", "add_", {})),
        (aten.fake_quantize_per_tensor_affine.default, 5, (), None),
        (torch.ops.fxprune.handed_on.default, 2, (), None),
        (aten.to.dtype_layout, 1, ("dtype", "layout", "device"), None),
    ],
)
def test_what_is_written(called: Any, count: int, keywords: tuple[str, ...], written: Any) -> None:
    assert public(called, count, frozenset(keywords)) == written


@pytest.mark.parametrize(
    "given", [(), (1,), (2, None, 3), (1, 0, 2**63 - 1), (0, 2, -1), (3, 1, 9, 2), (-1, 1, 3)]
)
def test_a_slice_is_a_subscript(given: tuple[Any, ...]) -> None:
    graph = fx.Graph()
    graph.output(graph.call_function(aten.slice.Tensor, (graph.placeholder("x"), *given)))
    publish(graph)
    x = noise(4, 5, 6, 7)
    found = fx.GraphModule(torch.nn.Module(), graph)(x)
    assert torch.equal(found, aten.slice.Tensor(x, *given))
    assert found.data_ptr() == aten.slice.Tensor(x, *given).data_ptr()
    subscript = operator.getitem in [node.target for node in graph.nodes]
    assert subscript == (given[:1] != (-1,))
