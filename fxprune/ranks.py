"""Agree over the processes of a `torch.distributed` job; alone, everything is as it is.

Each process feeds its own share of the batches; what is summed is summed over all of them, so that
every process sees the same scores and takes the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

T = TypeVar("T")


def many() -> bool:
    """Tell whether there is more than one process in the job."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    return int(distributed.get_world_size()) > 1


def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an array summed over all processes."""
    if not many():
        return values
    tensor = _placed(torch.from_numpy(np.ascontiguousarray(values)).clone())
    distributed.all_reduce(tensor)
    return tensor.cpu().numpy().astype(np.float64)


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor summed over all processes."""
    if not many():
        return tensor
    whole = _placed(tensor.detach().clone())
    distributed.all_reduce(whole)
    return whole.to(tensor.device)


def mean(value: float) -> float:
    """Return a number averaged over all processes."""
    if not many():
        return value
    whole = total(np.array([value]))
    return float(whole[0]) / int(distributed.get_world_size())


def first() -> bool:
    """Tell whether this process is the one that writes files and shows progress."""
    return not many() or int(distributed.get_rank()) == 0


def together(action: Callable[[], T]) -> T:
    """Return what an action of this process gives; where it fails in any process, all raise.

    Without this, the others would wait for the one that failed until they time out.
    """
    if not many():
        return action()
    failure: Exception | None = None
    result: list[T] = []
    try:
        result.append(action())
    except Exception as error:
        failure = error
    failed = total(np.array([float(failure is not None)]))[0] > 0
    if failure is not None:
        raise failure
    if failed:
        raise RuntimeError("another process of the job failed; see what it says")
    return result[0]


def _placed(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor where the backend can read it: NCCL needs it on the GPU."""
    return tensor.cuda() if distributed.get_backend() == "nccl" else tensor
