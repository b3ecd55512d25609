"""Prune a checkpoint in processes that end at certain moments, and print what was left and made.

A process of its own, which forks: what ends a child must not end the tests, and nothing is cleaned
up after it. A moment is a piece of a tensor that is written, or a file that gets its name.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import fxprune
from fxprune.files import shard_writing
from tests.support.checkpoints import IDS, SPEC, build, decoder, stored, sums, written

KILLED = 9


def counted(last: int | None) -> list[int]:
    """Count moments, and end the process at the last."""
    seen = [0]

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            seen[0] += 1
            if seen[0] == last:
                os._exit(KILLED)
            return call(*args, **kwargs)

        return inner

    shard_writing._bytes = watched(shard_writing._bytes)
    os.replace, os.rename = watched(os.replace), watched(os.rename)
    return seen


def run(folder: Path) -> None:
    fxprune.prune_checkpoint(folder / "whole", SPEC, folder / "half", build, IDS)


def child(work: Callable[[], None]) -> int:
    """Return the status with which a forked process ends."""
    number = os.fork()
    if not number:
        try:
            work()
        finally:
            os._exit(0 if (folder / "half").exists() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def main(moments: int) -> None:
    source = written(folder / "whole", stored(decoder()))
    before = sums(source)
    seen = counted(None)
    run(folder)
    last, whole = seen[0], sums(folder / "half")
    for k in range(moments):
        at = 1 + k * (last - 1) // (moments - 1)
        for path in sorted((folder / "half").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        (folder / "half").rmdir()

        def stopped(at: int = at) -> None:
            counted(at)
            run(folder)

        status, there = child(stopped), (folder / "half").exists()
        done = sorted(path.name for path in (folder / ".half.unfinished").glob("*.safetensors"))
        again = child(lambda: run(folder))
        told = {
            "status": status,
            "again": again,
            "whole": there,
            "done": [name for name in done if not name.startswith(".")],
            "same": sums(folder / "half") == whole,
            "source": sums(source) == before,
            "left": sorted(path.name for path in folder.iterdir()),
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)  # a process with threads should not fork
    folder = Path(sys.argv[1])
    main(int(sys.argv[2]))
