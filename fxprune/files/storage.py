"""Give tensors a storage of their own, since files and pickles hold whole storages."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

T = TypeVar("T")
PLAIN = (torch.Tensor, torch.nn.Parameter)


def compacted(tree: T) -> T:
    """Return a tree of tensors of which none drags more into a file than its own numbers.

    A view, such as the first images of a data set, is copied, and views that are the same view
    remain one; tensors that fill their storage are returned as they are.
    """
    apart = _apart(leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor))
    replaced: T = pytree.tree_map(lambda leaf: apart.get(id(leaf), leaf), tree)
    return replaced if apart else tree


def compacted_state(state: T, tensors: Iterable[torch.Tensor]) -> T:
    """Return a state, of whatever objects, with `tensors` in it compacted; other data are shared.

    The objects that hold them are copied where any tensor is.
    """
    held = list(tensors)
    apart = _apart(held)
    memo: dict[int, Any] = {id(one): one for one in held}
    return copy.deepcopy(state, memo | apart) if apart else state


def _apart(tensors: Iterable[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Return copies of the tensors that are a part of their storage, by the tensor's identity.

    Views of a storage that another of the tensors fills go into the file with that one.
    """
    storages: dict[int, list[torch.Tensor]] = defaultdict(list)
    for tensor in tensors:
        if type(tensor) in PLAIN and tensor.layout is torch.strided and not tensor.is_meta:
            storages[tensor.untyped_storage().data_ptr()].append(tensor)
    copies: dict[int, torch.Tensor] = {}
    for views in storages.values():
        whole = views[0].untyped_storage().nbytes()
        if any(view.nbytes >= whole for view in views):
            continue
        made: dict[Any, torch.Tensor] = {}
        for view in views:
            how = view.dtype, view.storage_offset(), view.shape, view.stride(), type(view)
            copies[id(view)] = made.setdefault(how, _copy(view))
    return copies


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    clone = tensor.detach().clone()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(clone, tensor.requires_grad)
    return clone.requires_grad_(tensor.requires_grad)
