"""Let a forward run for real, and undo whatever it does to what it did not make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxprune.capture.untouched import untouched


@contextmanager
def trial(*roots: Any) -> Iterator[None]:
    """Put everything that is reachable from `roots` back in the end, data of tensors included.

    Of tensors only those are copied that are written to, before they are.
    """
    with untouched(*roots) as held:
        mode = _Writes({key for one, _ in held.tensors if (key := _key(one))})
        try:
            with mode:
                yield
        finally:
            for storage, was in mode.copies.values():
                if storage.nbytes() != was.nbytes():
                    storage.resize_(was.nbytes())
                storage.copy_(was)


class _Writes(TorchDispatchMode):
    """Copy a storage of the caller's before an operator writes to it."""

    def __init__(self, theirs: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._theirs = theirs
        self.copies: dict[int, tuple[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for place, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    given = args[place] if place < len(args) else kwargs.get(argument.name)
                    self._copy(given)
        return func(*args, **kwargs)

    def _copy(self, given: Any) -> None:
        for one in pytree.tree_leaves(given):
            key = _key(one) if isinstance(one, torch.Tensor) else 0
            if key in self._theirs and key not in self.copies:
                storage = one.untyped_storage()
                self.copies[key] = storage, storage.clone()


def _key(one: torch.Tensor) -> int:
    """Return where the data of a tensor are; 0 for those without."""
    if one.layout != torch.strided or one.is_meta:
        return 0
    return one.untyped_storage().data_ptr()
