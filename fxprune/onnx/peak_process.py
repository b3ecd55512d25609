"""Print by how many bytes one ONNX file raises the memory of a process that runs it.

Run as a script, without the package: what fxprune imports would lie under what is measured. The
one file of it that is needed is loaded by its path.
"""

from __future__ import annotations

import resource
import runpy
import sys
from pathlib import Path

import numpy as np


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
    sessions = runpy.run_path(str(Path(__file__).with_name("sessions.py")))
    before = highest()
    session = sessions["open_session"](path, threads)
    for _ in range(3):
        session.run(None, given)
    print(highest() - before)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
