"""Prune a checkpoint of 4 GiB in 8 shards tensor by tensor: seconds, memory, and killed runs.

    python tools/bench/checkpoint.py --folder /tmp/bench --kills 10

A decoder with random weights in bfloat16 is written once. The same files are copied by `cp`, then
pruned to half of the hidden features and heads in a process of its own, of which the peak of memory
is read above what it held before the call; then it is killed at random moments, resumed, and its
files are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import fxprune
from decoders import Shape, on_meta

SHAPE = Shape(4096, 32, 8, 11008, 8192)
LAYERS, SHARDS = 12, 8
SPEC = {"target": ["hidden", "head"], "objective": {"params": 0.5}}
IDS = torch.zeros(2, 16, dtype=torch.int64)


def make(folder: Path, shape: Shape, layers: int, shards: int) -> int:
    """Write a checkpoint, unless it is there; return its bytes."""
    model = on_meta(shape, layers)
    tensors = model.state_dict()
    total = sum(tensor.nbytes for tensor in tensors.values())
    if folder.is_dir():
        return total
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    noise, weights, begun = torch.Generator().manual_seed(0), dict[str, str](), 0
    held: dict[str, torch.Tensor] = {}
    names = list(tensors)
    for name in names:
        held[name] = torch.empty(tensors[name].shape, dtype=torch.bfloat16).normal_(generator=noise)
        size = sum(tensor.nbytes for tensor in held.values())
        if size >= total / shards or name == names[-1]:
            begun += 1
            file = f"model-{begun:05}.safetensors"
            save_file(held, part / file, {"format": "pt"})
            weights |= dict.fromkeys(held, file)
            held = {}
    index = {"metadata": {"total_size": total}, "weight_map": weights}
    (part / "model.safetensors.index.json").write_text(json.dumps(index))
    (part / "config.json").write_text("{}")
    part.rename(folder)
    return total


def memory(name: str) -> int:
    """Return a number of bytes that the kernel keeps of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def work(source: Path, output: Path, shape: Shape, layers: int) -> None:
    """Prune, and print what it took; run in a process of its own."""
    model = on_meta(shape, layers)
    small = on_meta(Shape(16, 2, 1, 16, 16), 1)
    fxprune.analyze(small, IDS.to("meta"))  # everything is loaded
    idle = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    began, cpu = time.perf_counter(), time.process_time()
    report = fxprune.prune_checkpoint(source, SPEC, output, model, IDS, progress=True)
    told = {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "peak": memory("VmHWM") - idle,
        "idle": idle,
        "parts": {name: round(spent, 2) for name, spent in report.seconds.items()},
        "kept": report.parameters_after / report.parameters_before,
    }
    print(json.dumps(told), flush=True)


def command(folder: Path, output: Path, layers: int) -> list[str]:
    return [sys.executable, __file__, "--work", str(folder), str(output), "--layers", str(layers)]


def unfinished(output: Path) -> Path:
    return output.with_name(f".{output.name}.unfinished")


def pruned(folder: Path, output: Path, layers: int) -> dict[str, Any]:
    for path in (output, unfinished(output)):
        shutil.rmtree(path, ignore_errors=True)
    done = subprocess.run(
        command(folder, output, layers), capture_output=True, text=True, check=True
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def copied(folder: Path, output: Path) -> float:
    """Return the seconds of `cp` and of the flush to the disk."""
    shutil.rmtree(output, ignore_errors=True)
    began = time.perf_counter()
    subprocess.run(["cp", "-r", folder, output], check=True)
    for path in output.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    return time.perf_counter() - began


def sums(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    found = {}
    for path in files:
        with path.open("rb") as file:
            found[str(path.relative_to(folder))] = hashlib.file_digest(file, "blake2b").hexdigest()
    return found


def killed(folder: Path, output: Path, layers: int, after: float) -> str:
    """Kill a run after some seconds, and resume it; return how far it had come."""
    shutil.rmtree(output, ignore_errors=True)
    with subprocess.Popen(
        command(folder, output, layers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    if output.exists():
        return "over"
    done = len(list(unfinished(output).glob("model-*.safetensors")))
    subprocess.run(command(folder, output, layers), capture_output=True, check=True)
    return f"{done} shards"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("checkpoint"))
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--work", nargs=2, type=Path)
    given = parser.parse_args()
    if given.work:
        work(*given.work, SHAPE, given.layers)
        return
    source, output = given.folder / "whole", given.folder / "half"
    total = make(source, SHAPE, given.layers, SHARDS)
    print(f"{total:,} bytes in {len(list(source.glob('*.safetensors')))} shards")
    seconds = copied(source, given.folder / "copy")
    shutil.rmtree(given.folder / "copy")
    print(f"cp: {seconds:.1f} s, {total / seconds / 1e6:.0f} MB/s")
    told = pruned(source, output, given.layers)
    print(json.dumps(told))
    speed = total / told["seconds"] / 1e6
    print(
        f"fxprune: {told['seconds']:.1f} s, {speed:.0f} MB/s read, {told['peak'] / 2**20:.0f} MiB"
    )
    whole, chance = sums(output), random.Random(0)
    for _ in range(given.kills):
        after = chance.uniform(3.0, 6.0 + told["seconds"])  # starting takes some seconds
        far = killed(source, output, given.layers, after)
        print(
            f"killed after {after:.1f} s ({far}): same bytes: {sums(output) == whole}", flush=True
        )


if __name__ == "__main__":
    main()
