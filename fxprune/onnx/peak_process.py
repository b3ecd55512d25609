"""Print by how many bytes one ONNX file raises the memory of a process that runs it.

Run as a script, without the package: what fxprune imports would lie under what is measured.
"""

from __future__ import annotations

import resource
import sys

import numpy as np
import onnxruntime


def highest() -> int:
    """Return the most bytes of memory that the process has held so far."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except OSError:
        # Elsewhere; on Linux this one also counts what the parent held when it started us.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(path: str, feeds: str, threads: int, names: list[str]) -> None:
    """Load and run a file, and print the rise."""
    with np.load(feeds) as stored:
        given = {name: stored[f"arr_{place}"] for place, name in enumerate(names)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    before = highest()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for _ in range(3):
        session.run(None, given)
    print(highest() - before)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
