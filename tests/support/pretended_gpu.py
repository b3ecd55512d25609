"""A GPU to test on where there is none: tensors on the CPU that say they are on "cuda".

Whatever is computed of such a tensor is one, and a call that mixes them with tensors of the CPU
raises what a GPU raises. Fake tensors of the device are torch's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

GPU = torch.device("cuda", 0)
# what takes data or indices of the CPU
MAY_MIX = ("copy_", "index.Tensor", "index_put", "__getitem__", "__set__")


class PretendedGpu(TorchFunctionMode):
    """Keep account of which tensors are on the GPU; `made` notes what was made on the CPU."""

    def __init__(self) -> None:
        self._storages: dict[int, Any] = {}  # held, so that no address is used twice

    def put(self, tree: Any) -> Any:
        """Say of all tensors in a tree, or of a module, that they are on the GPU."""
        held = [*tree.parameters(), *tree.buffers()] if isinstance(tree, torch.nn.Module) else tree
        for leaf in pytree.tree_leaves(held):
            if isinstance(leaf, Tensor) and not isinstance(leaf, FakeTensor):
                storage = leaf.untyped_storage()
                self._storages[storage._cdata] = storage
        return tree

    def holds(self, tensor: Any) -> bool:
        """Tell whether a tensor is on the GPU."""
        if not isinstance(tensor, Tensor) or isinstance(tensor, FakeTensor):
            return False
        return tensor.untyped_storage()._cdata in self._storages

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = str(getattr(func, "__name__", ""))
        leaves = pytree.tree_leaves((args, kwargs))
        if name == "__get__" and getattr(func, "__self__", None) is Tensor.device:
            return GPU if self.holds(args[0]) else func(*args)
        if detect_fake_mode() is not None or any(isinstance(one, FakeTensor) for one in leaves):
            return func(*args, **kwargs)
        if name == "__get__" and getattr(func, "__self__", None) is Tensor.is_cuda:
            return self.holds(args[0])
        if name == "register_hook" and self.holds(args[0]):
            return func(args[0], lambda gradient: args[1](self.put(gradient)))
        tensors = [one for one in leaves if isinstance(one, Tensor)]
        here = [one for one in tensors if self.holds(one)]
        devices = [one for one in leaves if isinstance(one, torch.device)]
        words = [one for one in leaves if isinstance(one, str)]
        devices += [torch.device(one) for one in words if one in ("cpu", "cuda", "meta")]
        if name == "cpu" or (devices and devices[-1].type == "cpu"):
            result = func(*args, **kwargs)
            return result.detach().clone() if name in ("cpu", "to") and here else result
        if devices and devices[-1].type == "cuda":
            if func is torch.device or name == "_parse_to":
                return func(*args, **kwargs)
            args, kwargs = pytree.tree_map(_on_cpu, (args, kwargs))
            return self.put(func(*args, **kwargs).clone())
        away = [one for one in tensors if one.ndim and not self.holds(one)]
        if here and away and not any(word in name for word in MAY_MIX):
            raise RuntimeError(f"{name}: all tensors must be on one device, not cuda:0 and cpu")
        result = func(*args, **kwargs)
        return self.put(result) if here else result


def _on_cpu(leaf: Any) -> Any:
    if isinstance(leaf, torch.device) or (isinstance(leaf, str) and leaf == "cuda"):
        return torch.device("cpu")
    return leaf
