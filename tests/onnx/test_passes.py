"""Compact ONNX graphs: each pass fires where it is sound, nowhere else, and changes no numbers."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from fxprune.onnx.check import open_session, relative_error, run
from fxprune.onnx.compaction import compact
from fxprune.onnx.program import OnnxProgram
from fxprune.onnx.reading import generate
from fxprune.pipeline import PASSES
from tests.onnx.fires import FIRES
from tests.onnx.spared import SPARED


def feeds_of(model: onnx.ModelProto) -> list[Any]:
    free = not model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    shapes = [
        (k, *(d.dim_value or 3 for d in list(model.graph.input[0].type.tensor_type.shape.dim)[1:]))
        for k in (1, 2)
    ]
    given = [{"x": shape} if free else None for shape in shapes]
    return [generate(model, "m", shapes=one, seed=k) for k, one in enumerate(given)]


def ops(model: onnx.ModelProto) -> list[str]:
    return [one.op_type for one in model.graph.node]


def same_numbers(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    onnx.checker.check_model(after, full_check=True)
    first, second = (
        open_session(one.SerializeToString(), optimized=False) for one in (before, after)
    )
    for feed in feeds_of(before):
        for a, b in zip(run(first, feed), run(second, feed), strict=True):
            assert relative_error(a, b) < 1e-5
            assert a.dtype == b.dtype


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    one, model, left = FIRES[name]
    old = model.SerializeToString()
    after = PASSES[one]()(OnnxProgram(model)).model
    assert model.SerializeToString() == old  # a pass does not write to what it is given
    assert ops(after) == left
    assert after.ByteSize() <= model.ByteSize()
    assert after.graph.input == model.graph.input
    assert [e.name for e in after.graph.output] == [e.name for e in model.graph.output]
    assert after.metadata_props == model.metadata_props
    same_numbers(model, after)
    again = OnnxProgram(after)
    assert PASSES[one]()(again) is again
    assert all("grew" in note for note in compact(model, feeds_of(model)).notes)


@pytest.mark.parametrize("name", SPARED)
def test_spares(name: str) -> None:
    one, model = SPARED[name]
    program = OnnxProgram(model)
    after = PASSES[one]()(program)
    assert ops(after.model) == ops(model)
    assert {w.name for w in after.model.graph.initializer} == {
        w.name for w in model.graph.initializer
    }


def test_whatever_the_pipeline_makes_of_them_gives_the_same_numbers() -> None:
    for name, (_, model) in SPARED.items():
        if "random" not in name and "training" not in name:
            found = compact(model, feeds_of(model))
            same_numbers(model, found.model)
            assert all("grew" in note for note in found.notes), name
