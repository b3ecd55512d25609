"""Agree over the processes of a `torch.distributed` job; alone, everything is as it is.

Each process feeds its own share of the batches; what is summed is summed over all of them, so that
every process sees the same scores and makes the same choices.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from fxprune import errors
from fxprune.errors import first_line

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


def totals(arrays: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Return several arrays summed over all processes, in one message."""
    if not many() or not arrays:
        return [*arrays]
    whole = total(np.concatenate([one.ravel() for one in arrays]))
    ends = np.cumsum([one.size for one in arrays])[:-1]
    return [
        part.reshape(one.shape) for part, one in zip(np.split(whole, ends), arrays, strict=True)
    ]


def mean(value: float) -> float:
    """Return a number averaged over all processes."""
    if not many():
        return value
    whole = total(np.array([value]))
    return float(whole[0]) / int(distributed.get_world_size())


def average(tensors: MutableMapping[str, torch.Tensor]) -> None:
    """Average tensors by name over all processes; one that a process lacks is zero there."""
    if not many():
        return
    mine = {name: (tuple(one.shape), one.dtype, str(one.device)) for name, one in tensors.items()}
    forms: dict[str, Any] = {}
    for other in _gathered(mine):
        forms |= {name: form for name, form in other.items() if name not in forms}
    for name in sorted(forms):  # in one order everywhere
        shape, dtype, device = forms[name]
        here = tensors.get(name)
        whole = summed(torch.zeros(shape, dtype=dtype, device=device) if here is None else here)
        tensors[name] = whole / int(distributed.get_world_size())


def agreed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the array of the first process, in every process."""
    if not many():
        return values
    tensor = _placed(torch.from_numpy(np.ascontiguousarray(values)).clone())
    distributed.broadcast(tensor, 0)
    return tensor.cpu().numpy().astype(np.float64)


def first() -> bool:
    """Tell whether this process is the one that writes files and shows progress."""
    return not many() or int(distributed.get_rank()) == 0


def together(action: Callable[[], T]) -> T:
    """Return what an action of this process gives; where it fails in any process, all raise.

    Without this, the others would wait for the one that failed until they time out. They raise
    what it says with its number, as the same kind of error where it is one of fxprune's. The action
    must not wait for the other processes itself.
    """
    if not many():
        return action()
    failure: Exception | None = None
    result: list[T] = []
    try:
        result.append(action())
    except Exception as error:
        failure = error
    if total(np.array([float(failure is not None)]))[0] == 0:
        return result[0]
    said = _gathered((type(failure).__name__, first_line(failure)) if failure else None)
    if failure is not None:
        raise failure
    number, (kind, line) = next((k, one) for k, one in enumerate(said) if one is not None)
    known: type[Exception] = getattr(errors, kind, errors.CallbackError)
    raise known(f"process {number} of the job: {line}")


def _gathered(mine: Any) -> list[Any]:
    """Return what every process holds, in the order of their numbers."""
    every: list[Any] = [None] * int(distributed.get_world_size())
    distributed.all_gather_object(every, mine)
    return every


def from_first(action: Callable[[], T]) -> T:
    """Return what an action gives in the first process, in all of them; where it fails, all raise.

    What it gives is pickled on its way.
    """
    if not many():
        return action()
    told: list[tuple[bool, T] | None] = [None]
    failure: BaseException | None = None
    try:
        told = [(True, action())] if first() else told
    except BaseException as error:
        failure = error
    distributed.broadcast_object_list(told, src=0)
    if failure is not None:
        raise failure
    if told[0] is None:
        raise RuntimeError("the first process of the job failed; see what it says")
    return told[0][1]


def _placed(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor where the backend can read it: NCCL needs it on the GPU."""
    return tensor.cuda() if distributed.get_backend() == "nccl" else tensor
