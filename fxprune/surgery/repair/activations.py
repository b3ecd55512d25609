"""Activations of many batches, in memory as far as allowed, and on disk beyond."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx

GIBIBYTE = 2**30


class Spilled:
    """Stand for a tensor that lies in a file."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self._device = path, device
        weakref.finalize(self, path.unlink, missing_ok=True)  # when nobody holds it any more

    def tensor(self) -> Tensor:
        """Return the tensor, read anew."""
        return load_file(self.path)["value"].to(self._device)


class Memory:
    """Count the bytes of activations, and give a place to those that are too many."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held, self.most = limit, 0, 0
        self._folder: list[tempfile.TemporaryDirectory[str]] = []  # none until it is needed

    def fork(self) -> Memory:
        """Return one that counts on from here, in the same folder."""
        twin = Memory(self.limit)
        twin.held, twin._folder = self.held, self._folder
        return twin

    def kept(self, value: Any, *, shared: bool) -> Any:
        """Return what stands for a value: itself, or a file where memory is short.

        What shares its storage with another value, or will be written to, stays as it is.
        """
        if not isinstance(value, Tensor) or shared:
            return value
        size = bytes_of(value)
        if self.held + size > self.limit and value.layout == torch.strided:
            return self._spilled(value)
        self.held += size
        self.most = max(self.most, self.held)
        return value

    def freed(self, value: Any, *, shared: bool) -> None:
        """Forget a value that nobody reads any more."""
        if isinstance(value, Tensor) and not shared:
            self.held -= bytes_of(value)

    def _spilled(self, value: Tensor) -> Spilled:
        if not self._folder:
            self._folder.append(tempfile.TemporaryDirectory(prefix="fxprune-repair-"))
        path = Path(self._folder[0].name) / f"{uuid4().hex}.safetensors"
        save_file({"value": value.detach().cpu().contiguous()}, path)
        return Spilled(path, value.device)

    def close(self) -> None:
        """Remove all files."""
        while self._folder:
            self._folder.pop().cleanup()


def bytes_of(tensor: Tensor) -> int:
    """Return the bytes of a tensor's entries."""
    return tensor.numel() * tensor.element_size()


class Values(MutableMapping[fx.Node, Any]):
    """Hold the values of one batch by node, those of weights in a mapping that batches share."""

    def __init__(self, weights: MutableMapping[fx.Node, Any]) -> None:
        self._weights, self.own = weights, dict[fx.Node, Any]()

    def __getitem__(self, node: fx.Node) -> Any:
        found = self._weights[node] if node in self._weights else self.own[node]
        return found.tensor() if isinstance(found, Spilled) else found

    def __setitem__(self, node: fx.Node, value: Any) -> None:
        self.own[node] = value

    def __delitem__(self, node: fx.Node) -> None:
        del self.own[node]

    def __iter__(self) -> Iterator[fx.Node]:
        yield from self._weights
        yield from self.own

    def __len__(self) -> int:
        return len(self._weights) + len(self.own)
