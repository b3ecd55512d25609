"""Time a small ONNX model kernel by kernel, as it would run inside of a larger one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import onnx

from fxprune.latency.kernels.shapes import profiled, profiling
from fxprune.onnx.sessions import Array

SECONDS = 0.008  # each point is run for about so long
FEWEST, MOST = 5, 40  # runs
# between two convolutions of a real graph there is no change of layout: it is not the kernel's
LAYOUT = frozenset({"ReorderInput", "ReorderOutput"})


def microseconds(model: onnx.ModelProto, feeds: Mapping[str, Array], threads: int) -> float:
    """Return what the kernels of a model take together: the median over some runs."""
    with profiling(model, threads) as session:
        fed = dict(feeds)
        session.run(None, fed)
        began = time.perf_counter()
        session.run(None, fed)
        once = time.perf_counter() - began
        for _ in range(int(min(MOST, max(FEWEST, SECONDS / max(once, 1e-6))))):
            session.run(None, fed)
        events = profiled(session)
    totals: list[float] = []
    total = 0.0
    for event in events:
        if event["name"] == "model_run":
            totals.append(total)
            total = 0.0
        elif event["args"].get("op_name") not in LAYOUT:
            total += event["dur"]
    return statistics.median(totals[2:])
