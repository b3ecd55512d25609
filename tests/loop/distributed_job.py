"""One process of a `torch.distributed` job, as torchrun starts them, with its share of the data.

`python -m tests.loop.distributed_job FOLDER RANK WORLD` writes what came out of each case into
FOLDER.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

import fxprune
from fxprune.errors import FxpruneError
from tests.support.metrics_of import scores
from tests.support.noise import noise

X = (noise(2, 3, 6, 6),)
IN_VAIN = 200  # seconds that a process waits for the other


class Net(nn.Module):
    """Two hidden layers, and no statistics of a batch: each process would have its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 16, 3)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(self.stem(x).relu()).relu().mean((2, 3)))


def network() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def batches() -> list[tuple[Tensor, Tensor]]:
    """Return five batches; every other one has other colours, so that shares are not alike."""
    made = torch.Generator().manual_seed(1)
    colours = torch.tensor([[3.0, 0.1, 0.1], [0.1, 2.0, -2.0]])[:, :, None, None]
    return [
        (
            (1 + torch.randn(6, 3, 6, 6, generator=made)) * colours[k % 2],
            torch.randint(4, (6,), generator=made),
        )
        for k in range(5)
    ]


def loss(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def broken(module: nn.Module, batch: Any) -> Tensor:
    return loss(module, batch) * float("nan")


def fine_tune(module: nn.Module, step: int) -> None:
    """Train with this process's rows of every batch, gradients averaged as in data parallelism."""
    many = distributed.is_initialized()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if many else (0, 1)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for x, y in batches():
        optimizer.zero_grad()
        loss(module, (x[rank::world], y[rank::world])).backward()
        for parameter in module.parameters():
            if many and parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= world
        optimizer.step()


def resting(module: nn.Module, step: int) -> None:
    """Train nothing, and wait for nobody."""


def untrained(module: nn.Module, step: int) -> None:
    raise OSError("the data are gone")


def _spec(metric: Any, warmup: int = 0) -> dict[str, Any]:
    schedule = {"name": "linear", "steps": 2, "warmup": warmup}
    allocation = {"name": "global", "round_to": 1}
    return {
        "metric": metric,
        "allocation": allocation,
        "schedule": schedule,
        "objective": {"macs": 0.5},
    }


EQUAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "activation": (_spec("activation-std"), {}),
    "taylor-fo": (_spec("taylor-fo"), {"loss": loss}),
    "taylor-fo together": (_spec({"name": "taylor-fo", "together": True}), {"loss": loss}),
    "act-grad": (_spec("act-grad"), {"loss": loss}),
    "movement": (_spec("movement", 1), {"fine_tune": fine_tune}),
    "admm": (_spec({"name": "admm", "rho": 0.1}, 2), {"fine_tune": fine_tune}),
}

# what process 1 alone has wrong
BROKEN: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "empty": (_spec("apoz"), {}, {"calibrate": []}),
    "no number": (_spec("taylor-fo"), {"loss": loss}, {"loss": broken}),
    "refused": (_spec("act-grad"), {"loss": loss}, {"loss": lambda m, b: m(b[0][:, :1]).sum()}),
    "untrained": (_spec("movement", 1), {"fine_tune": resting}, {"fine_tune": untrained}),
}


def kept(case: str, rank: int = 0, world: int = 1) -> dict[str, list[list[int]]]:
    """Return the kept indices of every tensor, pruned with every `world`-th batch from `rank`."""
    spec, calls = EQUAL[case]
    slim = fxprune.prune(network(), spec, X, calibrate=batches()[rank::world], **calls)
    return {name: [axis.tolist() for axis in axes] for name, axes in slim.plan.kept.items()}


def scored(rank: int = 0, world: int = 1) -> list[list[float]]:
    """Return what the streaming metrics say with every `world`-th batch, and not just an order."""
    share = batches()[rank::world]
    return [
        values.tolist()
        for metric in ("activation", "gradient", "taylor-fo", "fisher", "act-grad")
        for values in scores(network(), metric, X, calibrate=share, loss=loss).values()
    ]


def disagreeing(rank: int) -> list[int]:
    """Return the kept channels of a network whose weights are other ones in each process."""
    torch.manual_seed(rank)
    slim = fxprune.prune(Net().eval(), _spec("l2"), X)
    return [int(k) for k in slim.plan.kept["body.weight"][0]]


def failure(case: str, rank: int, world: int) -> tuple[str, str]:
    """Return the type and words of what is raised: a wait in vain ends with an error of gloo."""
    spec, calls, wrong = BROKEN[case]
    given = {"calibrate": batches()[rank::world], **calls, **(wrong if rank == 1 else {})}
    try:
        fxprune.prune(network(), spec, X, **given)
    except (FxpruneError, RuntimeError) as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def main(folder: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=IN_VAIN),
    )
    found = {
        "kept": {case: kept(case, rank, world) for case in EQUAL},
        "scores": scored(rank, world),
        "disagreeing": disagreeing(rank),
        "failures": {case: failure(case, rank, world) for case in BROKEN},
    }
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    os._exit(0)  # all is written; on a busy machine torch's own threads may outlive the interpreter
