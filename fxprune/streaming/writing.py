"""Cut stored tensors to what a plan keeps, and write them shard by shard, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch

from fxprune.files.shard_writing import Laid, Numbers, header, write_shard
from fxprune.files.shards import Shards
from fxprune.streaming.meter import Meter

Kept: TypeAlias = Mapping[str, tuple[torch.Tensor, ...]]  # indices of every axis, by name
PIECE = 1 << 22  # bytes that are cut and written at a time: they fit into a cache
# what cuts and copies any numbers of so many bytes
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def laid(shards: Shards, shard: str, kept: Kept) -> list[Laid]:
    """Return what the smaller shard will hold, in the order of the given one."""
    found = []
    for name, entry in shards.of_shard(shard).items():
        axes = kept.get(name)
        shape = entry.shape if axes is None else tuple(map(len, axes))
        found.append(Laid(name, entry.stored, shape, entry.bytes_of(shape)))
    return found


def size_of(shards: Shards, shard: str, kept: Kept) -> int:
    """Return the bytes of the file that `cut_shard` writes."""
    listed = laid(shards, shard, kept)
    return len(header(listed, shards.metadata[shard])) + sum(one.bytes for one in listed)


def cut_shard(shards: Shards, shard: str, kept: Kept, path: Path, meter: Meter) -> None:
    """Write what is kept of a shard into a file, atomically; raises FileError."""

    def of(name: str) -> Iterator[Numbers]:
        tensor = shards.tensor(name)
        yield from pieces(tensor, kept.get(name))
        meter.count(tensor.nbytes)

    write_shard(path, laid(shards, shard, kept), shards.metadata[shard], of)


def pieces(
    tensor: torch.Tensor, axes: Sequence[torch.Tensor] | None, limit: int = PIECE
) -> Iterator[Numbers]:
    """Yield what is kept of a tensor, some rows at a time, as numbers of as many bits.

    >>> whole = torch.arange(12).reshape(4, 3)
    >>> [one.tolist() for one in pieces(whole, (torch.tensor([0, 3]), torch.tensor([1])), 24)]
    [[[1]], [[10]]]
    """
    bits = BITS.get(tensor.element_size())
    whole: Numbers = (tensor.view(bits) if bits is not None else tensor).numpy()
    if not whole.ndim:
        yield whole
        return
    indices = [index.numpy() for index in axes or ()]
    cuts = [(d, index) for d, index in enumerate(indices) if len(index) != whole.shape[d]]
    rows = next((index for d, index in cuts if not d), None)
    count = len(whole) if rows is None else len(rows)
    step = max(1, limit * len(whole) // max(1, whole.nbytes))
    for start in range(0, count, step):
        some = slice(start, start + step)
        piece = whole[some] if rows is None else whole.take(rows[some], axis=0)
        for d, index in cuts:
            piece = piece.take(index, axis=d) if d else piece  # three times as fast as torch's
        yield piece
