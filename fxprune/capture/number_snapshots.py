"""How arrays, tensors and generators of random numbers are kept, so that they can be put back."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from fxprune.capture.snapshots import NOTHING, Put, Snapshot, snapshot


@snapshot.register
def _(one: np.ndarray) -> Snapshot:
    if not one.flags.writeable:
        return NOTHING
    was = one.copy()
    return functools.partial(_put_array, one, was), ()


def _put_array(one: Any, was: Any) -> list[Any]:
    if one.dtype.hasobject or one.tobytes() == was.tobytes():
        return []
    one[...] = was
    return [None]


@snapshot.register
def _(one: torch.Tensor) -> Snapshot:
    """Keep what a tensor is to autograd and where its data lie; the data are not copied."""
    inside = [(None, vars(one))]
    if type(one) not in (torch.Tensor, torch.nn.Parameter) or one.layout != torch.strided:
        return None, inside
    return functools.partial(_put_tensor, one, one.detach(), one.requires_grad, _grad(one)), inside


def _put_tensor(one: Any, was: Any, requires_grad: bool, grad: Any) -> list[Any]:
    changed = _where(one) != _where(was)
    if changed:
        one.data = was
    if one.requires_grad is not requires_grad and one.is_leaf:
        one.requires_grad_(requires_grad)
        changed = True
    if _grad(one) is not grad:
        one.grad = grad
        changed = True
    return [None] if changed else []


def data(one: torch.Tensor) -> Put | None:
    """Return what puts the numbers of a tensor back, for which they are copied."""
    if type(one) is not torch.Tensor or one.layout != torch.strided or one.is_meta:
        return None
    with torch.no_grad():
        return functools.partial(_put_data, one, one.detach().clone())


def _put_data(one: torch.Tensor, was: torch.Tensor) -> list[Any]:
    with torch.no_grad():
        if bool(((one == was) | ((one != one) & (was != was))).all()):
            return []
        one.copy_(was)
    return [None]


def _grad(one: torch.Tensor) -> Any:
    return one.grad if one.is_leaf else None


def _where(one: torch.Tensor) -> tuple[Any, ...]:
    address = 0 if one.is_meta else one.data_ptr()
    return one.device, address, one.shape, one.stride(), one.dtype


@snapshot.register
def _(one: torch.Generator) -> Snapshot:
    was = one.get_state()
    return functools.partial(_put_state, lambda: one.set_state(was)), ()


@snapshot.register
def _(one: random.Random) -> Snapshot:
    was = one.getstate()
    return functools.partial(_put_state, lambda: one.setstate(was)), ()


@snapshot.register
def _(one: np.random.Generator) -> Snapshot:
    return None, [("bit_generator", one.bit_generator)]


@snapshot.register(np.random.BitGenerator)
def _(one: Any) -> Snapshot:
    was = one.state
    return functools.partial(_put_state, lambda: setattr(one, "state", was)), ()


@snapshot.register
def _(one: np.random.RandomState) -> Snapshot:
    was = one.get_state()
    return functools.partial(_put_state, lambda: one.set_state(was)), ()


def _put_state(put: Callable[[], Any]) -> list[Any]:
    """Set a generator of random numbers back: what was drawn changes nothing that is told."""
    put()
    return []


def shared_generators(tensors: Iterable[torch.Tensor]) -> Iterator[Put]:
    """Yield what puts the generators back that everybody draws from."""
    random_state, numpy_state = random.getstate(), np.random.get_state()
    cpu = torch.get_rng_state()
    yield functools.partial(_put_state, lambda: random.setstate(random_state))
    yield functools.partial(_put_state, lambda: np.random.set_state(numpy_state))
    yield functools.partial(_put_state, lambda: torch.set_rng_state(cpu))
    for device in {one.device for one in tensors if one.device.type not in ("cpu", "meta")}:
        of = torch.get_device_module(device)
        if not getattr(of, "is_initialized", of.is_available)():
            continue  # the tensors are there in name only
        state = of.get_rng_state(device)
        yield functools.partial(_put_state, functools.partial(of.set_rng_state, state, device))
