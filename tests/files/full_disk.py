"""Write every kind of file where the disk takes a few bytes only, and print what is said of it.

A process of its own: what ends it must not end the tests. The disk is a limit on the size of files.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

import fxprune
from fxprune.cli import family as family_cli
from fxprune.errors import FxpruneError
from fxprune.latency.kernels import Store
from fxprune.loop.checkpoint import Checkpoint, Saved
from fxprune.loop.trials import Trials
from fxprune.onnx.compaction import compact_file
from tests.support.noise import noise

BYTES = 2000
X = (noise(2, 6),)
SPEC = {"objective": {"ratio": 0.5}}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 200), nn.ReLU(), nn.Linear(200, 4)).eval()


def writers(folder: Path) -> dict[str, Callable[[], Any]]:
    slim = fxprune.prune(network(), SPEC, X)
    whole: Any = fxprune.run(network(), "restore", X)
    family = fxprune.prune_family(network(), {"objective": {"macs": 0.5}}, X, sweep=[0.5])
    weights = {name: torch.randn(100, 100) for name in ("a", "b")}
    optimizer = torch.optim.Adam([nn.Parameter(torch.randn(100, 100))])
    store = Store.open(folder / "kernels.json", 1)
    for width in range(300):
        store.put("family", "Conv", (width,), 1.0)
    trials = Trials(lambda module: 0.5, folder / "scores.jsonl")
    fxprune.export_onnx(whole, folder / "source.onnx")

    def prune(**options: Any) -> Callable[[], Any]:
        return lambda: fxprune.prune(network(), SPEC, X, **options)

    return {
        "slim.pt2": lambda: fxprune.save(slim, folder / "slim.pt2"),
        "slim.onnx": lambda: fxprune.export_onnx(whole, folder / "slim.onnx"),
        "compact.onnx": lambda: compact_file(folder / "source.onnx", folder / "compact.onnx"),
        "plan.safetensors": lambda: slim.plan.save(folder / "plan.json"),
        "slim-0.5.pt2": lambda: family_cli.write(family, folder / "slim.pt2", folder / "a.svg"),
        "schedule.safetensors": lambda: Checkpoint(folder, "").save(
            Saved(weights=weights), optimizer
        ),
        "schedule.safetensors of a run": prune(checkpoint=folder),
        "kernels.json": store.save,
        "scores.jsonl": lambda: trials._write("k" * 3000, 0.5),
    }


def main(folder: Path) -> None:
    for name, write in writers(folder).items():
        if name not in ("kernels.json", "schedule.safetensors of a run"):  # which are read first
            (folder / name).write_text("old\n")
        before = {path.name: path.stat().st_size for path in folder.iterdir()}
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        sys.stdout.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, hard))
        try:
            write()
            said = "nothing"
        except FxpruneError as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        after = {path.name: path.stat().st_size for path in folder.iterdir()}
        print(json.dumps({"name": name, "said": said, "same": before == after}))
        for path in folder.iterdir():
            if path.name != "source.onnx":
                path.unlink()


if __name__ == "__main__":
    assert onnx
    main(Path(sys.argv[1]))
