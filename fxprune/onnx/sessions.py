"""Open and run sessions of ONNX Runtime: whatever runs a model here asks for its session here.

Imports nothing of fxprune until something fails: `peak_process.py` loads this file by itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import onnxruntime as ort
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fxprune.errors import ExportError

Array = NDArray[Any]


def open_session(
    model: str | os.PathLike[str] | bytes,
    threads: int = 1,
    *,
    optimized: bool = True,
    fading: bool = False,
    profile: str | None = None,
) -> ort.InferenceSession:
    """Open an ONNX model (a path or its bytes) in ONNX Runtime on the CPU, without log lines.

    Not `optimized`, it runs the graph as it is written, node by node. `fading` is for made-up
    weights: numbers may become so small from layer to layer that arithmetic would be slow. With a
    `profile` it writes what every kernel takes to a file whose path begins so. Raises
    `ExportError` when ONNX Runtime refuses the model.
    """
    source = model if isinstance(model, bytes) else os.fspath(model)
    options = _options(threads, optimized, fading, profile)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # ONNX Runtime's exception types share no public base class.
        raise _error("load", problem) from problem


def run(session: ort.InferenceSession, feeds: Mapping[str, Array]) -> list[Array]:
    """Run one session; raise `ExportError` with ONNX Runtime's reason when it fails."""
    try:
        outputs: list[Array] = session.run(None, dict(feeds))
    except Exception as problem:  # ONNX Runtime's exception types share no public base class.
        raise _error("run", problem) from problem
    return outputs


def _options(
    threads: int, optimized: bool, fading: bool, profile: str | None
) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Threads that wait for work would take the cores from the session that runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.set_denormal_as_zero", "1" if fading else "0")
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Weights packed for speed take longer to pack than a run or two gains.
        options.add_session_config_entry("session.disable_prepacking", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return options


def _error(verb: str, problem: Exception) -> ExportError:
    from fxprune.errors import ExportError  # late: see above

    said = " ".join(str(problem).split())[:300]
    return ExportError(f"ONNX Runtime cannot {verb} the model: {said}")
