"""The sizes of every value of an ONNX graph, read off one run of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from fxprune.errors import FileError, first_line
from fxprune.onnx.sessions import Array, open_session

Shape = tuple[int, ...]
Event = Mapping[str, Any]
KERNEL = "_kernel_time"


def profiled(session: ort.InferenceSession) -> list[Event]:
    """End the profile of a session, and return what it says of kernels and of whole runs.

    Raises FileError where the disk did not take the whole profile.
    """
    path = session.end_profiling()
    try:
        events = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise FileError(
            f"{path}: a profile of ONNX Runtime cannot be written: {first_line(problem)}; free "
            "some space there, or set TMPDIR to another place"
        ) from problem
    return [e for e in events if e["name"] == "model_run" or e["name"].endswith(KERNEL)]


@contextmanager
def profiling(
    model: onnx.ModelProto, threads: int = 1, *, optimized: bool = True
) -> Iterator[ort.InferenceSession]:
    """Open a model in ONNX Runtime such that it says what every kernel takes.

    Raises `ExportError` when ONNX Runtime refuses the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, prefix = model.SerializeToString(), os.path.join(folder, "profile")
        yield open_session(given, threads, optimized=optimized, fading=True, profile=prefix)


_TYPES = {  # as the profile names them
    "float": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "double": onnx.TensorProto.DOUBLE,
    "int64": onnx.TensorProto.INT64,
    "int32": onnx.TensorProto.INT32,
    "int8": onnx.TensorProto.INT8,
    "uint8": onnx.TensorProto.UINT8,
    "bool": onnx.TensorProto.BOOL,
}


def shapes_of(
    model: onnx.ModelProto, feeds: Mapping[str, Array]
) -> tuple[dict[str, Shape], dict[str, int]]:
    """Return the sizes and the types of all values of a graph when it is run on such inputs.

    Values inside of control flow are left out, and those of rarer types.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    outputs: dict[str, list[str]] = {}
    for number, node in enumerate(copy.graph.node):
        node.name = f"n{number}"
        outputs[node.name] = [name for name in node.output if name]
    shapes = {name: tuple(array.shape) for name, array in feeds.items()}
    types = {e.name: e.type.tensor_type.elem_type for e in model.graph.input}
    with profiling(copy, optimized=False) as session:
        session.run(None, dict(feeds))
        events = profiled(session)
    for event in events[:-1]:
        name = event["name"].removesuffix(KERNEL)
        listed = [next(iter(one.items())) for one in event["args"]["output_type_shape"]]
        if len(listed) != len(outputs.get(name, ())):
            continue
        for value, (kind, shape) in zip(outputs[name], listed, strict=True):
            if kind in _TYPES:
                shapes[value], types[value] = tuple(shape), _TYPES[kind]
    _beside(model, feeds, shapes, types)
    return shapes, types


def _beside(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    shapes: dict[str, Shape],
    types: dict[str, int],
) -> None:
    """Add what no kernel made: values of operators that ONNX Runtime runs as several others."""
    every = [name for node in model.graph.node for name in node.output if name]
    left = [name for name in every if name not in shapes]
    if not left:
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    ends = {entry.name for entry in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in left if name not in ends)
    session = open_session(copy.SerializeToString(), optimized=False)
    for name, array in zip(left, session.run(left, dict(feeds)), strict=True):
        if isinstance(array, np.ndarray):
            shapes[name] = tuple(array.shape)
            types[name] = helper.np_dtype_to_tensor_dtype(array.dtype)


def random_array(shape: Shape, dtype: Any, seed: int = 0) -> Array:
    """Return small random numbers of a shape: small, so that no kernel meets infinities."""
    source = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return (source.standard_normal(shape, dtype=np.float32) * 0.05).astype(dtype)
    return np.zeros(shape, dtype)
