"""The sizes of every value of an ONNX graph, read off one run of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]
Event = Mapping[str, Any]


def profiled(
    model: onnx.ModelProto, feeds: Mapping[str, Array], runs: int, threads: int, optimized: bool
) -> list[list[Event]]:
    """Run a model and return, run by run, what ONNX Runtime says of each kernel that it ran.

    Raises ONNX Runtime's own exceptions, which share no public base class.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "profile")
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(runs):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found: list[list[Event]] = []
    kernels: list[Event] = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kernels.append(event)
        elif event["name"] == "model_run":
            found.append(kernels)
            kernels = []
    return found


Types = Mapping[str, int]
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
    for event in profiled(copy, feeds, 1, 1, optimized=False)[0]:
        name = event["name"].removesuffix("_kernel_time")
        listed = [next(iter(one.items())) for one in event["args"]["output_type_shape"]]
        if len(listed) != len(outputs.get(name, ())):
            continue
        for value, (kind, shape) in zip(outputs[name], listed, strict=True):
            if kind in _TYPES:
                shapes[value], types[value] = tuple(shape), _TYPES[kind]
    return shapes, types


def random_array(shape: Shape, dtype: Any, seed: int = 0) -> Array:
    """Return small random numbers of a shape: small, so that no kernel meets infinities."""
    source = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return (source.standard_normal(shape, dtype=np.float32) * 0.05).astype(dtype)
    return np.zeros(shape, dtype)
