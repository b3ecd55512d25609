"""Example inputs as a description that a plan keeps: shapes and types, and nobody's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

PLAIN = (bool, int, float, str, type(None))


def described(
    args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Sequence[str | int] | None = None
) -> dict[str, Any] | None:
    """Return JSON data that `made` makes inputs of, or nothing where they are of unusual types.

    `outputs` are the parts of the result that count, where these are not all.

    >>> described((torch.zeros(2, 3),), {})["args"]
    {'tuple': [{'tensor': [2, 3], 'dtype': 'float32'}]}
    """
    try:
        said = {"args": _said(args), "kwargs": _said(kwargs)}
    except TypeError:
        return None
    return said if outputs is None else {**said, "outputs": list(outputs)}


def counted_of(said: Mapping[str, Any] | None) -> tuple[str | int, ...] | None:
    """Return the parts of the result that count, as a description says."""
    named = (said or {}).get("outputs")
    return None if named is None else tuple(n if type(n) is int else str(n) for n in named)


def _said(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        said: dict[str, Any] = {"tensor": list(value.shape), "dtype": str(value.dtype)[6:]}
        if not (value.is_floating_point() or value.is_complex()) and value.numel():
            # of a tensor without numbers nobody knows more than what every index may be
            said["range"] = [0, 1] if value.is_meta else [int(value.min()), int(value.max())]
        return said
    if type(value) in (list, tuple):
        return {type(value).__name__: [_said(one) for one in value]}
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: _said(one) for key, one in value.items()}}
    if type(value) in PLAIN:
        return value
    raise TypeError(type(value).__name__)


def made(
    said: Mapping[str, Any], device: torch.device, seed: int = 0
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return inputs as a description says, with numbers of their own."""
    noise = torch.Generator().manual_seed(seed)
    return _of(said["args"], noise, device), _of(said["kwargs"], noise, device)


def _of(said: Any, noise: torch.Generator, device: torch.device) -> Any:
    if not isinstance(said, dict):
        return said
    if "tensor" in said:
        return _tensor(said, noise).to(device)
    ((kind, held),) = said.items()
    if kind == "dict":
        return {key: _of(one, noise, device) for key, one in held.items()}
    entries = [_of(one, noise, device) for one in held]
    return tuple(entries) if kind == "tuple" else entries


def _tensor(said: Mapping[str, Any], noise: torch.Generator) -> torch.Tensor:
    shape, dtype = said["tensor"], getattr(torch, said["dtype"])
    if "range" in said:
        low, high = said["range"]
        return torch.randint(low, high + 1, shape, generator=noise).to(dtype)
    return torch.randn(shape, generator=noise).to(dtype)
