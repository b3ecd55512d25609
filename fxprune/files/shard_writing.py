"""Write a file of safetensors tensor by tensor, so that no more than a piece of one is held.

The format is a length of eight bytes, a header in JSON that names types, shapes and places, and
then the bytes of all tensors (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fxprune.errors import FileError
from fxprune.files.atomic import atomic_write

Numbers: TypeAlias = NDArray[Any]
ALIGNED = 8  # bytes: where the tensors begin


@dataclass(frozen=True)
class Laid:
    """Hold the name of a tensor to write, its type as safetensors calls it, shape and bytes."""

    name: str
    stored: str
    shape: tuple[int, ...]
    bytes: int


def header(laid: Sequence[Laid], metadata: Mapping[str, str] | None) -> bytes:
    """Return what stands before the tensors, which follow in the order that is given."""
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for one in laid:
        places = [at, at + one.bytes]
        table[one.name] = {"dtype": one.stored, "shape": one.shape, "data_offsets": places}
        at += one.bytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNED)
    return len(text).to_bytes(8, "little") + text


def write_shard(
    path: Path,
    laid: Sequence[Laid],
    metadata: Mapping[str, str] | None,
    pieces: Callable[[str], Iterable[Numbers]],
) -> None:
    """Write a file atomically; `pieces` are the parts of a tensor, one after the other.

    Raises FileError where it cannot be written, or where the pieces are not what was announced.
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(header(laid, metadata))
        for one in laid:
            count = 0
            for piece in pieces(one.name):
                count += file.write(_bytes(piece))
            if count != one.bytes:
                raise FileError(f"{path}: {one.name} has {count} bytes, not {one.bytes}")


def _bytes(piece: Numbers) -> memoryview:
    return np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data
