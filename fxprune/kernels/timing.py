"""Time a small ONNX model kernel by kernel, as it would run inside of a larger one."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

Array = NDArray[Any]
SECONDS = 0.008  # each point is run for about so long
FEWEST, MOST = 5, 40  # runs
# between two convolutions of a real graph there is no change of layout: it is not the kernel's
LAYOUT = frozenset({"ReorderInput", "ReorderOutput"})


def microseconds(model: onnx.ModelProto, feeds: Mapping[str, Array], threads: int) -> float:
    """Return what the kernels of a model take together: the median over some runs."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "profile")
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        fed = dict(feeds)
        session.run(None, fed)
        began = time.perf_counter()
        session.run(None, fed)
        once = time.perf_counter() - began
        for _ in range(int(min(MOST, max(FEWEST, SECONDS / max(once, 1e-6))))):
            session.run(None, fed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    totals: list[float] = []
    total = 0.0
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            if event["args"].get("op_name") not in LAYOUT:
                total += event["dur"]
        elif event["name"] == "model_run":
            totals.append(total)
            total = 0.0
    return statistics.median(totals[2:])
